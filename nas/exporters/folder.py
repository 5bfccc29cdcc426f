"""Writes an export into a temporary folder and renames it to its target."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from nas.errors import NasError

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
EXTRA = ("model_int8.onnx", "network.h", "network.c")
LEFT_BY_USE = ("__pycache__",)


def check_output(output: Path) -> Path:
    """The folder that is meant, links followed; raises `NasError` unless it can be written.

    To be asked before a long training, not after it.
    """
    output = Path(os.path.realpath(output))  # `Path.resolve` has an error of its own for links that lead in a circle
    try:
        if output.is_symlink():
            raise NasError(f"{output}: a link that leads nowhere, allowed: a new or empty folder, or a link to one")
        if output.exists():
            if not output.is_dir():
                raise NasError(f"{output}: not a folder, allowed: a new or empty folder, or one of an earlier export")
            names = sorted(path.name for path in output.iterdir())
            if foreign := [name for name in names if name not in (*FILES, *EXTRA, *LEFT_BY_USE)]:
                text = "allowed: a new or empty folder, or one that holds an earlier export alone"
                raise NasError(f"{output}: {foreign[0]} is in it, which no export wrote; {text}")
        output.parent.mkdir(parents=True, exist_ok=True)
        try:
            with tempfile.TemporaryDirectory(dir=output.parent):
                pass
        except OSError as error:  # its own name would say nothing
            raise NasError(f"{output.parent}: {error.strerror}") from None
    except OSError as error:
        raise NasError(f"{error.filename or output}: {error.strerror}") from None
    return output


@contextlib.contextmanager
def replacing(output: Path) -> Iterator[Path]:
    """A folder to write into, which takes `output`'s place at the end; where anything fails all is as before.

    A link stays one: the folder that it leads to is replaced.
    """
    output = check_output(output)
    try:
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=".export-") as temporary:
            new, old = Path(temporary) / "new", Path(temporary) / "old"
            new.mkdir()
            yield new
            # A folder that is not empty cannot be replaced in one step. In between there is none, not half a one.
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


def copy_beside(source: str, folder: Path) -> None:
    """A file of this package as it stands, such as predict.py."""
    shutil.copyfile(Path(__file__).with_name(source), folder / source)
