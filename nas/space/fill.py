"""Scales the widths of a candidate to the largest that satisfy the limits, without changing its structure."""

from collections.abc import Mapping, Sequence

from nas.architecture.cost import Cost
from nas.space.constraints import Constraint
from nas.space.domains import Value, Values
from nas.space.feasibility import judge
from nas.space.search_space import SearchSpace
from nas.space.widths import scale_widths

MAX_FACTOR = 64.0  # largest scaling factor; the smallest is its reciprocal
FACTOR_TOLERANCE = 1.005  # the search for the factor stops when the ratio of its bounds falls to this
COST_EXPONENT = 1.6  # approximate exponent of the cost in the widths: linear in some layers, quadratic in others


def with_filled_widths(
    space: SearchSpace, constraints: Sequence[Constraint], values: Mapping[str, Value], share: float = 1.0
) -> Values:
    """Returns the values with all widths scaled by the largest factor that satisfies every upper limit.

    The smallest widths are returned if even with them the network cannot be built, or violates an upper limit or a
    limit on the receptive field. The values are returned unchanged if the space has no `widths` or no constraint is an
    upper limit. Takes about a millisecond.

    Args:
        space: the search space.
        constraints: the limits; lower limits on other metrics than the receptive field are ignored.
        values: a value for each drawn parameter.
        share: fraction of each upper limit, from 0 to 1, that the candidate may use.
    """
    upper = [
        Constraint(c.metric, c.relation, max(1, int(c.bound * share)))
        for c in constraints
        if c.relation == "<=" and c.metric != "receptive_field"
    ]
    if not space.widths or not upper:
        return dict(values)
    # Widths change neither the sizes of feature maps nor the receptive field, so one check of these is enough.
    receptive_field = [c for c in constraints if c.metric == "receptive_field"]
    smallest = scale_widths(values, space.domains, 1 / MAX_FACTOR)
    if judge(space, [*upper, *receptive_field], smallest).reason:
        return smallest
    return _largest_widths(space, upper, values, smallest)


def _largest_widths(
    space: SearchSpace, upper: Sequence[Constraint], values: Mapping[str, Value], smallest: Values
) -> Values:
    """Returns the values with all widths scaled by the largest factor that satisfies the upper limits.

    `smallest`: the values with the smallest widths, which satisfy them.
    """
    low, high, best = 1 / MAX_FACTOR, MAX_FACTOR, smallest
    factor = 1.0
    while high / low > FACTOR_TOLERANCE:
        wider = scale_widths(values, space.domains, factor)
        judgement = judge(space, upper, wider)
        assert judgement.cost is not None
        if judgement.reason:
            high = factor
        else:
            low, best = factor, wider
        # The next factor is extrapolated from the cost, and kept off the bounds so that each step narrows them.
        guess = factor * _growth_factor(upper, judgement.cost) ** (1 / COST_EXPONENT)
        inside = (high / low) ** 0.1
        factor = min(max(guess, low * inside), high / inside)
    return best


def with_likely_feasible_widths(
    space: SearchSpace, constraints: Sequence[Constraint], values: Mapping[str, Value]
) -> Values:
    """Returns the values with the widths that are most likely to satisfy the limits, the smallest or the largest.

    These are the largest widths (`with_filled_widths`) if there is a lower limit on another metric than the receptive
    field, and the smallest widths otherwise. The values are returned unchanged if the space has no `widths`.
    """
    if not space.widths:
        return dict(values)
    if any(c.relation == ">=" and c.metric != "receptive_field" for c in constraints):
        return with_filled_widths(space, constraints, values)
    return scale_widths(values, space.domains, 1 / MAX_FACTOR)


def _growth_factor(upper: Sequence[Constraint], cost: Cost) -> float:
    """Returns the factor by which the cost can grow until it reaches the first limit; below 1 if it exceeds one."""
    # `judge` computes the metrics of the C code only if the other limits are kept.
    judged = [constraint for constraint in upper if hasattr(cost, constraint.metric)]
    room: float = min(constraint.bound / max(1, getattr(cost, constraint.metric)) for constraint in judged)
    return room
