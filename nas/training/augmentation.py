"""Random augmentation of image batches on their device, with separate random values for each image."""

import torch
from torch import Tensor
from torch.nn import functional

from nas.recipe import Recipe

SHAPES: dict[str, tuple[int, ...]] = {
    "rotation": (),
    "translation": (2,),
    "scale": (),
    "shear": (),
    "brightness": (1, 1, 1),
    "contrast": (1, 1, 1),
    "flip": (1, 1, 1),
}
"""Augmentations of a recipe, in the order in which they are drawn, and the shape of one image's random numbers."""

Uniforms = dict[str, Tensor]
"""Random numbers in 0..1 for each augmentation, of shape (N, *SHAPES[name])."""


def draw_uniforms(recipe: Recipe, count: int, *, generator: torch.Generator) -> Uniforms:
    """Draws random numbers for `count` images on the generator's device; a strength of zero draws nothing."""
    return {
        name: torch.rand(count, *shape, device=generator.device, generator=generator)
        for name, shape in SHAPES.items()
        if getattr(recipe, name)
    }


def augment(images: Tensor, recipe: Recipe, uniforms: Uniforms) -> Tensor:
    """Returns augmented images, or `images` itself if the recipe has no augmentation.

    The result for an image does not depend on the other images.

    Args:
        images: (N, C, H, W) in 0..1.
        recipe: strength of each augmentation.
        uniforms: random numbers from `draw_uniforms` for N images.
    """
    out = images

    def change(name: str) -> Tensor:
        """Returns values that are uniform in -strength..strength."""
        strength: float = getattr(recipe, name)
        if not strength:
            return images.new_zeros(len(images), *SHAPES[name])
        return uniforms[name] * (2 * strength) - strength

    if recipe.rotation or recipe.translation or recipe.scale or recipe.shear:
        out = affine(
            out,
            angle=change("rotation"),
            translation=change("translation"),
            scale=1 + change("scale"),
            shear=change("shear"),
        )
    if recipe.brightness:
        out = out + change("brightness")
    if recipe.contrast:
        mean = out.mean((1, 2, 3), keepdim=True)
        out = mean + (out - mean) * (1 + change("contrast"))
    if out is not images:
        out = out.clamp(0, 1)
    if recipe.flip:
        out = torch.where(uniforms["flip"] < recipe.flip, out.flip(3), out)
    return out


def affine(images: Tensor, *, angle: Tensor, translation: Tensor, scale: Tensor, shear: Tensor) -> Tensor:
    """Shears each image along x, rotates and scales it about its centre, then moves it.

    Interpolation is bilinear; pixels outside the image are 0.

    Args:
        images: (N, C, H, W).
        angle: (N,) degrees, clockwise as in torchvision.
        translation: (N, 2) fractions of the width (rightwards) and of the height (downwards).
        scale: (N,) factors.
        shear: (N,) degrees.
    """
    height, width = images.shape[2:]
    radians = torch.deg2rad(angle)
    cos, sin, tan = radians.cos(), radians.sin(), torch.deg2rad(shear).tan()
    # grid_sample takes the inverse map: the input position of each output pixel. Both axes run from -1 to 1, so
    # a rotation needs the aspect ratio; without it, images that are not square would be distorted.
    ratio = width / height
    # Input displacements, (N, 1, 1, 2), of one step to the right and one step down in the output.
    right = torch.stack([cos - sin * tan, -sin * ratio], dim=1).div(scale[:, None])[:, None, None]
    down = torch.stack([(sin + cos * tan) / ratio, cos], dim=1).div(scale[:, None])[:, None, None]
    back = 2 * translation[:, None, None]
    x = _pixel_centres(width, images.device).view(1, 1, -1, 1) - back[..., :1]
    y = _pixel_centres(height, images.device).view(1, -1, 1, 1) - back[..., 1:]
    grid = right * x + down * y  # affine_grid takes several times as long on a CPU
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _pixel_centres(side: int, device: torch.device) -> Tensor:
    """Returns the pixel centres, (side,), on an axis whose borders are -1 and 1."""
    return (torch.arange(side, device=device) * 2 + 1) / side - 1
