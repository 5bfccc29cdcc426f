"""Constraints: parses `METRIC<=VALUE`, and computes by how much a cost violates it."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nas.architecture.cost import METRICS, Cost
from nas.errors import ConstraintError

_PATTERN = re.compile(r"\s*([a-z_]+)\s*(<=|>=)\s*(\S+)\s*")


@dataclass(frozen=True, slots=True)
class Constraint:
    """`metric <= bound` or `metric >= bound` on one of the metrics of `Cost`."""

    metric: str
    relation: str
    bound: int

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ConstraintError(f"constraint on {self.metric!r}, allowed metrics: {', '.join(METRICS)}")
        if self.relation not in ("<=", ">="):
            raise ConstraintError(f"constraint with {self.relation!r}, allowed: <=, >=")
        if type(self.bound) is not int or self.bound < 1:
            raise ConstraintError(f"{self.metric}{self.relation}{self.bound}: allowed: a whole number of at least 1")

    @classmethod
    def parse(cls, text: str) -> "Constraint":
        """The constraint in a text such as `macs<=200000`."""
        match = _PATTERN.fullmatch(text)
        if match is None:
            raise ConstraintError(
                f"constraint {text!r}, allowed: METRIC<=VALUE or METRIC>=VALUE with a metric of {', '.join(METRICS)}"
            )
        metric, relation, value = match.groups()
        try:
            number = int(value) if value.isdecimal() else float(value)
        except ValueError:
            number = math.nan
        if number % 1 != 0:  # nan, and inf whose remainder is nan, among them
            raise ConstraintError(f"constraint {text!r}: {value!r} is not a whole number")
        return cls(metric, relation, int(number))

    def violation(self, cost: Cost) -> float:
        """By what share of the bound the cost misses it; 0 or less where it is kept."""
        excess: int = getattr(cost, self.metric) - self.bound
        return (excess if self.relation == "<=" else -excess) / self.bound

    def __str__(self) -> str:
        return f"{self.metric}{self.relation}{self.bound}"


def worst(constraints: Iterable[Constraint], cost: Cost) -> Constraint | None:
    """The constraint that the cost misses by the largest share of its bound, None if it keeps them all."""
    largest, found = 0.0, None
    for constraint in constraints:
        violation = constraint.violation(cost)
        if violation > largest:
            largest, found = violation, constraint
    return found


def combine(constraints: Sequence[Constraint]) -> tuple[Constraint, ...]:
    """The constraints with one bound, the tightest, for each metric and side; raises where two contradict."""
    tightest: dict[tuple[str, str], Constraint] = {}
    for constraint in constraints:
        key = constraint.metric, constraint.relation
        choose = min if constraint.relation == "<=" else max
        bound = choose(constraint.bound, tightest[key].bound) if key in tightest else constraint.bound
        tightest[key] = Constraint(*key, bound)
    for (metric, relation), lower in tightest.items():
        upper = tightest.get((metric, "<="))
        if relation == ">=" and upper is not None and lower.bound > upper.bound:
            raise ConstraintError(f"limits contradict: {lower} and {upper}")
    return tuple(tightest.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What candidates must keep, as options name it; None is no limit, and the receptive field covers the images."""

    max_params: int | None = None
    min_receptive_field: int | None = None
    max_macs: int | None = None
    max_activation_bytes: int | None = None
    max_weight_bytes: int | None = None
    constraints: Sequence[str | Constraint] = ()

    def constraints_for(self, input_shape: Sequence[int]) -> tuple[Constraint, ...]:
        """The constraints for images of a shape (channels, height, width); raises `ConstraintError`."""
        side = max(input_shape[1:])
        bounds = (
            ("params", "<=", self.max_params),
            ("receptive_field", ">=", side if self.min_receptive_field is None else self.min_receptive_field),
            ("macs", "<=", self.max_macs),
            ("peak_activation_bytes", "<=", self.max_activation_bytes),
            ("weight_bytes", "<=", self.max_weight_bytes),
        )
        named = [Constraint(metric, relation, bound) for metric, relation, bound in bounds if bound is not None]
        others = [Constraint.parse(c) if isinstance(c, str) else c for c in self.constraints]
        return combine([*named, *others])


def limits(
    input_shape: Sequence[int],
    *,
    max_params: int | None = None,
    min_receptive_field: int | None = None,
    max_macs: int | None = None,
    max_activation_bytes: int | None = None,
    max_weight_bytes: int | None = None,
    constraints: Sequence[str | Constraint] = (),
) -> tuple[Constraint, ...]:
    """The constraints that the options stand for; the receptive field must cover the image unless told otherwise."""
    return Limits(
        max_params=max_params,
        min_receptive_field=min_receptive_field,
        max_macs=max_macs,
        max_activation_bytes=max_activation_bytes,
        max_weight_bytes=max_weight_bytes,
        constraints=constraints,
    ).constraints_for(input_shape)
