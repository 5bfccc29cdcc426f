"""Random generators of a training run, and a context that makes one of them torch's global generator."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def as_global(generator: torch.Generator) -> Iterator[None]:
    """Context in which torch's global generator of the device continues from `generator`.

    On exit, `generator` has the state that the global generator reached, and the global generator has its previous
    state. Weight initialisation and dropout need this: they can draw only from the global generator.
    """
    before = _global_state(generator.device)
    _set_global_state(generator.device, generator.get_state())
    try:
        yield
    finally:
        generator.set_state(_global_state(generator.device))
        _set_global_state(generator.device, before)


def generators(seed: int, device: torch.device) -> tuple[torch.Generator, torch.Generator]:
    """Returns two generators on `device`: for the order of the examples and the augmentation, and for dropout."""
    dropout_seed = int(torch.randint(2**62, (), generator=torch.Generator().manual_seed(seed)))
    return torch.Generator(device).manual_seed(seed), torch.Generator(device).manual_seed(dropout_seed)


def _global_state(device: torch.device) -> Tensor:
    if device.type == "cuda":
        return torch.cuda.get_rng_state(device)
    return torch.mps.get_rng_state() if device.type == "mps" else torch.get_rng_state()


def _set_global_state(device: torch.device, state: Tensor) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    elif device.type == "mps":
        torch.mps.set_rng_state(state)
    else:
        torch.set_rng_state(state)
