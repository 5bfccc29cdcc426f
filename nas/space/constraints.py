"""Parses constraints such as `params<=8000` and computes by how much a cost violates them."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nas.architecture.cost import METRICS, Cost
from nas.boards import Board
from nas.errors import ConstraintError, argument_text, one_of
from nas.inference.full_cost import C_CODE_METRICS
from nas.schema import (
    MAX_COUNT,
    ImageShape,
    Interval,
    check_counts,
    check_instance,
    mismatch_text,
    parse_number,
    sequence_of,
)

_PATTERN = re.compile(r"\s*([a-z_][a-z0-9_]*)\s*(<=|>=)\s*(\S+)\s*")
BOUND = "an integer of at least 1"
LATENCY = Interval(float, 0, MAX_COUNT, open_low=True)
"""Milliseconds of one image."""
LIMITED_METRICS = (*METRICS, *C_CODE_METRICS)
"""Metrics that a constraint may limit: the fields of `FullCost`."""


@dataclass(frozen=True, slots=True)
class Constraint:
    """An upper or lower limit on one metric of a network's cost.

    Attributes:
        metric: name of a field of `FullCost`.
        relation: "<=" or ">=".
        bound: the limit, an integer of at least 1.

    Raises:
        ConstraintError: an attribute is not valid.
    """

    metric: str
    relation: str
    bound: int

    def __post_init__(self) -> None:
        if self.metric not in LIMITED_METRICS:
            raise ConstraintError(f"constraint: metric is {mismatch_text(self.metric, one_of(LIMITED_METRICS))}")
        if self.relation not in ("<=", ">="):
            raise ConstraintError(f"constraint: relation is {mismatch_text(self.relation, '<= or >=')}")
        if type(self.bound) is not int or self.bound < 1:
            raise ConstraintError(f"constraint on {self.metric}: bound is {mismatch_text(self.bound, BOUND)}")

    @classmethod
    def parse(cls, text: str) -> "Constraint":
        """Returns the constraint in a text such as "macs<=200000"; raises `ConstraintError` if it is not valid."""
        match = _PATTERN.fullmatch(text)
        if match is None:
            form = f"METRIC<=VALUE or METRIC>=VALUE with METRIC {one_of(LIMITED_METRICS)}"
            raise ConstraintError(f"constraint {text!r} found, expected {form}")
        metric, relation, value = match.groups()
        try:
            number = parse_number(value)
        except ValueError:
            number = math.nan
        if not isinstance(number, int):
            raise ConstraintError(f"constraint on {metric}: bound is {mismatch_text(value, BOUND)}")
        return cls(metric, relation, number)

    @property
    def needs_full_cost(self) -> bool:
        """Whether only a `FullCost` has the metric, because it is one of the C code."""
        return self.metric in C_CODE_METRICS

    def violation(self, cost: Cost) -> float:
        """Returns by how much the cost violates the constraint, relative to the bound; 0 or less if it satisfies it."""
        excess: int = getattr(cost, self.metric) - self.bound
        return (excess if self.relation == "<=" else -excess) / self.bound

    def __str__(self) -> str:
        return f"{self.metric}{self.relation}{self.bound}"


def parse_constraints(constraints: Sequence[str | Constraint]) -> tuple[Constraint, ...]:
    """Returns constraints, of which some or all are given as text; a single one need not be in a list.

    Raises `ConstraintError` if one is not valid.
    """
    return tuple(map(_parsed, sequence_of(constraints)))


def _parsed(constraint: object) -> Constraint:
    if isinstance(constraint, str):
        return Constraint.parse(constraint)
    return check_instance("constraints", constraint, Constraint, "'params<=8000'", ConstraintError)


def most_violated(constraints: Iterable[Constraint], cost: Cost) -> Constraint | None:
    """Returns the constraint with the largest violation, or None if the cost satisfies all constraints."""
    largest, found = 0.0, None
    for constraint in constraints:
        violation = constraint.violation(cost)
        if violation > largest:
            largest, found = violation, constraint
    return found


def tightest_per_metric(constraints: Sequence[Constraint]) -> tuple[Constraint, ...]:
    """Returns the tightest constraint for each metric and relation; raises `ConstraintError` if two contradict."""
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
    """Limits on the cost, named like the command line's options; None means no limit, except where stated.

    Attributes:
        max_params: largest number of parameters.
        min_receptive_field: smallest receptive field in pixels; None means the longer side of the images.
        max_macs: largest number of multiply-accumulates for one example.
        max_activation_bytes: largest `peak_activation_bytes`.
        max_weight_bytes: largest number of bytes of weights.
        board: name of a board whose memory the network's int8 C code must fit into, or "FILE.toml:NAME".
        max_latency_ms: longest time of one image on the board, in ms, if every instruction takes one cycle.
        constraints: further constraints, as objects or as text such as "macs<=200000".
    """

    max_params: int | None = None
    min_receptive_field: int | None = None
    max_macs: int | None = None
    max_activation_bytes: int | None = None
    max_weight_bytes: int | None = None
    board: str | None = None
    max_latency_ms: float | None = None
    constraints: Sequence[str | Constraint] = ()

    def constraints_for(self, input_shape: Sequence[int]) -> tuple[Constraint, ...]:
        """Returns the constraints for images of shape (channels, height, width), one for each metric and relation.

        Raises `NasError` if a limit is not valid, `ConstraintError` if a constraint is not valid or if two contradict.
        """
        check_counts(
            ConstraintError,
            max_params=(self.max_params, 1),
            min_receptive_field=(self.min_receptive_field, 1),
            max_macs=(self.max_macs, 1),
            max_activation_bytes=(self.max_activation_bytes, 1),
            max_weight_bytes=(self.max_weight_bytes, 1),
        )
        side = max(input_shape[1:])
        bounds = (
            ("params", "<=", self.max_params),
            ("receptive_field", ">=", side if self.min_receptive_field is None else self.min_receptive_field),
            ("macs", "<=", self.max_macs),
            ("peak_activation_bytes", "<=", self.max_activation_bytes),
            ("weight_bytes", "<=", self.max_weight_bytes),
        )
        named = [Constraint(metric, relation, bound) for metric, relation, bound in bounds if bound is not None]
        return tightest_per_metric([*named, *self.board_constraints(), *parse_constraints(self.constraints)])

    def board_constraints(self) -> tuple[Constraint, ...]:
        """Returns the constraints that `board` and `max_latency_ms` stand for; raises `NasError` if one is invalid."""
        limit = self.max_latency_ms
        if limit is not None and not LATENCY.accepts(limit):
            raise ConstraintError(f"{argument_text('max_latency_ms', limit)}: expected {LATENCY}")
        if self.board is not None:
            bounds = Board.load(self.board).bounds(max_latency_ms=limit)
            return tuple(Constraint(metric, "<=", bound) for metric, bound in bounds.items())
        if limit is not None:
            raise ConstraintError(f"{argument_text('max_latency_ms', limit)}: expected `board`, too")
        return ()


def limits(
    input_shape: Sequence[int] = (1, 28, 28),
    *,
    max_params: int | None = None,
    min_receptive_field: int | None = None,
    max_macs: int | None = None,
    max_activation_bytes: int | None = None,
    max_weight_bytes: int | None = None,
    board: str | None = None,
    max_latency_ms: float | None = None,
    constraints: Sequence[str | Constraint] = (),
) -> tuple[Constraint, ...]:
    """Returns the constraints that the arguments of the same names stand for in `search`.

    Args:
        input_shape (Sequence[int]): Shape of the images, (channels, height, width). Default: (1, 28, 28), as in MNIST.
        max_params (int | None): Maximum number of trainable parameters. Default: no limit.
        min_receptive_field (int | None): Minimum receptive field in pixels. Default: the longer side of the images.
        max_macs (int | None): Maximum number of multiply-accumulates for one image. Default: no limit.
        max_activation_bytes (int | None): Maximum bytes of float32 activations alive at once, for one image. Default:
            no limit.
        max_weight_bytes (int | None): Maximum bytes of stored float32 parameters and buffers. Default: no limit.
        board (str | None): Name of a board, such as "pico", or "FILE.toml:NAME". The network's int8 C code must fit
            into half of its RAM and of its flash. Default: no board.
        max_latency_ms (float | None): Longest time of one image on the board, in ms, if every instruction takes one
            cycle; needs `board`. Default: no limit.
        constraints (Sequence[str | Constraint]): Further limits on metrics of `FullCost`, such as "macs<=200000"; one
            or several. Default: none.

    Returns:
        One constraint for each metric and relation, the tightest.

    Raises:
        ConstraintError: If the shape is not valid, a limit is not an integer of at least 1, a constraint is not valid,
            or two contradict.
    """
    shape = list(input_shape) if isinstance(input_shape, Sequence) else input_shape
    if not ImageShape().accepts(shape):
        raise ConstraintError(f"{argument_text('input_shape', input_shape)}: expected {ImageShape()}")
    return Limits(
        max_params=max_params,
        min_receptive_field=min_receptive_field,
        max_macs=max_macs,
        max_activation_bytes=max_activation_bytes,
        max_weight_bytes=max_weight_bytes,
        board=board,
        max_latency_ms=max_latency_ms,
        constraints=constraints,
    ).constraints_for(input_shape)
