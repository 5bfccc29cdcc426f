"""Folders of images: FOLDER/CLASS/*.png and the other formats that torchvision lists."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from nas.errors import DatasetError

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor


def list_images(folder: Path) -> tuple[list[Path], "Tensor", tuple[str, ...]]:
    """Image files, their labels (N,), and the names of the classes.

    Raises `DatasetError` where the folder is of another layout, or a name in it could not be exported.
    """
    import torch
    from torchvision.datasets.folder import IMG_EXTENSIONS, ImageFolder

    try:
        listing = ImageFolder(folder, allow_empty=True)
    except FileNotFoundError:
        raise DatasetError(f"{folder}: no folder with a folder for each class, allowed: {folder}/CLASS/*.png") from None
    for named in (folder, *(folder / label for label in listing.classes)):
        _check_name(named)
    labels = torch.tensor([label for _, label in listing.samples], dtype=torch.int64)
    for label, count in zip(listing.classes, torch.bincount(labels, minlength=len(listing.classes)), strict=True):
        if not count:
            raise DatasetError(f"{folder / label}: no images found, allowed: {', '.join(IMG_EXTENSIONS)}")
    if len(listing.classes) < 2:
        raise DatasetError(f"{folder}: only class {listing.classes[0]!r} found, allowed: at least 2 classes")
    return [Path(file) for file, _ in listing.samples], labels, tuple(listing.classes)


def _check_name(folder: Path) -> None:
    """Raises for a name that an export could not write or print: refused now, not after a search."""
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        raise DatasetError(f"{str(folder)!r}: the name is not UTF-8, allowed: one that is") from None
    if "\r" in folder.name:
        raise DatasetError(f"{str(folder)!r}: a carriage return in the name, allowed: one without it")


def common_mode(files: list[Path]) -> str:
    """Pillow's mode that holds every image: "L" if all are grey, else "RGB"; raises unless all have one size."""
    first, mode = None, "L"
    for file in files:
        with _opened(file) as image:
            size, kind = image.size, image.mode
        if kind.startswith(("I", "F")):  # Pillow would clip them
            raise DatasetError(f"{file}: mode {kind} found, allowed: 8 bits a channel")
        if size != (first := first or size):
            text = "{}x{} pixels found, allowed: {}x{}, the size of {}".format(*size, *first, files[0])
            raise DatasetError(f"{file}: {text}; PIL.ImageOps.fit gives all one size (docs/guides/own_images.md)")
        if kind not in ("1", "L", "LA"):
            mode = "RGB"
    return mode


def pixels(file: Path, mode: str) -> "Tensor":
    """uint8 (channels, height, width); transparent pixels lie on white, as an export's predict.py has them."""
    from PIL import Image
    from torchvision.transforms.functional import pil_to_tensor

    with _opened(file) as image:
        opaque = image
        if image.has_transparency_data:
            above = image.convert("RGBA")
            opaque = Image.alpha_composite(Image.new("RGBA", above.size, "white"), above)
        tensor: Tensor = pil_to_tensor(opaque.convert(mode))
    return tensor


@contextlib.contextmanager
def _opened(file: Path) -> "Iterator[Image.Image]":
    from PIL import Image

    try:
        with Image.open(file) as image:
            yield image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DatasetError(f"{file}: not a readable image ({error})") from None
