"""Classifies image files with the exported network in the same folder; needs only torch and Pillow.

python predict.py IMAGE [IMAGE ...]
"""

import argparse
import sys
import warnings
from pathlib import Path

warnings.filterwarnings("ignore", message="Failed to initialize NumPy")  # torch runs without it

import torch  # noqa: E402
from model import CLASSES, INPUT_SHAPE, MEAN, STD, load  # noqa: E402
from PIL import Image, ImageOps  # noqa: E402


def read(path: Path, *, invert: bool = False) -> torch.Tensor:
    """Returns an image as the network expects it: float32 (1, channels, height, width), normalised.

    Prints changes such as cropping to standard error. Raises `ValueError` for more than 8 bits per channel.
    """
    channels, height, width = INPUT_SHAPE
    changes = []
    with Image.open(path) as file:
        if file.mode.startswith(("I", "F")):
            raise ValueError(f"mode {file.mode} found, expected 8 bits per channel")
        image: Image.Image = file
        if image.has_transparency_data:
            image = image.convert("RGBA")
            if image.getchannel("A").getextrema() != (255, 255):
                changes.append("transparent pixels made white")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        if channels == 1 and file.mode not in ("1", "L", "LA"):
            changes.append("colours made grey")
        image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        share = min(image.width / width, image.height / height)
        middle = round(share * width), round(share * height)
        if middle != image.size:
            changes.append(f"the middle {middle[0]}x{middle[1]} of {image.width}x{image.height} cut out")
        changes.append(f"resized to {width}x{height}")
        image = ImageOps.fit(image, (width, height))
    if invert:
        image = ImageOps.invert(image)
    if changes:
        print(f"{path}: {', '.join(changes)}", file=sys.stderr)
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    pixels = pixels.reshape(height, width, channels).permute(2, 0, 1).float() / 255
    return ((pixels - torch.tensor(MEAN).view(-1, 1, 1)) / torch.tensor(STD).view(-1, 1, 1)).unsqueeze(0)


def main() -> int:
    """Prints one line per image, most likely classes first; returns 2 if an image could not be read, else 0."""
    parser = argparse.ArgumentParser(description="Classify image files.")
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    parser.add_argument("--top", type=int, default=3, help="classes to print, likeliest first (3)")
    parser.add_argument("--invert", action="store_true", help="dark on light becomes light on dark")
    options = parser.parse_args()
    network = load()
    status = 0
    for path in options.images:
        try:
            images = read(path, invert=options.invert)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            reason = getattr(error, "strerror", None) or f"not a readable image ({error})"
            print(f"error: {path}: {reason}", file=sys.stderr)
            status = 2
            continue
        with torch.inference_mode():
            shares = network(images).softmax(1).squeeze(0)
        best = shares.argsort(descending=True).tolist()[: max(1, options.top)]
        print(f"{path}: " + ", ".join(f"{CLASSES[index]} ({shares[index]:.2%})" for index in best))
    return status


if __name__ == "__main__":
    sys.exit(main())
