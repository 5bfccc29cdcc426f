"""Writes an export into a temporary folder and renames it to its target."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from nas.errors import NasError, names_text
from nas.exporters.formats import PROJECTS

FILES = (
    "README.md",
    "model.py",
    "predict.py",
    "weights.pt",
    "model.safetensors",
    "model.onnx",
    "model.pt2",
    "architecture.json",
    "recipe.json",
)
OPTIONAL_FILES = (
    *("model_int8.onnx", "network.h", "network.c", "network_int8.h", "network_int8.c"),
    *(f"{kind}/{path}" for kind, paths in PROJECTS.items() for path in paths),
)
LEFT_BY_USE = ("__pycache__", "makefile/build")
WRITABLE = "a new or empty folder, or an earlier export"


def check_output(output: Path) -> Path:
    """Returns `output` with links resolved and creates its parent folder; raises `NasError` unless it can be written.

    Call this before a long training run, so that a wrong path fails early.
    """
    output = Path(os.path.realpath(output))  # `Path.resolve` may raise RuntimeError for circular links
    try:
        if output.is_symlink():
            raise NasError(f"{output}: a broken link found, expected {WRITABLE}")
        if output.exists():
            if not output.is_dir():
                raise NasError(f"{output}: a file found, expected {WRITABLE}")
            if foreign := next(_foreign(output), None):
                raise NasError(f"{output}: {names_text([foreign])} found, which no export writes, expected {WRITABLE}")
        output.parent.mkdir(parents=True, exist_ok=True)
        try:
            with tempfile.TemporaryDirectory(dir=output.parent):
                pass
        except OSError as error:  # `error.filename` is a random temporary name
            raise NasError(f"{output.parent}: {error.strerror}") from None
    except OSError as error:
        raise NasError(f"{error.filename or output}: {error.strerror}") from None
    return output


def _foreign(folder: Path, inside: str = "") -> Iterator[str]:
    """Yields the paths that no export writes, relative to its folder, in the part of it that `inside` names."""
    for path in sorted(folder.iterdir()):
        name = f"{inside}{path.name}"
        if name in LEFT_BY_USE:
            continue
        if path.is_dir() and any(file.startswith(f"{name}/") for file in OPTIONAL_FILES):
            yield from _foreign(path, f"{name}/")
        elif name not in (*FILES, *OPTIONAL_FILES):
            yield name


@contextlib.contextmanager
def replace_folder(output: Path) -> Iterator[Path]:
    """Yields an empty folder and moves it to `output` at the end; leaves `output` unchanged after an error.

    If `output` is a link, the folder that it points to is replaced.
    """
    output = check_output(output)
    try:
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=".export-") as temporary:
            new, old = Path(temporary) / "new", Path(temporary) / "old"
            new.mkdir()
            yield new
            # A non-empty folder cannot be replaced atomically: between the two renames `output` does not exist.
            if output.exists():
                output.rename(old)
            try:
                new.rename(output)
            except OSError:
                if old.exists():
                    old.rename(output)
                raise
    except OSError as error:
        raise NasError(f"{error.filename or output}: {error.strerror}") from None


def copy_package_file(source: str, folder: Path) -> None:
    """Copies a file of this package, such as predict.py, unchanged into `folder`."""
    shutil.copyfile(Path(__file__).with_name(source), folder / source)
