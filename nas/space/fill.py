"""Fill: the largest widths of a candidate that keep the limits, its structure as it is."""

from collections.abc import Mapping, Sequence

from nas.space.constraints import Constraint
from nas.space.domains import Value
from nas.space.drawn import Values
from nas.space.feasibility import judge
from nas.space.search_space import SearchSpace
from nas.space.widths import scaled

MOST = 64.0  # times the drawn widths, and as small a part of them
STEPS = 12  # halvings of the factor's logarithm: 64 to 1/64 in steps of 0.2 %


def filled(
    space: SearchSpace, constraints: Sequence[Constraint], values: Mapping[str, Value], share: float = 1.0
) -> Values:
    """The values with all widths times the largest factor at which every upper limit is kept; 1 to 2 milliseconds.

    `share`: of each upper limit, 0 to 1, that the candidate may take. The smallest widths where no factor keeps all
    limits; the values as they are where the space draws each width by itself, or where no limit is an upper one.
    """
    upper = [Constraint(c.metric, c.relation, max(1, int(c.bound * share))) for c in constraints if c.relation == "<="]
    if not space.widths or not upper:
        return dict(values)
    low, high = 1 / MOST, MOST
    best = scaled(values, space.domains, low)
    # Shapes and the receptive field follow from depth and kernels, not from widths: no factor would mend them.
    sees = [c for c in constraints if c.metric == "receptive_field"]
    if judge(space, [*upper, *sees], best).reason:
        return best
    for _ in range(STEPS):
        middle = (low * high) ** 0.5
        wider = scaled(values, space.domains, middle)
        if judge(space, upper, wider).reason:
            high = middle
        else:
            low, best = middle, wider
    return best
