"""The files that come with the package: search spaces and published networks."""

import os
from collections.abc import Sequence
from pathlib import Path

from nas.errors import NasError


def spaces_folder() -> Path:
    """Where they lie: inside an installed package, beside it in a checkout."""
    package = Path(__file__).parent
    inside = package / "search_spaces"
    return inside if inside.is_dir() else package.parent / "search_spaces"


def default_space(input_shape: Sequence[int]) -> str:
    """Name of the shipped space that a new study of images of that shape, (channels, height, width), draws from."""
    return "grey" if input_shape[0] == 1 else "rgb"


def shipped_spaces() -> dict[str, Path]:
    """The search spaces, by name."""
    return _shipped("", ".toml")


def shipped_designs() -> dict[str, Path]:
    """The known designs that a space's portfolio may name, by name."""
    return _shipped("portfolio", ".json")


def shipped_or_file(name_or_path: str | Path, *, folder: str, suffix: str, what: str, error: type[NasError]) -> Path:
    """The file of that name among the shipped ones in a folder of theirs, or the path as it is if it looks like one."""
    path = Path(name_or_path)
    if path.suffix or len(path.parts) > 1 or os.path.isfile(path):  # not Path's, which raises where a name is too long
        return path
    shipped = _shipped(folder, suffix)
    if path.name not in shipped:
        raise error(f"no {what} {path.name!r}, allowed: {', '.join(shipped)}, or a {suffix} file")
    return shipped[path.name]


def _shipped(folder: str, suffix: str) -> dict[str, Path]:
    return {file.stem: file for file in sorted((spaces_folder() / folder).glob(f"*{suffix}"))}
