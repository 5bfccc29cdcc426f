"""Judges whether a drawn candidate can be built and keeps the limits.

Neither torch nor Optuna here: a judgement takes some 100 microseconds.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from nas.architecture.architecture import Architecture
from nas.architecture.cost import Cost, cost_of
from nas.errors import ShapeError
from nas.space.constraints import Constraint, worst
from nas.space.domains import Value
from nas.space.search_space import SearchSpace

IMPOSSIBLE_SHAPE = "impossible_shape"
DUPLICATE = "duplicate"
SMALLER = "smaller"


MEANINGS = {
    IMPOSSIBLE_SHAPE: "cannot be built: a map would be smaller than its window",
    DUPLICATE: "drawn before in this study",
    SMALLER: "keeps the limits, but of the few draws for one of the first candidates another is larger",
}
"""What the reasons of discards mean that are not the name of a limit's metric."""


def meanings(reasons: Iterable[str]) -> dict[str, str]:
    """What each reason of a discard means."""
    return {
        reason: MEANINGS.get(reason, f"misses the limit on {reason}, and no other one by more") for reason in reasons
    }


class Judgement(NamedTuple):
    """What is known of a candidate without training it. `reason` is empty for a feasible one, else why it is discarded:
    a constraint's metric or "impossible_shape" (then there is no cost)."""

    architecture: Architecture | None
    cost: Cost | None
    reason: str
    violation: float  # the sum of what the constraints are missed by; infinite for an impossible shape


def judge(space: SearchSpace, constraints: Sequence[Constraint], values: Mapping[str, Value]) -> Judgement:
    """The judgement on the candidate that the values stand for; no module is built."""
    try:
        architecture = space.architecture(values)
        cost = cost_of(architecture)
    except ShapeError:
        return Judgement(None, None, IMPOSSIBLE_SHAPE, math.inf)
    binding = worst(constraints, cost)
    if binding is None:
        return Judgement(architecture, cost, "", 0.0)
    violation = sum(max(0.0, constraint.violation(cost)) for constraint in constraints)
    return Judgement(architecture, cost, binding.metric, violation)
