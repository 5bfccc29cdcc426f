"""Stores weights and dashboard files in Optuna's artifact store beside the database."""

import pickle
import struct
import tempfile
import uuid
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from optuna.artifacts import FileSystemArtifactStore

from nas.architecture.architecture import Architecture
from nas.errors import StudyError, first_line, found, named
from nas.study.optuna_storage import artifact_link

if TYPE_CHECKING:
    from torch import Tensor

FOLDER = "artifacts"

MIMETYPES = {
    ".pt": "application/octet-stream",
    ".svg": "image/svg+xml",
    ".csv": "text/csv",
    ".json": "application/json",
}


class Artifacts:
    """The artifacts below a results folder."""

    def __init__(self, results: Path) -> None:
        self.folder = results / FOLDER

    def store(self, *, make: bool = True) -> FileSystemArtifactStore:
        """Optuna's view of them; unless told not to it makes the folder."""
        if make:
            self.folder.mkdir(parents=True, exist_ok=True)
        return FileSystemArtifactStore(str(self.folder))

    def prepare(self) -> None:
        """Makes the folder; raises `OSError` where nothing could be written to it."""
        self.store()
        with tempfile.TemporaryFile(dir=self.folder):
            pass

    def write(self, content: bytes, name: str = "weights.pt") -> tuple[str, dict[str, str]]:
        """Stores a file; returns its ID and the system attribute that links it to its owner.

        The file is there whole or not at all: a killed process leaves at most one that nothing refers to.
        """
        artifact_id = str(uuid.uuid4())
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / f".{artifact_id}.part"
        try:
            part.write_bytes(content)
            part.replace(self.folder / artifact_id)
        except OSError:
            part.unlink(missing_ok=True)
            raise
        return artifact_id, artifact_link(artifact_id, filename=name, mimetype=MIMETYPES[Path(name).suffix])

    def sweep(self) -> None:
        """Removes what killed processes had half-written; call it where nobody is writing."""
        for part in self.folder.glob(".*.part"):
            part.unlink(missing_ok=True)

    def download(self, name: str, what: str, architecture: Architecture) -> "dict[str, Tensor]":
        """The state dict in an artifact, on the CPU, which fits the network; `what` names it should it not be there.

        Raises `StudyError` where it cannot be read, is damaged, or of another network. Nothing in the file is executed.
        """
        import torch

        if Path(name).name != name or not name.isprintable():  # a path would lead out of the folder
            raise StudyError(f"{self.folder}: {what}: {found(name)}, allowed: the name of a file in it")
        path = self.folder / name
        try:
            opened = path.open("rb")
        except OSError as error:
            reason = "missing" if isinstance(error, FileNotFoundError) else error.strerror
            raise StudyError(f"{path}: {reason}, it held {what}") from None
        try:
            with warnings.catch_warnings(), opened as file:
                warnings.simplefilter("ignore")  # torch warns of some foreign files before it refuses them
                _check_archive(file)
                state = torch.load(file, map_location="cpu", weights_only=True)
        except UNREADABLE as error:
            raise StudyError(f"{path}: damaged, it held {what} ({first_line(error)[:100]!r})") from None
        if difference := _difference(state, architecture):
            raise StudyError(f"{path}: damaged, it held {what}: {difference}")
        weights: dict[str, Tensor] = state
        return weights


UNREADABLE = (
    *(OSError, EOFError, zipfile.BadZipFile, zlib.error, struct.error, pickle.UnpicklingError),
    *(RuntimeError, MemoryError),
    *(ValueError, LookupError, TypeError, AttributeError, AssertionError, ArithmeticError),
)
"""What reading raises: the unpickler runs the file's opcodes, each of which fails in its own way on nonsense."""


def _check_archive(file: BinaryIO) -> None:
    """Raises unless it is an archive as `torch.save` writes it, every byte as it was written.

    Torch itself does not look at the checksums: flipped bits would come back as other weights.
    """
    with zipfile.ZipFile(file) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise zipfile.BadZipFile("compressed, which torch.save does not do")
        if (name := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"bad checksum of {name}")
    file.seek(0)


def _difference(state: object, architecture: Architecture) -> str:
    """In what a state dict is not one of the network's; empty if it is."""
    import torch

    try:
        with torch.device("meta"):  # shapes without memory
            wanted = architecture.build().state_dict()
    except RuntimeError as error:  # of sizes that torch cannot count
        return f"its network cannot be built: {first_line(error)}"
    if not isinstance(state, dict) or not all(
        isinstance(value, torch.Tensor) and value.device.type == "cpu" for value in state.values()
    ):
        return f"{type(state).__name__} found, allowed: a state dict"
    if odd := state.keys() ^ wanted.keys():
        return f"{named(odd)} in one alone of the file and the network"
    for name, tensor in wanted.items():
        it = state[name]
        if (it.shape, it.dtype, it.layout) != (tensor.shape, tensor.dtype, tensor.layout):
            return f"{name} is {it.dtype} {tuple(it.shape)}, allowed: {tensor.dtype} {tuple(tensor.shape)}"
        if it.isnan().any():
            return f"{name} holds nan"
    return ""
