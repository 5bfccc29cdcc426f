"""Defaults of a search: number of trials, sampler, pruner, and how a new study begins."""

from collections.abc import Sequence
from typing import NamedTuple

from nas.sampling.samplers import NUM_CHOICES, NUM_STARTUP
from nas.space.constraints import Constraint
from nas.space.search_space import SearchSpace

NUM_TRIALS = 20
SAMPLER = "elite"
PRUNER = "none"

NUM_RANDOM_AFTER_KNOWN = 2
"""Random candidates after the known ones in a space with `Widths`, whose draws fill the limits."""


class StartupPlan(NamedTuple):
    """How a study begins.

    num_startup: Number of first candidates, known or random, that the sampler does not propose.
    choices: Number of feasible random draws per start-up candidate. The one with the most parameters is trained.
    """

    num_startup: int
    choices: int


def startup_plan(
    space: SearchSpace, constraints: Sequence[Constraint], *, sampler: str, num_objectives: int, num_known: int
) -> StartupPlan:
    """Returns how a new study with `num_known` known candidates begins."""
    limited = any((constraint.metric, constraint.relation) == ("params", "<=") for constraint in constraints)
    # Under a parameter limit larger networks are better. Random search and Pareto fronts need all sizes.
    wants_large = limited and num_objectives == 1 and sampler != "random"
    match space.widths is not None, num_known > 0, wants_large:
        case True, _, _:  # draws already fill the limits
            return StartupPlan(num_known + NUM_RANDOM_AFTER_KNOWN, choices=1)
        case False, True, _:  # random candidates are rarely better than known networks
            return StartupPlan(min(num_known, NUM_STARTUP), choices=NUM_CHOICES if wants_large else 1)
        case False, False, True:
            return StartupPlan(NUM_STARTUP, choices=NUM_CHOICES)
        case _:
            return StartupPlan(NUM_STARTUP, choices=1)
