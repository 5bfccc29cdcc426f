"""Augmentation of a batch on its device: each example draws its own values."""

import torch
from torch import Tensor
from torch.nn import functional

from nas.recipe import Recipe


def augment(images: Tensor, recipe: Recipe, *, generator: torch.Generator) -> Tensor:
    """`images`, (N, C, H, W) in 0..1, augmented as the recipe says; the same tensor where it says nothing.

    `generator` is on the images' device. Strengths of zero draw nothing and cost nothing.
    """
    count = len(images)

    def draw(strength: float, *shape: int) -> Tensor:
        """Uniform in -strength..strength."""
        if not strength:
            return torch.zeros(count, *shape, device=images.device)
        uniform = torch.rand(count, *shape, device=images.device, generator=generator)
        return uniform.mul_(2 * strength).sub_(strength)

    out = images
    if recipe.rotation or recipe.translation or recipe.scale or recipe.shear:
        out = affine(
            out,
            angle=draw(recipe.rotation),
            translation=draw(recipe.translation, 2),
            scale=1 + draw(recipe.scale),
            shear=draw(recipe.shear),
        )
    if recipe.brightness:
        out = out + draw(recipe.brightness, 1, 1, 1)
    if recipe.contrast:
        mean = out.mean((1, 2, 3), keepdim=True)
        out = mean + (out - mean) * (1 + draw(recipe.contrast, 1, 1, 1))
    if out is not images:
        out = out.clamp(0, 1)
    if recipe.flip:
        coins = torch.rand(count, 1, 1, 1, device=images.device, generator=generator) < recipe.flip
        out = torch.where(coins, out.flip(3), out)
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
