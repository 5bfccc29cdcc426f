"""Domains: the values that one parameter of a search space can take, in Optuna's terms.

In TOML a scalar is a fixed value, a list is a choice, and `{ low, high, step, log }` is a range. `{ values, weights }`
is a choice with a weight for each value in random draws.
"""

import math
from dataclasses import dataclass, field
from fractions import Fraction
from random import Random
from typing import TYPE_CHECKING, Any

from nas.errors import SearchSpaceError, one_of
from nas.schema import (
    COUNT,
    MAX_COUNT,
    Flag,
    Interval,
    ListOf,
    ScalarSchema,
    check,
    check_keys,
    mismatch_text,
    number_text,
)

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.distributions import BaseDistribution

Value = bool | int | float | str
Values = dict[str, Value]
"""Values of parameters of a search space, by name."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A choice between a few values.

    Attributes:
        values: the values, in the order of the file.
        weights: relative frequency of each value in random draws; empty: all values are equally likely. Optuna's
            samplers ignore the weights.
    """

    values: tuple[Value, ...]
    weights: tuple[int, ...] = field(default=(), repr=False)

    def draw(self, rng: Random) -> Value:
        """Returns a random value, with probabilities proportional to the weights."""
        if self.weights:
            return rng.choices(self.values, self.weights)[0]
        return self.values[int(rng.random() * len(self.values))]

    def random_neighbour(self, value: Value, rng: Random) -> Value:
        """Returns the next smaller or larger number at random, or any other value if they are not all numbers."""
        others = [x for x in self.values if x != value]
        if all(map(_is_number, self.values)):
            order = sorted(self.values, key=float)
            place = order.index(value)
            others = order[max(0, place - 1) : place] + order[place + 1 : place + 2]
        return others[int(rng.random() * len(others))]

    def grid(self) -> tuple[Value, ...]:
        """Returns the values to try in a search along this parameter: all of them."""
        return self.values

    def accepts(self, value: object) -> bool:
        """Returns whether `value` is one of the values and has the same type."""
        return any(type(value) is type(x) and value == x for x in self.values)

    def nearest(self, value: Value) -> Value:
        """Returns the value itself if it is one of the choice.

        Otherwise returns the closest one if all are numbers, else the first one.
        """
        if self.accepts(value):
            return value
        if not all(_is_number(x) for x in (value, *self.values)):
            return self.values[0]
        return min(self.values, key=lambda x: abs(float(x) - float(value)))

    def suggest(self, trial: "Trial", name: str) -> Value:
        """Suggests the parameter through an Optuna trial and returns its value."""
        value: Value = trial.suggest_categorical(name, self.values)  # type: ignore[assignment]
        return value

    def distribution(self) -> "BaseDistribution":
        """Returns the corresponding Optuna distribution."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.values)


@dataclass(frozen=True, slots=True)
class IntRange:
    """Integers from low to high, both included, drawn uniformly or, with `log`, log-uniformly."""

    low: int
    high: int
    step: int = 1
    log: bool = False

    def draw(self, rng: Random) -> int:
        """Returns a random number of the range."""
        if self.log:
            drawn = math.exp(rng.uniform(math.log(self.low - 0.5), math.log(self.high + 0.5)))
            return min(max(round(drawn), self.low), self.high)
        return self.low + self.step * int(rng.random() * ((self.high - self.low) // self.step + 1))

    def random_neighbour(self, value: Value, rng: Random) -> int:
        """Returns a random number near the value: away by at most a fifth of the value, and by at least one step."""
        assert isinstance(value, int)
        most = max(1, value // (5 * self.step))
        step = self.step * (1 + int(rng.random() * most))
        others = [x for x in (self.nearest(value - step), self.nearest(value + step)) if x != value]
        return others[int(rng.random() * len(others))]

    def grid(self) -> tuple[int, ...]:
        """Returns every number of the range or, if there are more than 100, an even sample that includes both ends."""
        every = range(self.low, self.high + 1, self.step)
        return *every[: -1 : 1 + (len(every) - 1) // 100], self.high

    def accepts(self, value: object) -> bool:
        """Returns whether `value` is a number of the range."""
        return type(value) is int and self.low <= value <= self.high and (value - self.low) % self.step == 0

    def nearest(self, value: Value) -> int:
        """Returns the number of the range that is closest to `value`."""
        steps = round((min(max(float(value), self.low), self.high) - self.low) / self.step)
        return self.low + self.step * min(steps, (self.high - self.low) // self.step)

    def suggest(self, trial: "Trial", name: str) -> int:
        """Suggests the parameter through an Optuna trial and returns its value."""
        return trial.suggest_int(name, self.low, self.high, step=self.step, log=self.log)

    def distribution(self) -> "BaseDistribution":
        """Returns the corresponding Optuna distribution."""
        from optuna.distributions import IntDistribution

        return IntDistribution(self.low, self.high, log=self.log, step=self.step)


@dataclass(frozen=True, slots=True)
class FloatRange:
    """Numbers from low to high, both included, drawn uniformly, in steps, or log-uniformly."""

    low: float
    high: float
    step: float | None = None
    log: bool = False

    def draw(self, rng: Random) -> float:
        """Returns a random number of the range."""
        if self.log:
            return min(max(math.exp(rng.uniform(math.log(self.low), math.log(self.high))), self.low), self.high)
        if self.step is None:
            return rng.uniform(self.low, self.high)
        steps = round((self.high - self.low) / self.step)
        return self.rounded_value(self.low + self.step * int(rng.random() * (steps + 1)))

    def rounded_value(self, value: float) -> float:
        """Returns the number, within the range, rounded to 3 significant digits, or to 12 if the range has steps."""
        digits = 3 if self.step is None else 12  # 12 digits remove rounding errors of TPE, such as 0.15000000000000002
        return min(max(float(f"{value:.{digits}g}"), self.low), self.high)

    def random_neighbour(self, value: Value, rng: Random) -> float:
        """Returns a random number near the value.

        The distance is one step or, without steps, 10 to 33 % of the range (of its logarithm with `log`).
        """
        low, high, at = (math.log(x) if self.log else x for x in (self.low, self.high, float(value)))
        step = self.step or rng.uniform(0.1, 0.33) * (high - low)
        slack = 1e-9 * (high - low)
        others = [x for x in (at - step, at + step) if low - slack <= x <= high + slack]
        moved = others[int(rng.random() * len(others))]
        return self.nearest(math.exp(moved) if self.log else moved)

    def grid(self) -> tuple[float, ...]:
        """Returns both ends of the range."""
        return self.low, self.high

    def accepts(self, value: object) -> bool:
        """Returns whether `value` is a number between low and high; steps are not considered."""
        return _is_number(value) and self.low <= value <= self.high  # type: ignore[operator]

    def nearest(self, value: Value) -> float:
        """Returns the number of the range that is closest to `value`."""
        inside = min(max(float(value), self.low), self.high)
        if self.step is None:
            return inside
        return self.rounded_value(self.low + self.step * round((inside - self.low) / self.step))

    def suggest(self, trial: "Trial", name: str) -> float:
        """Suggests the parameter through an Optuna trial and returns its value."""
        return trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)

    def distribution(self) -> "BaseDistribution":
        """Returns the corresponding Optuna distribution."""
        from optuna.distributions import FloatDistribution

        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


Domain = Choice | IntRange | FloatRange


def domain_text(domain: Domain | Value) -> str:
    """Returns the values of a domain, or a fixed value, as messages say what they expect."""
    if isinstance(domain, Choice):
        return one_of(map(value_text, domain.values))
    if not isinstance(domain, IntRange | FloatRange):
        return value_text(domain)
    noun = "an integer" if isinstance(domain, IntRange) else "a number"
    steps = f" in steps of {domain.step}" if domain.step not in (None, 1) else ""
    return f"{noun} from {domain.low} to {domain.high}{steps}"


def value_text(value: Value) -> str:
    """Returns a parameter's value as TOML spells it, strings without quotes."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def parse_domain(data: object, expected: ScalarSchema, where: str) -> Domain | Value:
    """Returns the domain or the fixed value in a TOML value.

    Args:
        data: parsed TOML.
        expected: check of each value of the parameter.
        where: start of every error message: the file and the key.

    Raises:
        SearchSpaceError: the domain is not valid.
    """
    if isinstance(data, dict) and "values" in data:
        return _parse_weighted_choice(data, expected, where)
    if isinstance(data, dict):
        return _parse_range(data, expected, where)
    if not isinstance(data, list):
        return _parse_value(data, expected, where)
    values = _parse_values(data, expected, where)
    return Choice(values) if len(values) > 1 else values[0]


def _parse_values(data: list[Any], expected: ScalarSchema, where: str) -> tuple[Value, ...]:
    if not data:
        raise SearchSpaceError(f"{where} is [], expected at least one item, each {expected}")
    values = tuple(_parse_value(item, expected, where) for item in data)
    if len(set(values)) < len(values):
        raise SearchSpaceError(f"{where} is {mismatch_text(data, 'each value once')}")
    return values


def _parse_weighted_choice(data: dict[str, Any], expected: ScalarSchema, where: str) -> Choice:
    check_keys(data, ("values", "weights"), where, SearchSpaceError, required={"values", "weights"})
    check(data["values"], ListOf(expected, 2), f"{where}: values", SearchSpaceError)
    values = _parse_values(data["values"], expected, f"{where}: values")
    check(data["weights"], ListOf(COUNT, len(values), len(values)), f"{where}: weights", SearchSpaceError)
    return Choice(values, tuple(data["weights"]))


def _parse_value(data: Any, expected: ScalarSchema, where: str) -> Value:
    check(data, expected, where, SearchSpaceError)
    # Each parameter has one type, because Optuna's storage treats 0 and 0.0 as different choices.
    value: Value = float(data) if isinstance(expected, Interval) and expected.kind is float else data
    return value


def _parse_range(data: dict[str, Any], expected: ScalarSchema, where: str) -> Domain | Value:
    if not isinstance(expected, Interval):
        raise SearchSpaceError(f"{where}: a range found, expected a value or a list of values, each {expected}")
    check_keys(data, ("low", "high", "step", "log"), where, SearchSpaceError, required={"low", "high"})
    low, high = (_parse_value(data[key], expected, f"{where}: {key}") for key in ("low", "high"))
    log = data.get("log", False)
    check(log, Flag(), f"{where}: log", SearchSpaceError)
    assert isinstance(low, int | float)
    assert isinstance(high, int | float)
    if low > high:
        raise SearchSpaceError(f"{where}: low ({low}) is above high ({high})")
    if log and low <= 0:
        raise SearchSpaceError(f"{where}: low is {low} with log = true, expected a number above 0")
    step = data.get("step")
    if step is not None:
        _check_step(step, expected.kind, low, high, log, where)
    if low == high:
        return low
    if expected.kind is int:
        return IntRange(int(low), int(high), step or 1, log)
    return FloatRange(low, high, float(step) if step is not None else None, log)


def _check_step(step: Any, kind: type, low: float, high: float, log: bool, where: str) -> None:
    check(step, Interval(float, 0, open_low=True) if kind is float else COUNT, f"{where}: step", SearchSpaceError)
    if log:
        raise SearchSpaceError(f"{where}: step and log = true found, expected only one of them")
    # Computed in decimal, like Optuna: in binary 0.3 is not exactly three steps of 0.1.
    steps = (Fraction(str(high)) - Fraction(str(low))) / Fraction(str(step))
    if steps > MAX_COUNT:
        most = f"at most {number_text(MAX_COUNT)} steps from {low} to {high}"
        raise SearchSpaceError(f"{where}: step is {step}, expected {most}")
    if steps.denominator != 1:
        raise SearchSpaceError(f"{where}: high is {high}, expected low ({low}) plus a multiple of step ({step})")
