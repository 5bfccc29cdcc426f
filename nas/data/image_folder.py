"""Reads folders of images: FOLDER/CLASS/*.png and the other formats that torchvision lists."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from nas.errors import DatasetError, one_of

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor


def list_images(folder: Path) -> tuple[list[Path], "Tensor", tuple[str, ...]]:
    """Returns the image files of a folder, their labels, int64 (N,), and the names of the classes.

    Raises `DatasetError` if the folder has another layout, fewer than two classes, a class without images, or a name
    that an export could not write.
    """
    import torch
    from torchvision.datasets.folder import IMG_EXTENSIONS, ImageFolder

    try:
        listing = ImageFolder(folder, allow_empty=True)
    except FileNotFoundError:
        raise DatasetError(f"{folder}: no folder for each class found, expected {folder}/CLASS/*.png") from None
    for named in (folder, *(folder / label for label in listing.classes)):
        _check_name(named)
    labels = torch.tensor([label for _, label in listing.samples], dtype=torch.int64)
    for label, count in zip(listing.classes, torch.bincount(labels, minlength=len(listing.classes)), strict=True):
        if not count:
            raise DatasetError(f"{folder / label}: no images found, expected {one_of(IMG_EXTENSIONS)}")
    if len(listing.classes) < 2:
        raise DatasetError(f"{folder}: only class {listing.classes[0]!r} found, expected at least 2 classes")
    return [Path(file) for file, _ in listing.samples], labels, tuple(listing.classes)


def _check_name(folder: Path) -> None:
    """Raises `DatasetError` for a name that an export could not write or print: before a search, not after it."""
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        raise DatasetError(f"{str(folder)!r}: the name is not UTF-8; rename the folder") from None
    if "\r" in folder.name:
        raise DatasetError(f"{str(folder)!r}: the name contains a carriage return; rename the folder")


def common_mode(files: list[Path]) -> str:
    """Returns the Pillow mode that fits all images: "L" if all are grey, else "RGB".

    Raises `DatasetError` if their sizes differ, or if one has more than 8 bits per channel or cannot be read.
    """
    first, mode = None, "L"
    for file in files:
        with _open_image(file) as image:
            size, kind = image.size, image.mode
        if kind.startswith(("I", "F")):  # Pillow would clip the values
            raise DatasetError(f"{file}: mode {kind} found, expected 8 bits per channel")
        first = first or size
        if size != first:
            text = "{}x{} pixels found, expected {}x{} as in {}".format(*size, *first, files[0])
            mend = "resize all images to one size, for example with PIL.ImageOps.fit (docs/guides/own_images.md)"
            raise DatasetError(f"{file}: {text}; {mend}")
        if kind not in ("1", "L", "LA"):
            mode = "RGB"
    return mode


def read_pixels(file: Path, mode: str) -> "Tensor":
    """Returns an image as uint8 (channels, height, width); transparent pixels are put on white, as in predict.py."""
    from PIL import Image
    from torchvision.transforms.functional import pil_to_tensor

    with _open_image(file) as image:
        opaque = image
        if image.has_transparency_data:
            above = image.convert("RGBA")
            opaque = Image.alpha_composite(Image.new("RGBA", above.size, "white"), above)
        tensor: Tensor = pil_to_tensor(opaque.convert(mode))
    return tensor


@contextlib.contextmanager
def _open_image(file: Path) -> "Iterator[Image.Image]":
    from PIL import Image

    try:
        with Image.open(file) as image:
            yield image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DatasetError(f"{file}: not a readable image ({error})") from None
