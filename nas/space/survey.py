"""Surveys a search space: estimates from random draws, without training, which share of it satisfies the limits."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

from nas.architecture.cost import Cost
from nas.schema import check_counts, check_instance
from nas.space.constraints import Constraint, most_violated, parse_constraints
from nas.space.domains import Values
from nas.space.feasibility import IMPOSSIBLE_SHAPE, cost_for, judge, reason_text
from nas.space.fill import with_likely_feasible_widths
from nas.space.search_space import SearchSpace
from nas.space.widths import is_width, scale_widths
from nas.text import html_lines

WIDTH_FACTORS = (1 / 64, 0.25, 0.5, 0.8, 0.95)  # of all widths, tried in the search for the smallest network


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitReport:
    """Effect of one constraint on a search space.

    Attributes:
        constraint: the constraint.
        share_alone: share of all draws that satisfy it, from 0 to 1, whether or not they satisfy the other constraints.
        admits_one_percent: the bound at which 1 % of all draws would be feasible, with the other constraints unchanged;
            None if less than 1 % of the draws satisfy the other constraints.
        binds: True for the constraint with the smallest `share_alone`, unless every buildable draw satisfies it.
    """

    constraint: Constraint
    share_alone: float
    admits_one_percent: int | None
    binds: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceReport:
    """Result of a survey.

    In a space with `widths`, a draw is judged with the widths of `with_likely_feasible_widths`.

    Attributes:
        space: name of the space.
        num_draws: number of random draws.
        num_feasible: number of draws that satisfy all limits.
        discards: number of other draws by reason, the most frequent reason first.
        limits: effect of each constraint.
        admitting_together: the limits, all relaxed by one factor, that 1 % of the draws satisfy; empty if 1 % satisfy
            them unchanged, or if fewer than 1 % can be built.
        smallest: cost of the network with the fewest parameters that was found in the space, whatever the limits.
        smallest_within_limits: the same among networks that satisfy all limits on metrics other than `params`; None if
            there are no limits, or if no such network was found.
    """

    space: str
    num_draws: int
    num_feasible: int
    discards: Mapping[str, int]
    limits: tuple[LimitReport, ...]
    admitting_together: tuple[Constraint, ...]
    smallest: Cost | None
    smallest_within_limits: Cost | None

    @property
    def feasible_share(self) -> float:
        """Share of the draws that satisfy all limits, from 0 to 1."""
        return self.num_feasible / self.num_draws

    def to_json(self) -> dict[str, Any]:
        """Returns plain data for `json.dump`."""
        return {
            "space": self.space,
            "num_draws": self.num_draws,
            "num_feasible": self.num_feasible,
            "feasible_share": self.feasible_share,
            "discards": dict(self.discards),
            "limits": [
                {**asdict(limit), "constraint": str(limit.constraint), "metric": limit.constraint.metric}
                for limit in self.limits
            ],
            "admitting_together": [str(constraint) for constraint in self.admitting_together],
            "smallest": asdict(self.smallest) if self.smallest else None,
            "smallest_within_limits": asdict(self.smallest_within_limits) if self.smallest_within_limits else None,
        }

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def _repr_html_(self) -> str:
        """Returns the lines as HTML, for notebooks."""
        return html_lines(self.lines())

    def lines(self) -> list[str]:
        """Returns the report as lines of text."""
        return [*self._share_lines(), *self._limit_lines(), *self._relaxation_lines(), *self._smallest_lines()]

    @property
    def _is_narrow(self) -> bool:
        """Whether so few draws are feasible that the report says which wider limits would admit 1 % of the space."""
        return self.feasible_share < 0.01

    def _share_lines(self) -> Iterator[str]:
        share = f"{self.num_feasible:,} of {self.num_draws:,} random draws keep the limits ({self.feasible_share:.2%})"
        yield f"space {self.space}: {share}"
        if self.discards:
            num = self.num_draws - self.num_feasible
            counts = ", ".join(
                f"{reason_text(reason)}: {count:,} ({count / self.num_draws:.2%})"
                for reason, count in self.discards.items()
            )
            yield f"the other {num:,} ({num / self.num_draws:.2%}), each by the limit that it misses most: {counts}"

    def _limit_lines(self) -> Iterator[str]:
        if len(self.limits) > 1:
            yield "each limit alone, whatever the others; a draw of impossible shape keeps none:"
        for limit in self.limits:
            text = f"{'  ' * (len(self.limits) > 1)}{limit.constraint}: kept by {limit.share_alone:.2%} of all draws"
            if limit.binds:
                text += "; it excludes the most"
            if self._is_narrow and limit.admits_one_percent is not None:
                text += f"; {limit.constraint.metric}{limit.constraint.relation}{limit.admits_one_percent}"
                text += " would admit 1 % of the space"
            yield text

    def _relaxation_lines(self) -> Iterator[str]:
        if self.discards.get(IMPOSSIBLE_SHAPE) == self.num_draws:
            yield "no draw can be built: a feature map would be smaller than its window"
        elif self._is_narrow and self.limits and all(limit.admits_one_percent is None for limit in self.limits):
            together = " and ".join(map(str, self.admitting_together))
            wider = f"{together} together" if together else "nothing"
            yield f"no value of one limit would admit 1 % of the space; {wider} would"

    def _smallest_lines(self) -> Iterator[str]:
        others = " and ".join(str(limit.constraint) for limit in self.limits if limit.constraint.metric != "params")
        for condition, cost in (
            (f"that keeps {others}", self.smallest_within_limits if others else None),
            ("if limits are ignored", self.smallest),
        ):
            if cost is not None:
                text = f"smallest network found {condition}: {cost.params:,} parameters"
                yield f"{text}, receptive field {cost.receptive_field}"


def survey(
    space: SearchSpace, constraints: Sequence[str | Constraint] = (), *, num_draws: int = 10_000, seed: int = 0
) -> SpaceReport:
    """Estimates which share of a search space keeps limits, from random draws and without training; takes seconds.

    Args:
        space (SearchSpace): Search space.
        constraints (Sequence[str | Constraint]): Limits, such as those that `limits` returns, or "params<=8000"; one or
            several. Default: none.
        num_draws (int): Number of random draws, at least 1. Default: 10,000.
        seed (int): Seed of the draws. Default: 0.

    Returns:
        The shares of the draws that keep the limits, the limit that excludes most, and the smallest network found.

    Raises:
        NasError: If `space` is not a `SearchSpace`, a constraint is not valid, or `num_draws` is below 1.
    """
    check_instance("space", space, SearchSpace, "SearchSpace.load('grey')")
    check_counts(num_draws=(num_draws, 1))
    constraints = parse_constraints(constraints)
    discards, buildable = _judge_draws(space, constraints, num_draws, seed)
    costs = [cost for cost, _ in buildable]
    by_params = sorted(buildable, key=lambda draw: draw[0].params)
    others = [c for c in constraints if c.metric != "params"]
    within = [draw for draw in by_params if most_violated(others, draw[0]) is None]
    return SpaceReport(
        space=space.name,
        num_draws=num_draws,
        num_feasible=num_draws - discards.total(),
        discards=dict(discards.most_common()),
        limits=_limit_reports(constraints, costs, num_draws),
        admitting_together=_relaxed_constraints(constraints, costs, math.ceil(num_draws / 100)),
        smallest=_smallest_cost(space, (), by_params[:3]),
        smallest_within_limits=_smallest_cost(space, others, within[:3]) if constraints else None,
    )


def _judge_draws(
    space: SearchSpace, constraints: Sequence[Constraint], num_draws: int, seed: int
) -> tuple[Counter[str], list[tuple[Cost, Values]]]:
    """Returns the number of infeasible draws by reason, and the cost and values of each draw that can be built."""
    rng = Random(seed)
    discards: Counter[str] = Counter()
    buildable: list[tuple[Cost, Values]] = []
    for _ in range(num_draws):
        values = with_likely_feasible_widths(space, constraints, space.draw(rng))
        judgement = judge(space, constraints, values)
        if judgement.architecture is not None:
            buildable.append((cost_for(constraints, judgement.architecture, judgement.cost), values))
        if judgement.reason:
            discards[judgement.reason] += 1
    return discards, buildable


def _limit_reports(constraints: Sequence[Constraint], costs: Sequence[Cost], num_draws: int) -> tuple[LimitReport, ...]:
    """Returns the effect of each constraint on all draws; `costs` are those of the draws that can be built."""
    shares = [sum(c.violation(cost) <= 0 for cost in costs) / num_draws for c in constraints]
    binding = min(range(len(shares)), key=shares.__getitem__, default=None)
    return tuple(
        LimitReport(
            constraint=constraint,
            share_alone=shares[index],
            admits_one_percent=_bound_admitting(index, constraints, costs, math.ceil(num_draws / 100)),
            binds=index == binding and shares[index] < len(costs) / num_draws,
        )
        for index, constraint in enumerate(constraints)
    )


def any_feasible(
    space: SearchSpace, constraints: Sequence[Constraint], *, num_draws: int = 1_000, seed: int = 0
) -> bool:
    """Returns whether one of the first `num_draws` draws of a survey is feasible; stops at the first that is."""
    rng = Random(seed)
    draws = (with_likely_feasible_widths(space, constraints, space.draw(rng)) for _ in range(num_draws))
    return any(not judge(space, constraints, values).reason for values in draws)


def _bound_admitting(index: int, constraints: Sequence[Constraint], costs: Sequence[Cost], wanted: int) -> int | None:
    """Returns the tightest bound of the constraint `index` with which `wanted` costs keep all constraints.

    None if fewer costs keep the other constraints.
    """
    constraint = constraints[index]
    others = [c for i, c in enumerate(constraints) if i != index]
    values = sorted(
        (getattr(cost, constraint.metric) for cost in costs if most_violated(others, cost) is None),
        reverse=constraint.relation == ">=",
    )
    return values[wanted - 1] if len(values) >= wanted else None


def _relaxed_constraints(
    constraints: Sequence[Constraint], costs: Sequence[Cost], wanted: int
) -> tuple[Constraint, ...]:
    """Returns the constraints, relaxed by the smallest common factor with which `wanted` costs keep all of them.

    Empty if they need no relaxation, or if there are fewer costs.
    """
    factors = sorted(max((_factor(c, cost) for c in constraints), default=1.0) for cost in costs)
    if len(factors) < wanted or factors[wanted - 1] <= 1:
        return ()
    factor = factors[wanted - 1]
    return tuple(
        Constraint(
            c.metric, c.relation, math.ceil(c.bound * factor) if c.relation == "<=" else max(1, int(c.bound / factor))
        )
        for c in constraints
    )


def _factor(constraint: Constraint, cost: Cost) -> float:
    """Returns the factor by which the bound must be relaxed to admit the cost; at most 1 if it already does."""
    value: int = getattr(cost, constraint.metric)
    return value / constraint.bound if constraint.relation == "<=" else constraint.bound / max(value, 1)


def _smallest_cost(
    space: SearchSpace, constraints: Sequence[Constraint], starts: Sequence[tuple[Cost, Values]]
) -> Cost | None:
    """Returns the cost with the fewest parameters that coordinate descent finds from the given starts.

    One step changes one parameter of the network, or scales all widths.
    """
    best: Cost | None = None
    for start in starts:
        cost, values = start
        improved = True
        while improved:
            improved = False
            for changed in _neighbours(space, values):
                judgement = judge(space, constraints, changed)
                if not judgement.reason and judgement.cost is not None and judgement.cost.params < cost.params:
                    values, cost, improved = changed, judgement.cost, True
        if best is None or cost.params < best.params:
            best = cost
    return best


def _neighbours(space: SearchSpace, values: Values) -> Iterator[Values]:
    """Yields the values after each step of `_smallest_cost`."""
    for name, domain in space.domains.items():
        if not name.startswith("recipe.") and not (space.widths and is_width(name)):  # recipes do not change the cost
            yield from ({**values, name: value} for value in domain.grid())
    if space.widths:
        yield from (scale_widths(values, space.domains, factor) for factor in WIDTH_FACTORS)
