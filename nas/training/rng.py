"""torch's global random stream, lent to one training at a time and given back as it was."""

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
