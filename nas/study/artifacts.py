"""Stores weights and dashboard files in Optuna's artifact store, a folder of the results folder."""

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
from nas.errors import StudyError, first_line, names_text, short_repr
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
    """The artifact store of a results folder."""

    def __init__(self, results: Path) -> None:
        self.folder = results / FOLDER

    def store(self, *, create_folder: bool = True) -> FileSystemArtifactStore:
        """Returns Optuna's artifact store; creates its folder if `create_folder` is true."""
        if create_folder:
            self.folder.mkdir(parents=True, exist_ok=True)
        return FileSystemArtifactStore(str(self.folder))

    def prepare(self) -> None:
        """Creates the folder; raises `OSError` if it is not writable."""
        self.store()
        with tempfile.TemporaryFile(dir=self.folder):
            pass

    def write(self, content: bytes, name: str = "weights.pt") -> tuple[str, dict[str, str]]:
        """Stores a file; returns its artifact ID and the system attribute that links it to a trial or study.

        The file is written under a temporary name and then renamed, so an artifact is never incomplete. A process that
        is killed leaves at most a file that nothing refers to. The suffix of `name` determines the MIME type.
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

    def delete_incomplete_files(self) -> None:
        """Deletes incomplete files of killed processes; must not run while another process writes."""
        for part in self.folder.glob(".*.part"):
            part.unlink(missing_ok=True)

    def read_state_dict(self, name: str, what: str, architecture: Architecture) -> "dict[str, Tensor]":
        """Returns the state dict in an artifact, on the CPU. Nothing in the file is executed.

        Args:
            name: Artifact ID.
            what: Description of the artifact for error messages, such as "the weights of trial 3".
            architecture: Network that the state dict must fit.

        Raises:
            StudyError: The file is missing, unreadable or damaged, or belongs to another network.
        """
        import torch

        if Path(name).name != name or not name.isprintable():  # a path could lead out of the folder
            raise StudyError(
                f"{self.folder}: {what}: {short_repr(name)} found, expected the name of a file in this folder"
            )
        path = self.folder / name
        try:
            opened = path.open("rb")
        except OSError as error:
            reason = "the file is missing" if isinstance(error, FileNotFoundError) else error.strerror
            raise StudyError(f"{path}: {what} cannot be read: {reason}") from None
        try:
            with warnings.catch_warnings(), opened as file:
                warnings.simplefilter("ignore")  # torch warns about some invalid files before it rejects them
                _check_archive(file)
                state = torch.load(file, map_location="cpu", weights_only=True)
        except READ_ERRORS as error:
            reason = f"the file is damaged ({first_line(error)[:100]!r})"
            raise StudyError(f"{path}: {what} cannot be read: {reason}") from None
        if difference := _state_dict_difference(state, architecture):
            raise StudyError(f"{path}: {what} cannot be read: {difference}")
        weights: dict[str, Tensor] = state
        return weights


READ_ERRORS = (
    *(OSError, EOFError, zipfile.BadZipFile, zlib.error, struct.error, pickle.UnpicklingError),
    *(RuntimeError, MemoryError),
    *(ValueError, LookupError, TypeError, AttributeError, AssertionError, ArithmeticError),
)
"""Errors that reading a damaged file may raise: each opcode of the unpickler fails in its own way on invalid data."""


def _check_archive(file: BinaryIO) -> None:
    """Raises unless the file is what `torch.save` writes: an uncompressed zip archive with correct checksums.

    torch does not verify the checksums: flipped bits would load as different weights.
    """
    with zipfile.ZipFile(file) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise zipfile.BadZipFile("compressed, which torch.save does not do")
        if (name := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"bad checksum of {name}")
    file.seek(0)


def _state_dict_difference(state: object, architecture: Architecture) -> str:
    """Returns how a state dict differs from that of the network; empty if it fits."""
    import torch

    try:
        with torch.device("meta"):  # shapes only, without allocating memory
            wanted = architecture.build().state_dict()
    except RuntimeError as error:  # sizes that are too large for torch
        return f"the network cannot be built: {first_line(error)}"
    if not isinstance(state, dict) or not all(
        isinstance(value, torch.Tensor) and value.device.type == "cpu" for value in state.values()
    ):
        return f"{type(state).__name__} found, expected a state dict"
    if in_one := state.keys() ^ wanted.keys():
        return f"{names_text(in_one)} found in only one of the file and the network"
    for name, tensor in wanted.items():
        found = state[name]
        if (found.shape, found.dtype, found.layout) != (tensor.shape, tensor.dtype, tensor.layout):
            return f"{name} is {found.dtype} {tuple(found.shape)}, expected {tensor.dtype} {tuple(tensor.shape)}"
        if found.isnan().any():
            return f"{name} contains nan"
    return ""
