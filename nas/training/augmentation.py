"""Augmentation of images on their device: each draws its own values."""

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
"""What a recipe can ask for, in the order in which it is drawn, and the shape of an image's random numbers."""

Draws = dict[str, Tensor]
"""Random numbers in 0..1 by what they are for, (N, *shape)."""


def draws(recipe: Recipe, count: int, *, generator: torch.Generator) -> Draws:
    """Random numbers for `count` images, on the generator's device; a strength of zero draws nothing."""
    return {
        name: torch.rand(count, *shape, device=generator.device, generator=generator)
        for name, shape in SHAPES.items()
        if getattr(recipe, name)
    }


def augment(images: Tensor, recipe: Recipe, drawn: Draws) -> Tensor:
    """`images`, (N, C, H, W) in 0..1, augmented as the recipe says; the same tensor where it says nothing.

    `drawn` is of `draws`, for as many images. What becomes of an image does not depend on the others.
    """
    out = images

    def change(name: str) -> Tensor:
        """Uniform in -strength..strength."""
        strength: float = getattr(recipe, name)
        if not strength:
            return images.new_zeros(len(images), *SHAPES[name])
        return drawn[name] * (2 * strength) - strength

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
        out = torch.where(drawn["flip"] < recipe.flip, out.flip(3), out)
    return out


def affine(images: Tensor, *, angle: Tensor, translation: Tensor, scale: Tensor, shear: Tensor) -> Tensor:
    """(N, C, H, W): each image sheared along x, rotated, scaled about its centre, then moved; bilinear, 0 outside.

    angle, shear: (N,) degrees, clockwise as in torchvision; scale: (N,) factors;
    translation: (N, 2) fractions of width (rightwards) and height (downwards).
    """
    height, width = images.shape[2:]
    radians = torch.deg2rad(angle)
    cos, sin, tan = radians.cos(), radians.sin(), torch.deg2rad(shear).tan()
    # grid_sample asks where each output pixel comes from: the inverse map. It counts both axes from -1 to 1,
    # so on an image that is not square a rotation needs the ratio of the sides, or it would distort.
    ratio = width / height
    # A step right and a step down in the output are these two steps, (N, 1, 1, 2), in the input.
    right = torch.stack([cos - sin * tan, -sin * ratio], dim=1).div(scale[:, None])[:, None, None]
    down = torch.stack([(sin + cos * tan) / ratio, cos], dim=1).div(scale[:, None])[:, None, None]
    back = 2 * translation[:, None, None]
    x = _pixel_centres(width, images.device).view(1, 1, -1, 1) - back[..., :1]
    y = _pixel_centres(height, images.device).view(1, -1, 1, 1) - back[..., 1:]
    grid = right * x + down * y  # not affine_grid, whose batched product takes several times as long on a CPU
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _pixel_centres(side: int, device: torch.device) -> Tensor:
    """(side,): where the pixels lie on an axis whose borders are -1 and 1."""
    return (torch.arange(side, device=device) * 2 + 1) / side - 1
