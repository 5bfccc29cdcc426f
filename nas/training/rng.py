"""Random numbers of a training: its generators, and torch's global stream lent to one of them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def as_global(generator: torch.Generator) -> Iterator[None]:
    """Within, the global random stream of the generator's device is this generator; after, what it was before.

    Weight initialisation and dropout draw from the global stream and can be given no other.
    """
    before = _get(generator.device)
    _set(generator.device, generator.get_state())
    try:
        yield
    finally:
        generator.set_state(_get(generator.device))
        _set(generator.device, before)


def generators(seed: int, device: torch.device) -> tuple[torch.Generator, torch.Generator]:
    """Random numbers for a training: those of the order and the augmentation, and those of dropout."""
    dropout_seed = int(torch.randint(2**62, (), generator=torch.Generator().manual_seed(seed)))
    return torch.Generator(device).manual_seed(seed), torch.Generator(device).manual_seed(dropout_seed)


def _get(device: torch.device) -> Tensor:
    if device.type == "cuda":
        return torch.cuda.get_rng_state(device)
    return torch.mps.get_rng_state() if device.type == "mps" else torch.get_rng_state()


def _set(device: torch.device, state: Tensor) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    elif device.type == "mps":
        torch.mps.set_rng_state(state)
    else:
        torch.set_rng_state(state)
