"""Values drawn from search spaces, and their networks."""

from random import Random

from nas.architecture.cost import cost_of
from nas.errors import ShapeError


def draws(space, number, seed=0):
    """Returns the values of `number` random candidates; equal seeds give equal values."""
    rng = Random(seed)
    return [space.draw(rng) for _ in range(number)]


def architecture_or_none(space, values):
    """Returns the network; None if its layers do not fit."""
    try:
        architecture = space.architecture(values)
        cost_of(architecture)
    except ShapeError:
        return None
    return architecture
