"""Finds the files shipped with the package: search spaces, known designs and published networks."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from nas.errors import ArchitectureError, NasError, one_of, short_repr, suggestion


def spaces_folder() -> Path:
    """Returns the folder of shipped files: inside an installed package, beside it in a checkout."""
    package = Path(__file__).parent
    inside = package / "search_spaces"
    return inside if inside.is_dir() else package.parent / "search_spaces"


def default_space(input_shape: Sequence[int]) -> str:
    """Returns the name of the default search space for images of shape (channels, height, width)."""
    return "grey" if input_shape[0] == 1 else "rgb"


def shipped_spaces() -> dict[str, Path]:
    """Returns the files of the shipped search spaces by name."""
    return _shipped("", ".toml")


def shipped_designs() -> dict[str, Path]:
    """Returns the files of the known designs by name; a space's portfolio may name them."""
    return _shipped("designs", ".json")


def known_networks() -> dict[str, Path]:
    """Returns the files of all known networks by name: published architectures, and designs, which have a recipe, too.

    A design replaces the published architecture of the same name, which is the same network.
    """
    return dict(sorted({**_shipped("published", ".json"), **shipped_designs()}.items()))


def network_file(name_or_path: str | Path) -> Path:
    """Returns the file of a network: of a known one by its name, `architecture.json` in a folder, or the path itself.

    A folder that has the name of a known network stands for itself only if it holds `architecture.json`. Raises
    `ArchitectureError` for an unknown name. The file need not exist.
    """
    inside = os.path.join(name_or_path, "architecture.json")
    if os.path.isfile(inside) or (os.path.isdir(name_or_path) and str(name_or_path) not in known_networks()):
        return Path(inside)
    return shipped_or_file(name_or_path, known_networks(), suffix=".json", what="network", error=ArchitectureError)


def shipped_or_file(
    name_or_path: str | Path, shipped: Mapping[str, Path], *, suffix: str, what: str, error: type[NasError]
) -> Path:
    """Returns the shipped file with a given name, or the path itself if it looks like one.

    A path has a suffix or several parts, or is an existing file. `what` describes the file in messages. Raises `error`
    for an unknown name.
    """
    path = Path(name_or_path)
    if path.suffix or len(path.parts) > 1 or os.path.isfile(path):  # `Path.is_file` raises for names that are too long
        return path
    if path.name not in shipped:
        found = f"{what} {short_repr(path.name)} is unknown{suggestion(path.name, shipped)}"
        raise error(f"{found}, expected {one_of(shipped)}, or a {suffix} file")
    return shipped[path.name]


def _shipped(folder: str, suffix: str) -> dict[str, Path]:
    return {file.stem: file for file in sorted((spaces_folder() / folder).glob(f"*{suffix}"))}
