"""Checks values and keys read from files and studies, with messages that all have the same form."""

import math
import sys
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any

from nas.errors import NasError, argument, found, named, one_of

LARGEST = 10**12
"""Upper limit of sizes and counts. Larger than any machine needs; products of a few of them can still be printed."""


@dataclass(frozen=True, slots=True)
class Interval:
    """Numbers in a range.

    Attributes:
        kind: int for integers only; float for integers and floats.
        low: lower bound.
        high: upper bound. Without one, integers are limited to `LARGEST`, other numbers to the largest float.
        open_low: excludes `low` itself.
        open_high: excludes `high` itself.
    """

    kind: type[int] | type[float]
    low: float
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def holds(self, value: object) -> bool:
        """Returns whether a value is a number in the range; bools are not numbers."""
        if isinstance(value, bool) or not isinstance(value, int if self.kind is int else int | float):
            return False
        above = self.low < value if self.open_low else self.low <= value
        below = value < self.high if self.open_high else value <= self.high
        return above and below and abs(value) <= self._end()

    def _end(self) -> float:
        """Returns the largest absolute value: `LARGEST` for integers without `high`, else the largest float."""
        return LARGEST if self.kind is int and self.high == math.inf else sys.float_info.max

    def __str__(self) -> str:
        noun = "an integer" if self.kind is int else "a number"
        low, high = number_text(self.low), min(self.high, self._end())
        if high < sys.float_info.max and not (self.open_low or self.open_high):
            return f"{noun} from {low} to {number_text(high)}"
        above = f"{noun} {'above' if self.open_low else 'of at least'} {low}"
        below = f" and {'below' if self.open_high else 'at most'} {number_text(high)}"
        return above + below * (high < sys.float_info.max)


@dataclass(frozen=True, slots=True)
class Words:
    """One of a few words."""

    words: tuple[str, ...]

    def holds(self, value: object) -> bool:
        """Returns whether a value is one of the words."""
        return isinstance(value, str) and value in self.words

    def __str__(self) -> str:
        return one_of(self.words)


@dataclass(frozen=True, slots=True)
class Flag:
    """True or false."""

    def holds(self, value: object) -> bool:
        """Returns whether a value is a bool."""
        return isinstance(value, bool)

    def __str__(self) -> str:
        return "true or false"


@dataclass(frozen=True, slots=True)
class Text:
    """Any text."""

    def holds(self, value: object) -> bool:
        """Returns whether a value is a string."""
        return isinstance(value, str)

    def __str__(self) -> str:
        return "a string"


@dataclass(frozen=True, slots=True)
class ImageShape:
    """The shape of an image: a list [channels, height, width]."""

    def holds(self, value: object) -> bool:
        """Returns whether a value is a list of three integers from 1 to `LARGEST`."""
        return isinstance(value, list) and len(value) == 3 and all(COUNT.holds(side) for side in value)

    def __str__(self) -> str:
        return f"[channels, height, width], each {COUNT}"


Expected = Interval | Words | Flag | Text | ImageShape


@dataclass(frozen=True, slots=True)
class Maybe:
    """None, or a value that fits `of`."""

    of: "Many | Fields"


@dataclass(frozen=True, slots=True)
class Many:
    """A list or tuple of `least` to `most` values that fit `of`."""

    of: "Expected | Many | Maybe | Fields"
    least: int = 0
    most: float = math.inf

    def __str__(self) -> str:
        if self.most == math.inf:
            return f"a list of at least {self.least} item{'s' * (self.least != 1)}" if self.least else "a list"
        least = f"{self.least} to " if self.least < self.most else ""
        return f"a list of {least}{self.most} item{'s' * (self.most != 1)}"


@dataclass(frozen=True, slots=True)
class Fields:
    """An object (a dict with string keys).

    Attributes:
        fields: what each known key must hold.
        required: keys that must be present.
        others: what unknown keys must hold; None accepts anything.
        closed: refuses unknown keys.
    """

    fields: "Mapping[str, Expected | Many | Maybe | Fields]"
    required: Set[str] = frozenset()
    others: "Expected | Many | Maybe | Fields | None" = None
    closed: bool = False


def check(value: object, expected: Expected | Many | Maybe | Fields, where: str, error: type[NasError]) -> None:
    """Raises `error`, which names the place `where`, the value and what was expected, unless the value fits."""
    if isinstance(expected, Maybe):
        if value is not None:
            check(value, expected.of, where, error)
    elif isinstance(expected, Many):
        if not isinstance(value, list | tuple) or not expected.least <= len(value) <= expected.most:
            raise error(f"{where} is {mismatch(value, expected)}")
        for index, item in enumerate(value):
            check(item, expected.of, f"{where}[{index}]", error)
    elif isinstance(expected, Fields):
        known = expected.fields if expected.closed else None
        for key, item in check_keys(value, known, where, error, required=expected.required).items():
            inner = expected.fields.get(key, expected.others)
            if inner is not None and not (isinstance(inner, Expected) and inner.holds(item)):
                check(item, inner, f"{where}: {named([key])}", error)  # the text is slow: built only if needed
    elif not expected.holds(value):
        raise error(f"{where} is {mismatch(value, expected)}")


def check_keys(
    value: object,
    known: Iterable[str] | None,
    where: str,
    error: type[NasError],
    *,
    required: Set[str] = frozenset(),
) -> Mapping[str, Any]:
    """Returns the value if it is an object with all `required` keys and only `known` ones (None: any keys).

    Raises `error` otherwise. `where` names the place in the message; it may be empty if the caller adds the place.
    """
    place = f"{where}: " if where else ""
    if not isinstance(value, dict):
        wanted = f"an object with {', '.join(sorted(required))}" if required else "an object"
        raise error(f"{place}{found(value)} found, expected {wanted}")
    if missing := required - value.keys():
        raise error(f"{place}{named(missing)} {'is' if len(missing) == 1 else 'are'} missing")
    if known is not None and (unknown := value.keys() - set(known)):
        keys = f"key{'s' * (len(unknown) > 1)} {', '.join(sorted(map(found, unknown)))}"
        raise error(f"{place}unknown {keys}, expected {one_of(known)}")
    return value


def mismatch(value: object, expected: object) -> str:
    """Returns the part of a message that names the value found and what was expected."""
    return f"{found(value)}, expected {expected}"


def number_text(number: float) -> str:
    """Returns a number of a rule as messages show it, such as "180", "0.5" or "1e12"."""
    return f"{number:g}".replace("e+", "e")


TEXT = Text()
INDEX = Interval(int, 0)
COUNT = Interval(int, 1)
"""An integer of at least 1."""
TARGET = Interval(float, 0, 1, open_low=True)
"""An accuracy to reach, as a fraction."""
RATE = Interval(float, 0, 1, open_high=True)
"""A probability below 1."""


def check_target(target: float) -> None:
    """Raises `NasError` unless a target accuracy is a fraction above 0 and at most 1."""
    if not TARGET.holds(target):
        raise NasError(f"{argument('target', target)}: expected {TARGET}, such as 0.994")


def check_counts(error: type[NasError] = NasError, /, **counts: tuple[int | None, int]) -> None:
    """Raises `error` unless each value, given as `name=(value, minimum)`, is None or an int >= minimum."""
    for name, (value, least) in counts.items():
        if value is not None and (type(value) is not int or value < least):
            raise error(f"{argument(name, value)}: expected an integer of at least {least}")
