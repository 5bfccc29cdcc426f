"""Values drawn from search spaces, and the networks that they stand for."""

from random import Random

from nas.architecture.cost import cost_of
from nas.errors import ShapeError


def draws(space, number, seed=0):
    """The values of that many candidates, the same for the same seed."""
    rng = Random(seed)
    return [space.draw(rng) for _ in range(number)]


def architecture_or_none(space, values):
    """The network, or None where its layers do not fit."""
    try:
        architecture = space.architecture(values)
        cost_of(architecture)
    except ShapeError:
        return None
    return architecture
