"""Batches of an epoch, the same in every engine for the same seed and device type."""

from collections.abc import Iterator

import torch
from torch import Tensor

from nas.recipe import Recipe
from nas.training.augmentation import augment, draw_uniforms
from nas.training.data import TrainingData, per_channel


def batch_size_and_steps(recipe: Recipe, num_examples: int) -> tuple[int, int]:
    """Returns the batch size, which is at most `num_examples`, and the number of batches in an epoch."""
    batch_size = min(recipe.batch_size, num_examples)
    # All batches have the same size: the remainder of each permutation is left out.
    return batch_size, num_examples // batch_size


def batches(data: TrainingData, recipe: Recipe, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields the batches of one epoch in a new order: augmented, normalised images (N, C, H, W) and labels (N,)."""
    device = data.train_images.device
    mean, std = per_channel(data.mean, device), per_channel(data.std, device)
    batch_size, num_steps = batch_size_and_steps(recipe, len(data.train_images))
    order = torch.randperm(len(data.train_images), generator=generator, device=device)
    for step in range(num_steps):
        chosen = order[step * batch_size : (step + 1) * batch_size]
        pixels = data.train_images.index_select(0, chosen).float().div_(255)
        augmented = augment(pixels, recipe, draw_uniforms(recipe, batch_size, generator=generator))
        yield (augmented - mean) / std, data.train_labels.index_select(0, chosen)
