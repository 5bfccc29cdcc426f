"""Domains: what one parameter of a search space may be, in Optuna's own words.

A scalar is fixed, a list is a choice, `{ low, high, step, log }` a range. `{ values, weights }` is a choice, too: some
of its values are drawn more often than others.
"""

import math
from dataclasses import dataclass, field
from fractions import Fraction
from random import Random
from typing import TYPE_CHECKING, Any

from nas.errors import SearchSpaceError, found
from nas.schema import COUNT, LARGEST, Allowed, Flag, Interval, Many, check, check_keys

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.distributions import BaseDistribution

Value = bool | int | float | str


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few values. weights: how often a random draw takes each, beside the others; none: equally often.

    Samplers of Optuna's know no weights: to them all values are alike.
    """

    values: tuple[Value, ...]
    weights: tuple[int, ...] = field(default=(), repr=False)

    def draw(self, rng: Random) -> Value:
        """A value, as likely as its weight says."""
        if self.weights:
            return rng.choices(self.values, self.weights)[0]
        return self.values[int(rng.random() * len(self.values))]

    def step_from(self, value: Value, rng: Random) -> Value:
        """The next larger or smaller one of numbers; another word, each as likely."""
        others = [x for x in self.values if x != value]
        if all(map(_is_number, self.values)):
            order = sorted(self.values, key=float)
            place = order.index(value)
            others = order[max(0, place - 1) : place] + order[place + 1 : place + 2]
        return others[int(rng.random() * len(others))]

    def grid(self) -> tuple[Value, ...]:
        """The values worth trying in a search along one parameter: here all."""
        return self.values

    def holds(self, value: object) -> bool:
        """Whether it is one of the values, of the same type."""
        return any(type(value) is type(x) and value == x for x in self.values)

    def nearest(self, value: Value) -> Value:
        """The value itself where it is one of these, else the number that comes closest, else the first."""
        if self.holds(value) or not all(_is_number(x) for x in (value, *self.values)):
            return value if self.holds(value) else self.values[0]
        return min(self.values, key=lambda x: abs(float(x) - float(value)))

    def suggest(self, trial: "Trial", name: str) -> Value:
        """The trial's value."""
        value: Value = trial.suggest_categorical(name, self.values)  # type: ignore[assignment]
        return value

    def distribution(self) -> "BaseDistribution":
        """Optuna's counterpart."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.values)


@dataclass(frozen=True, slots=True)
class IntRange:
    """Whole numbers from low to high, both included, drawn evenly or evenly in the logarithm."""

    low: int
    high: int
    step: int = 1
    log: bool = False

    def draw(self, rng: Random) -> int:
        """A number of the range."""
        if self.log:
            drawn = math.exp(rng.uniform(math.log(self.low - 0.5), math.log(self.high + 0.5)))
            return min(max(round(drawn), self.low), self.high)
        return self.low + self.step * int(rng.random() * ((self.high - self.low) // self.step + 1))

    def step_from(self, value: Value, rng: Random) -> int:
        """A number close to the value: up to a fifth larger or smaller, and another one at the least."""
        assert isinstance(value, int)
        most = max(1, value // (5 * self.step))
        step = self.step * (1 + int(rng.random() * most))
        others = [x for x in (self.nearest(value - step), self.nearest(value + step)) if x != value]
        return others[int(rng.random() * len(others))]

    def grid(self) -> tuple[int, ...]:
        """Every number of the range; of more than 100 an even sample with both ends."""
        every = range(self.low, self.high + 1, self.step)
        return *every[: -1 : 1 + (len(every) - 1) // 100], self.high

    def holds(self, value: object) -> bool:
        """Whether it is a number of the range."""
        return type(value) is int and self.low <= value <= self.high and (value - self.low) % self.step == 0

    def nearest(self, value: Value) -> int:
        """The number of the range that comes closest."""
        steps = round((min(max(float(value), self.low), self.high) - self.low) / self.step)
        return self.low + self.step * min(steps, (self.high - self.low) // self.step)

    def suggest(self, trial: "Trial", name: str) -> int:
        """The trial's value."""
        return trial.suggest_int(name, self.low, self.high, step=self.step, log=self.log)

    def distribution(self) -> "BaseDistribution":
        """Optuna's counterpart."""
        from optuna.distributions import IntDistribution

        return IntDistribution(self.low, self.high, log=self.log, step=self.step)


@dataclass(frozen=True, slots=True)
class FloatRange:
    """Numbers from low to high, in steps, evenly, or evenly in the logarithm."""

    low: float
    high: float
    step: float | None = None
    log: bool = False

    def draw(self, rng: Random) -> float:
        """A number of the range."""
        if self.log:
            return min(max(math.exp(rng.uniform(math.log(self.low), math.log(self.high))), self.low), self.high)
        if self.step is None:
            return rng.uniform(self.low, self.high)
        steps = round((self.high - self.low) / self.step)
        return self.short(self.low + self.step * int(rng.random() * (steps + 1)))

    def short(self, value: float) -> float:
        """The number without digits that mean nothing: 3 significant ones, or of a step's multiple those it has."""
        digits = 3 if self.step is None else 12  # TPE says 0.15000000000000002 for 0.15
        return min(max(float(f"{value:.{digits}g}"), self.low), self.high)

    def step_from(self, value: Value, rng: Random) -> float:
        """A number close to the value: a step away, or a tenth to a third of the range (of its logarithm)."""
        low, high, at = (math.log(x) if self.log else x for x in (self.low, self.high, float(value)))
        step = self.step or rng.uniform(0.1, 0.33) * (high - low)
        slack = 1e-9 * (high - low)
        others = [x for x in (at - step, at + step) if low - slack <= x <= high + slack]
        moved = others[int(rng.random() * len(others))]
        return self.nearest(math.exp(moved) if self.log else moved)

    def grid(self) -> tuple[float, ...]:
        """Both ends."""
        return self.low, self.high

    def holds(self, value: object) -> bool:
        """Whether it is a number between low and high."""
        return _is_number(value) and self.low <= value <= self.high  # type: ignore[operator]

    def nearest(self, value: Value) -> float:
        """The number of the range that comes closest."""
        inside = min(max(float(value), self.low), self.high)
        return (
            inside if self.step is None else self.short(self.low + self.step * round((inside - self.low) / self.step))
        )

    def suggest(self, trial: "Trial", name: str) -> float:
        """The trial's value."""
        return trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)

    def distribution(self) -> "BaseDistribution":
        """Optuna's counterpart."""
        from optuna.distributions import FloatDistribution

        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


Domain = Choice | IntRange | FloatRange


def read(data: object, allowed: Allowed, where: str) -> Domain | Value:
    """The domain, or the fixed value, in a TOML value; raises `SearchSpaceError` beginning with `where`."""
    if isinstance(data, dict):
        return _weighted(data, allowed, where) if "values" in data else _range(data, allowed, where)
    if not isinstance(data, list):
        return _value(data, allowed, where)
    values = _values(data, allowed, where)
    return Choice(values) if len(values) > 1 else values[0]


def _values(data: list[Any], allowed: Allowed, where: str) -> tuple[Value, ...]:
    if not data:
        raise SearchSpaceError(f"{where}: an empty list, allowed: at least one of: {allowed}")
    values = tuple(_value(item, allowed, where) for item in data)
    if len(set(values)) < len(values):
        raise SearchSpaceError(f"{where}: {found(data)} names a value twice")
    return values


def _weighted(data: dict[str, Any], allowed: Allowed, where: str) -> Choice:
    check_keys(data, ("values", "weights"), where, SearchSpaceError, required={"values", "weights"})
    check(data["values"], Many(allowed, 2), f"{where}: values", SearchSpaceError)
    values = _values(data["values"], allowed, f"{where}: values")
    check(data["weights"], Many(COUNT, len(values), len(values)), f"{where}: weights", SearchSpaceError)
    return Choice(values, tuple(data["weights"]))


def _value(data: Any, allowed: Allowed, where: str) -> Value:
    check(data, allowed, where, SearchSpaceError)
    # One type a parameter: 0 and 0.0 would be two choices to Optuna's storage.
    value: Value = float(data) if isinstance(allowed, Interval) and allowed.kind is float else data
    return value


def _range(data: dict[str, Any], allowed: Allowed, where: str) -> Domain | Value:
    if not isinstance(allowed, Interval):
        raise SearchSpaceError(f"{where}: a range, allowed: a value or a list of: {allowed}")
    check_keys(data, ("low", "high", "step", "log"), where, SearchSpaceError, required={"low", "high"})
    low, high = (_value(data[key], allowed, f"{where}: {key}") for key in ("low", "high"))
    log = data.get("log", False)
    check(log, Flag(), f"{where}: log", SearchSpaceError)
    assert isinstance(low, int | float)
    assert isinstance(high, int | float)
    if low > high:
        raise SearchSpaceError(f"{where}: low ({low}) is above high ({high})")
    if log and low <= 0:
        raise SearchSpaceError(f"{where}: low ({low}) with log, allowed: above 0")
    step = data.get("step")
    if step is not None:
        _check_step(step, allowed.kind, low, high, log, where)
    if low == high:
        return low
    if allowed.kind is int:
        return IntRange(int(low), int(high), step or 1, log)
    return FloatRange(low, high, float(step) if step is not None else None, log)


def _check_step(step: Any, kind: type, low: float, high: float, log: bool, where: str) -> None:
    check(step, Interval(float, 0, open_low=True) if kind is float else COUNT, f"{where}: step", SearchSpaceError)
    if log:
        raise SearchSpaceError(f"{where}: step and log together, allowed: one of them")
    # In the digits that the file has, as Optuna counts: in binary 0.3 is not three steps of 0.1.
    steps = (Fraction(str(high)) - Fraction(str(low))) / Fraction(str(step))
    if steps > LARGEST:
        raise SearchSpaceError(f"{where}: step: {step} goes more than {LARGEST:g} times into {low} to {high}")
    if steps.denominator != 1:
        raise SearchSpaceError(f"{where}: high ({high}) is not low ({low}) plus a whole number of steps of {step}")
