"""Artifacts: weights, and what the dashboard shows, in Optuna's artifact store, a folder beside the database."""

import pickle
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
from optuna.artifacts import FileSystemArtifactStore, download_artifact, upload_artifact
from optuna.artifacts.exceptions import ArtifactNotFound

from nas.errors import StudyError

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

    def upload(self, content: bytes, owner: optuna.Trial | optuna.Study, *, name: str = "weights.pt") -> str:
        """Stores a file of that name, a state dict as `torch.save` writes it unless told otherwise; its identifier."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_bytes(content)
            return upload_artifact(
                artifact_store=self.store(),
                file_path=str(path),
                study_or_trial=owner,
                mimetype=MIMETYPES[path.suffix],
            )

    def download(self, name: str, what: str) -> "dict[str, Tensor]":
        """The state dict in an artifact, on the CPU; `what` names it should it be missing or damaged."""
        import torch

        where = self.folder / name
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "weights.pt"
            try:
                download_artifact(artifact_store=self.store(), file_path=str(path), artifact_id=name)
            except ArtifactNotFound:
                raise StudyError(f"{where}: missing, it held {what}") from None
            try:
                state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
            except (pickle.UnpicklingError, EOFError, RuntimeError, OSError):  # as the damage is
                raise StudyError(f"{where}: damaged, it held {what}") from None
        return state
