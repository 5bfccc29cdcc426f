"""Defaults: what a search takes where the user says nothing, from what is known of images, space and limits.

Each is printed in a search's first lines, stored in the study, and overridden by the option of its name.
"""

from collections.abc import Sequence
from typing import NamedTuple

from nas.sampling.samplers import NUM_CHOICES, NUM_STARTUP
from nas.space.constraints import Constraint
from nas.space.search_space import SearchSpace

NUM_TRIALS = 20
SAMPLER = "elite"
PRUNER = "none"

NUM_FILLED = 2
"""Random candidates after the known ones, in a space whose draws fill the limits."""


class StartUp(NamedTuple):
    """How a study begins: so many candidates, known or drawn at random, each the largest of `choices` draws."""

    num_startup: int
    choices: int


def start_up(
    space: SearchSpace, constraints: Sequence[Constraint], *, sampler: str, num_objectives: int, num_known: int
) -> StartUp:
    """The start of a new study that is given so many known candidates."""
    limited = any((constraint.metric, constraint.relation) == ("params", "<=") for constraint in constraints)
    # Within a limit larger networks are better; random search and fronts need all sizes.
    wants_large = limited and num_objectives == 1 and sampler != "random"
    match space.widths is not None, num_known > 0, wants_large:
        case True, _, _:  # draws fill the limits by themselves
            return StartUp(num_known + NUM_FILLED, choices=1)
        case False, True, _:  # who brings networks wants better ones: random candidates would hardly be
            return StartUp(min(num_known, NUM_STARTUP), choices=NUM_CHOICES if wants_large else 1)
        case False, False, True:
            return StartUp(NUM_STARTUP, choices=NUM_CHOICES)
        case _:
            return StartUp(NUM_STARTUP, choices=1)
