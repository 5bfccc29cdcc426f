"""Judges whether a drawn candidate can be built and satisfies the limits.

A judgement needs neither torch nor Optuna and takes about 100 microseconds.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from nas.architecture.architecture import Architecture
from nas.architecture.cost import Cost, cost_of
from nas.errors import ShapeError
from nas.inference.full_cost import FullCost, full_cost
from nas.space.constraints import Constraint, most_violated
from nas.space.domains import Value
from nas.space.search_space import SearchSpace

IMPOSSIBLE_SHAPE = "impossible_shape"
DUPLICATE = "duplicate"
SMALLER = "smaller"

REASON_MEANINGS = {
    IMPOSSIBLE_SHAPE: "cannot be built: a feature map would be smaller than its window",
    DUPLICATE: "was drawn before in this study",
    SMALLER: "keeps the limits, but is not the largest of the four draws for one of the first candidates",
}
"""Meaning of each discard reason that is not the name of a metric."""
REASON_WORDS = {
    IMPOSSIBLE_SHAPE: "impossible shape",
    DUPLICATE: "drawn before",
    SMALLER: "not the largest of four feasible draws",
}
"""The same in a few words."""


def reason_text(reason: str) -> str:
    """Returns a discard reason in a few words: those of `REASON_WORDS`, or the metric whose limit is missed."""
    return REASON_WORDS.get(reason, f"limit on {reason}")


def reason_meanings(reasons: Iterable[str]) -> dict[str, str]:
    """Returns the meaning of each discard reason."""
    return {
        reason: REASON_MEANINGS.get(reason, f"misses the limit on {reason}, and no other limit by more")
        for reason in reasons
    }


class Judgement(NamedTuple):
    """Feasibility of a candidate.

    Attributes:
        architecture: the network; None if its shapes are impossible.
        cost: the cost, a `FullCost` if limits on the C code were judged; None if its shapes are impossible.
        reason: empty if the candidate is feasible, otherwise why it is discarded: the metric of the constraint with the
            largest violation, or a key of `REASON_MEANINGS`. "duplicate" and "smaller" are set by the sampler, not by
            `judge`.
        violation: sum of the violations of all constraints, each relative to its bound; infinite for impossible shapes.
            Limits on the C code, its bytes and instructions, are judged only if all others are kept.
    """

    architecture: Architecture | None
    cost: Cost | None
    reason: str
    violation: float


def judge(space: SearchSpace, constraints: Sequence[Constraint], values: Mapping[str, Value]) -> Judgement:
    """Returns the judgement on the candidate with these parameter values, without building a module.

    Limits on the C code are judged last, because its metrics take about a millisecond.
    """
    try:
        architecture = space.architecture(values)
        cost = cost_of(architecture)
    except ShapeError:
        return Judgement(None, None, IMPOSSIBLE_SHAPE, math.inf)
    cheap = [constraint for constraint in constraints if not constraint.needs_full_cost]
    costly = [constraint for constraint in constraints if constraint.needs_full_cost]
    judged, binding = cheap, most_violated(cheap, cost)
    if binding is None and costly:
        cost = full_cost(architecture, cost)
        judged, binding = costly, most_violated(costly, cost)
    if binding is None:
        return Judgement(architecture, cost, "", 0.0)
    violation = sum(max(0.0, constraint.violation(cost)) for constraint in judged)
    return Judgement(architecture, cost, binding.metric, violation)


def cost_for(constraints: Sequence[Constraint], architecture: Architecture, known: Cost | None = None) -> Cost:
    """Returns the cost with all metrics that the constraints limit; raises `ShapeError` if a layer does not fit.

    `known`: the cost, with or without the metrics of the C code, if it has been computed.
    """
    cost = cost_of(architecture) if known is None else known
    if isinstance(cost, FullCost) or not any(constraint.needs_full_cost for constraint in constraints):
        return cost
    return full_cost(architecture, cost)
