"""Augmentation: the geometry is compared with torchvision, the draws are checked by their properties."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.effort import examples
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as oracle

from nas.recipe import Recipe
from nas.training.augmentation import affine, augment, draw_uniforms

pytestmark = pytest.mark.usefixtures("one_thread")


def images(count: int = 4, channels: int = 1, height: int = 16, width: int = 16) -> Tensor:
    return torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(0))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def augmented(images: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    return augment(images, recipe, draw_uniforms(recipe, len(images), generator=generator))


def moved(
    batch: Tensor, *, angle: float = 0, move: tuple[float, float] = (0, 0), scale: float = 1, shear: float = 0
) -> Tensor:
    count = len(batch)
    return affine(
        batch,
        angle=torch.full((count,), float(angle)),
        translation=torch.tensor([move] * count, dtype=torch.float32),
        scale=torch.full((count,), float(scale)),
        shear=torch.full((count,), float(shear)),
    )


# Whole pixels: some torchvision versions accept no fractions in `translate`.
@given(
    st.tuples(st.integers(5, 20), st.integers(5, 20)),
    st.floats(-180, 180),
    st.tuples(st.integers(-4, 4), st.integers(-4, 4)),
    st.floats(0.5, 1.5),
    st.floats(-45, 45),
)
def test_affine_matches_torchvision(
    size: tuple[int, int], angle: float, pixels: tuple[int, int], scale: float, shear: float
) -> None:
    height, width = size
    # A smooth image: rounding of a coordinate hardly changes a pixel.
    rows, columns = torch.meshgrid(torch.arange(height) / 3, torch.arange(width) / 4, indexing="ij")
    image = (0.5 + 0.5 * torch.sin(rows) * torch.cos(columns + 1))[None, None]
    expected = oracle.affine(
        image, angle, list(pixels), scale, [shear, 0.0], interpolation=InterpolationMode.BILINEAR, fill=None
    )
    found = moved(image, angle=angle, move=(pixels[0] / width, pixels[1] / height), scale=scale, shear=shear)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


def test_affine_literal_values() -> None:
    image = torch.arange(6.0).view(1, 1, 2, 3)
    assert moved(image, angle=180).round().view(2, 3).tolist() == [[5, 4, 3], [2, 1, 0]]
    assert moved(image, move=(1 / 3, 0)).round().view(2, 3).tolist() == [[0, 0, 1], [0, 3, 4]]  # to the right
    assert moved(image, move=(0, 0.5)).round().view(2, 3).tolist() == [[0, 0, 0], [0, 1, 2]]  # down
    square = torch.arange(4.0).view(1, 1, 2, 2)
    assert moved(square, angle=90).round().view(2, 2).tolist() == [[2, 0], [3, 1]]  # clockwise


def test_rotation_does_not_distort_non_square_image() -> None:
    image = torch.zeros(1, 1, 41, 81)
    image[..., 20, 30:51] = 1  # a horizontal bar of 21 pixels
    turned = moved(image, angle=90)[0, 0]
    assert turned.sum().item() == pytest.approx(21, abs=1e-3)
    assert turned[10:31, 40].min().item() == pytest.approx(1, abs=1e-3)


def test_affine_applies_each_examples_own_parameters() -> None:
    batch = images(3)
    angles, scales = torch.tensor([0.0, 40.0, -70.0]), torch.tensor([1.0, 1.2, 0.8])
    together = affine(batch, angle=angles, translation=torch.zeros(3, 2), scale=scales, shear=torch.zeros(3))
    for index in range(3):
        alone = moved(batch[index : index + 1], angle=angles[index].item(), scale=scales[index].item())
        torch.testing.assert_close(together[index : index + 1], alone)


def test_zero_strength_returns_input_and_draws_nothing() -> None:
    batch, generator = images(), seeded()
    before = generator.get_state()
    assert augmented(batch, Recipe(), generator) is batch
    assert torch.equal(generator.get_state(), before)


STRENGTHS = {
    "rotation": 30.0,
    "translation": 0.2,
    "scale": 0.3,
    "shear": 20.0,
    "brightness": 0.2,
    "contrast": 0.5,
}


@pytest.mark.parametrize("name", STRENGTHS)
def test_each_augmentation_is_seeded_and_varies_between_examples(name: str) -> None:
    batch = images(1).expand(8, -1, -1, -1).contiguous()
    kept = batch.clone()
    recipe = Recipe(**{name: STRENGTHS[name]})
    out = augmented(batch, recipe, seeded())
    assert torch.equal(batch, kept), "the input was changed"
    assert out.shape == batch.shape
    assert 0 <= out.min() <= out.max() <= 1
    assert all(not torch.equal(out[i], out[j]) for i in range(8) for j in range(i)), "two examples drew the same"
    assert torch.equal(out, augmented(batch, recipe, seeded()))
    assert not torch.equal(out, augmented(batch, recipe, seeded(1)))


@given(st.fixed_dictionaries({name: st.floats(0, top) for name, top in STRENGTHS.items()}), st.integers(0, 2**32))
@settings(max_examples=examples(30))
def test_combinations_stay_in_range_and_repeat_for_equal_seeds(strengths: dict[str, float], seed: int) -> None:
    batch = images(3, channels=2, height=6, width=9)
    recipe = Recipe(**strengths)
    out = augmented(batch, recipe, seeded(seed))
    assert out.shape == batch.shape
    assert 0 <= out.min() <= out.max() <= 1
    assert torch.equal(out, augmented(batch, recipe, seeded(seed)))


def test_brightness_adds_one_offset_per_example_within_strength() -> None:
    batch = torch.full((2000, 1, 2, 2), 0.5)
    added = augmented(batch, Recipe(brightness=0.3), seeded()) - 0.5
    assert (added.flatten(1).std(1) == 0).all(), "one value for an example"
    assert -0.3 <= added.min() < -0.29
    assert 0.29 < added.max() <= 0.3001
    assert added.mean().abs() < 0.02


def test_contrast_scales_around_mean_within_strength() -> None:
    batch = torch.tensor([0.4, 0.6]).view(1, 1, 1, 2).expand(2000, -1, -1, -1)
    out = augmented(batch, Recipe(contrast=0.5), seeded())
    torch.testing.assert_close(out.mean((1, 2, 3)), torch.full((2000,), 0.5))
    factor = (out[:, 0, 0, 1] - out[:, 0, 0, 0]) / 0.2
    assert 0.49 < factor.min() < 0.51
    assert 1.49 < factor.max() < 1.51


def centres(out: Tensor) -> tuple[Tensor, Tensor]:
    """Column and row of each image's centre of mass."""
    weights = out[:, 0] / out.sum((2, 3))[:, 0, None, None]
    columns, rows = torch.arange(out.shape[3]), torch.arange(out.shape[2])
    return (weights.sum(1) * columns).sum(1), (weights.sum(2) * rows).sum(1)


def test_translation_covers_its_fraction_of_each_side() -> None:
    batch = torch.zeros(2000, 1, 20, 40)
    batch[:, :, 9:11, 19:21] = 1
    x, y = centres(augmented(batch, Recipe(translation=0.1), seeded()))
    for found, middle, most in ((x, 19.5, 4.0), (y, 9.5, 2.0)):
        assert middle - most - 1e-3 <= found.min() < middle - 0.95 * most
        assert middle + 0.95 * most < found.max() <= middle + most + 1e-3
    assert torch.corrcoef(torch.stack([x, y]))[0, 1].abs() < 0.1


def test_rotation_covers_its_range_of_degrees() -> None:
    batch = torch.zeros(500, 1, 33, 33)
    batch[:, :, 16, 28] = 1  # 12 pixels right of the centre
    x, y = centres(augmented(batch, Recipe(rotation=30.0), seeded()))
    degrees = torch.atan2(y - 16, x - 16) * 180 / math.pi
    assert -32 < degrees.min() < -27
    assert 27 < degrees.max() < 32


def test_flip_mirrors_its_share_of_examples_and_changes_no_other() -> None:
    batch = images(1).expand(2000, -1, -1, -1).contiguous()
    out = augmented(batch, Recipe(flip=0.3), seeded())
    mirrored = (out == batch.flip(3)).flatten(1).all(1)
    assert torch.equal(mirrored, ~(out == batch).flatten(1).all(1))
    assert 0.27 < mirrored.float().mean() < 0.33
    assert torch.equal(augmented(batch, Recipe(flip=1.0), seeded()), batch.flip(3))
