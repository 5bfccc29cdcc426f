"""Fill: the largest widths of a candidate that keep the limits, its structure as it is."""

from collections.abc import Mapping, Sequence

from nas.architecture.cost import Cost
from nas.space.constraints import Constraint
from nas.space.domains import Value
from nas.space.drawn import Values
from nas.space.feasibility import judge
from nas.space.search_space import SearchSpace
from nas.space.widths import scaled

MOST = 64.0  # times the drawn widths, and as small a part of them
CLOSE = 1.005  # factors that are no further apart are as good as one
POWER = 1.6  # costs grow with this power of the widths, or so: linearly in some layers, with the square in others


def filled(
    space: SearchSpace, constraints: Sequence[Constraint], values: Mapping[str, Value], share: float = 1.0
) -> Values:
    """The values with all widths times the largest factor at which every upper limit is kept; about a millisecond.

    `share`: of each upper limit, 0 to 1, that the candidate may take. The smallest widths where no factor keeps all
    limits; the values as they are where the space draws each width by itself, or where no limit is an upper one.
    """
    # Shapes and the receptive field follow from depth and kernels, not from widths.
    sees = [c for c in constraints if c.metric == "receptive_field"]
    upper = [
        Constraint(c.metric, c.relation, max(1, int(c.bound * share)))
        for c in constraints
        if c.relation == "<=" and c.metric != "receptive_field"
    ]
    if not space.widths or not upper:
        return dict(values)
    low, high = 1 / MOST, MOST
    best = scaled(values, space.domains, low)
    if judge(space, [*upper, *sees], best).reason:
        return best
    factor = 1.0
    while high / low > CLOSE:
        wider = scaled(values, space.domains, factor)
        judgement = judge(space, upper, wider)
        assert judgement.cost is not None
        if judgement.reason:
            high = factor
        else:
            low, best = factor, wider
        # A guess from the cost met, a little inside what is known to be too narrow and too wide.
        guess = factor * _room(upper, judgement.cost) ** (1 / POWER)
        inside = (high / low) ** 0.1
        factor = min(max(guess, low * inside), high / inside)
    return best


def narrowed(space: SearchSpace, constraints: Sequence[Constraint], values: Mapping[str, Value]) -> Values:
    """Values that tell whether any widths keep the limits: the smallest, or where a limit asks for more the filled."""
    if not space.widths:
        return dict(values)
    if any(c.relation == ">=" and c.metric != "receptive_field" for c in constraints):
        return filled(space, constraints, values)
    return scaled(values, space.domains, 1 / MOST)


def _room(upper: Sequence[Constraint], cost: Cost) -> float:
    """By what factor the cost may grow until it meets the first limit; below 1 where it exceeds one."""
    room: float = min(constraint.bound / max(1, getattr(cost, constraint.metric)) for constraint in upper)
    return room
