"""Classifies image files with the network beside this script; needs torch and Pillow alone.

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
    """The image as the network was trained on them: float32 (1, channels, height, width), normalised."""
    channels, height, width = INPUT_SHAPE
    with Image.open(path) as file:
        if file.mode.startswith(("I", "F")):
            raise ValueError(f"mode {file.mode} found, allowed: 8 bits a channel")
        opaque = file.convert("RGBA") if file.mode == "P" else file  # a palette may hold transparency
        image = opaque.convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        print(f"{path}: resized from {image.width}x{image.height} to {width}x{height}", file=sys.stderr)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    if invert:
        image = ImageOps.invert(image)
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    pixels = pixels.reshape(height, width, channels).permute(2, 0, 1).float() / 255
    return ((pixels - torch.tensor(MEAN).view(-1, 1, 1)) / torch.tensor(STD).view(-1, 1, 1)).unsqueeze(0)


def main() -> int:
    """Prints a line an image, the likeliest classes first; 2 where an image could not be read."""
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
