"""Checks values and keys read from files and studies, with messages that all have the same form."""

import math
import sys
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any, TypeVar

from nas.errors import NasError, argument_text, names_text, one_of, short_repr, suggestion

T = TypeVar("T")

MAX_COUNT = 10**12
"""Upper limit of sizes and counts. Larger than any machine needs; products of a few of them can still be printed."""


@dataclass(frozen=True, slots=True)
class Interval:
    """Numbers in a range.

    Attributes:
        kind: int for integers only; float for integers and floats.
        low: lower bound.
        high: upper bound. Without one, integers are limited to `MAX_COUNT`, other numbers to the largest float.
        open_low: excludes `low` itself.
        open_high: excludes `high` itself.
    """

    kind: type[int] | type[float]
    low: float
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def accepts(self, value: object) -> bool:
        """Returns whether a value is a number in the range; bools are not numbers."""
        if isinstance(value, bool) or not isinstance(value, int if self.kind is int else int | float):
            return False
        above = self.low < value if self.open_low else self.low <= value
        below = value < self.high if self.open_high else value <= self.high
        return above and below and abs(value) <= self._largest()

    def _largest(self) -> float:
        """Returns the largest absolute value: `MAX_COUNT` for integers without `high`, else the largest float."""
        return MAX_COUNT if self.kind is int and self.high == math.inf else sys.float_info.max

    def __str__(self) -> str:
        noun = "an integer" if self.kind is int else "a number"
        low, high = number_text(self.low), min(self.high, self._largest())
        if high < sys.float_info.max and not (self.open_low or self.open_high):
            return f"{noun} from {low} to {number_text(high)}"
        above = f"{noun} {'above' if self.open_low else 'of at least'} {low}"
        below = f" and {'below' if self.open_high else 'at most'} {number_text(high)}"
        return above + below * (high < sys.float_info.max)


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of a few words."""

    words: tuple[str, ...]

    def accepts(self, value: object) -> bool:
        """Returns whether a value is one of the words."""
        return isinstance(value, str) and value in self.words

    def __str__(self) -> str:
        return one_of(self.words)


@dataclass(frozen=True, slots=True)
class Flag:
    """True or false."""

    def accepts(self, value: object) -> bool:
        """Returns whether a value is a bool."""
        return isinstance(value, bool)

    def __str__(self) -> str:
        return "true or false"


@dataclass(frozen=True, slots=True)
class Text:
    """Any text."""

    def accepts(self, value: object) -> bool:
        """Returns whether a value is a string."""
        return isinstance(value, str)

    def __str__(self) -> str:
        return "a string"


@dataclass(frozen=True, slots=True)
class ImageShape:
    """The shape of an image: a list [channels, height, width]."""

    def accepts(self, value: object) -> bool:
        """Returns whether a value is a list of three integers from 1 to `MAX_COUNT`."""
        return isinstance(value, list) and len(value) == 3 and all(COUNT.accepts(side) for side in value)

    def __str__(self) -> str:
        return f"[channels, height, width], each {COUNT}"


ScalarSchema = Interval | OneOf | Flag | Text | ImageShape


@dataclass(frozen=True, slots=True)
class Nullable:
    """None, or a value that fits `of`."""

    of: "ListOf | ObjectOf"


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list or tuple of `min_items` to `max_items` values that fit `of`."""

    of: "ScalarSchema | ListOf | Nullable | ObjectOf"
    min_items: int = 0
    max_items: float = math.inf

    def __str__(self) -> str:
        if self.max_items == math.inf:
            return (
                f"a list of at least {self.min_items} item{'s' * (self.min_items != 1)}" if self.min_items else "a list"
            )
        least = f"{self.min_items} to " if self.min_items < self.max_items else ""
        return f"a list of {least}{self.max_items} item{'s' * (self.max_items != 1)}"


@dataclass(frozen=True, slots=True)
class ObjectOf:
    """An object (a dict with string keys).

    Attributes:
        fields: what each known key must hold.
        required: keys that must be present.
        others: what unknown keys must hold; None accepts anything.
        closed: refuses unknown keys.
    """

    fields: "Mapping[str, ScalarSchema | ListOf | Nullable | ObjectOf]"
    required: Set[str] = frozenset()
    others: "ScalarSchema | ListOf | Nullable | ObjectOf | None" = None
    closed: bool = False


def check(
    value: object, expected: ScalarSchema | ListOf | Nullable | ObjectOf, where: str, error: type[NasError]
) -> None:
    """Raises `error`, which names the place `where`, the value and what was expected, unless the value fits."""
    if isinstance(expected, Nullable):
        if value is not None:
            check(value, expected.of, where, error)
    elif isinstance(expected, ListOf):
        if not isinstance(value, list | tuple) or not expected.min_items <= len(value) <= expected.max_items:
            raise error(f"{where} is {mismatch_text(value, expected)}")
        for index, item in enumerate(value):
            check(item, expected.of, f"{where}[{index}]", error)
    elif isinstance(expected, ObjectOf):
        known = expected.fields if expected.closed else None
        for key, item in check_keys(value, known, where, error, required=expected.required).items():
            inner = expected.fields.get(key, expected.others)
            if inner is not None and not (isinstance(inner, ScalarSchema) and inner.accepts(item)):
                check(item, inner, f"{where}: {names_text([key])}", error)  # the text is slow: built only if needed
    elif not expected.accepts(value):
        raise error(f"{where} is {mismatch_text(value, expected)}")


def check_keys(
    value: object,
    known: Iterable[str] | None,
    where: str,
    error: type[NasError],
    *,
    required: Set[str] = frozenset(),
) -> Mapping[str, Any]:
    """Returns the value if it is an object with all `required` keys and only `known` ones (None: any keys).

    Raises `error` otherwise, which names unknown keys first: a misspelt key is missing, too. `where` names the place in
    the message; it may be empty if the caller adds the place.
    """
    place = f"{where}: " if where else ""
    if not isinstance(value, dict):
        wanted = f"an object with {', '.join(sorted(required))}" if required else "an object"
        raise error(f"{place}{short_repr(value)} found, expected {wanted}")
    problems = []
    if known is not None and (unknown := value.keys() - set(known)):
        keys = ", ".join(sorted(short_repr(key) + suggestion(key, known) for key in unknown))
        problems.append(f"unknown key{'s' * (len(unknown) > 1)} {keys}, expected {one_of(known)}")
    if missing := required - value.keys():
        problems.append(f"{names_text(missing)} {'is' if len(missing) == 1 else 'are'} missing")
    if problems:
        raise error(place + "; ".join(problems))
    return value


def mismatch_text(value: object, expected: object) -> str:
    """Returns the part of a message that names the value found and what was expected."""
    return f"{short_repr(value)}, expected {expected}"


def number_text(number: float) -> str:
    """Returns a number of a rule as messages show it, such as "180", "0.5" or "1e12"."""
    return f"{number:g}".replace("e+", "e")


EXPONENT_BY_SUFFIX = {"k": "e3", "K": "e3", "M": "e6"}  # "m" would be read as minutes or milli


def parse_number(text: str) -> int | float:
    """Returns the number in a text such as "8000", "8k", "1.5M" or "0.994", an int if it is whole.

    Raises `ValueError` if the text is not a number.
    """
    text = text.strip()
    for suffix, exponent in EXPONENT_BY_SUFFIX.items():
        if text.endswith(suffix):
            text = text.removesuffix(suffix) + exponent  # "2.3e3" is exact, 2.3 * 1000 is not
    try:
        return int(text)
    except ValueError:
        number = float(text)
        return int(number) if number % 1 == 0 else number  # the remainder of nan and inf is nan


TEXT = Text()
INDEX = Interval(int, 0)
COUNT = Interval(int, 1)
"""An integer of at least 1."""
TARGET = Interval(float, 0, 1, open_low=True)
"""An accuracy to reach, as a fraction."""
DEFAULT_TARGET = 0.994
RATE = Interval(float, 0, 1, open_high=True)
"""A probability below 1."""


def check_target(target: float) -> None:
    """Raises `NasError` unless a target accuracy is a fraction above 0 and at most 1."""
    if not TARGET.accepts(target):
        raise NasError(f"{argument_text('target', target)}: expected {TARGET}, such as 0.994")


def sequence_of(values: Any) -> tuple[Any, ...]:
    """Returns the values of an argument that takes several, as a tuple; a single one need not be in a list."""
    return tuple(values) if isinstance(values, Iterable) and not isinstance(values, str) else (values,)


def check_instance(name: str, value: object, kind: type[T], hint: str, error: type[NasError] = NasError) -> T:
    """Returns the argument `name`; raises `error` unless it is a `kind`. `hint`: an example, such as a call."""
    if isinstance(value, kind):
        return value
    article = "an" if kind.__name__[0] in "AEIOU" else "a"
    raise error(f"{argument_text(name, value)}: expected {article} {kind.__name__}, such as {hint}")


def check_counts(error: type[NasError] = NasError, /, **counts: tuple[int | None, int]) -> None:
    """Raises `error` unless each value, given as `name=(value, minimum)`, is None or an int >= minimum."""
    for name, (value, least) in counts.items():
        if value is not None and (type(value) is not int or value < least):
            raise error(f"{argument_text(name, value)}: expected an integer of at least {least}")
