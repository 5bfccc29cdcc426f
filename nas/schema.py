"""Checks of values and unknown keys, with messages that name what is allowed.

What is read from a file or a study is held against it here, and nowhere else, so that all refusals read alike.
"""

import math
import sys
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any

from nas.errors import NasError, found, named

LARGEST = 10**12
"""No size and no count is larger: beyond all machines, and what such numbers multiply to can still be printed."""


@dataclass(frozen=True, slots=True)
class Interval:
    """Numbers from `low` to `high`; `kind` int takes whole numbers alone, float takes both.

    Without a `high` whole numbers end at `LARGEST`.
    """

    kind: type[int] | type[float]
    low: float
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def holds(self, value: object) -> bool:
        """Whether the value is such a number; bools are none."""
        if isinstance(value, bool) or not isinstance(value, int if self.kind is int else int | float):
            return False
        above = self.low < value if self.open_low else self.low <= value
        below = value < self.high if self.open_high else value <= self.high
        return above and below and abs(value) <= self._end()

    def _end(self) -> float:
        """The largest number of all: no infinity, nor a whole number beyond a float."""
        return LARGEST if self.kind is int and self.high == math.inf else sys.float_info.max

    def __str__(self) -> str:
        noun = "a whole number" if self.kind is int else "a number"
        low = f"{'above' if self.open_low else 'of at least'} {self.low:g}"
        last = min(self.high, self._end())
        high = f" and {'below' if self.open_high else 'at most'} {last:g}" if last < sys.float_info.max else ""
        return f"{noun} {low}{high}"


@dataclass(frozen=True, slots=True)
class Words:
    """One of a few words."""

    words: tuple[str, ...]

    def holds(self, value: object) -> bool:
        """Whether the value is one of them."""
        return isinstance(value, str) and value in self.words

    def __str__(self) -> str:
        return ", ".join(self.words)


@dataclass(frozen=True, slots=True)
class Flag:
    """True or false."""

    def holds(self, value: object) -> bool:
        """Whether the value is a bool."""
        return isinstance(value, bool)

    def __str__(self) -> str:
        return "true, false"


@dataclass(frozen=True, slots=True)
class Text:
    """Any text."""

    def holds(self, value: object) -> bool:
        """Whether the value is a text."""
        return isinstance(value, str)

    def __str__(self) -> str:
        return "a text"


@dataclass(frozen=True, slots=True)
class ImageShape:
    """The shape of an example."""

    def holds(self, value: object) -> bool:
        """Whether the value is a list of three counts."""
        return isinstance(value, list) and len(value) == 3 and all(COUNT.holds(side) for side in value)

    def __str__(self) -> str:
        return f"[channels, height, width], each from 1 to {LARGEST:g}"


Allowed = Interval | Words | Flag | Text | ImageShape


@dataclass(frozen=True, slots=True)
class Maybe:
    """None, or what `of` says."""

    of: "Many | Fields"


@dataclass(frozen=True, slots=True)
class Many:
    """A list of at least `least` of them, at most `most`."""

    of: "Allowed | Many | Maybe | Fields"
    least: int = 0
    most: float = math.inf


@dataclass(frozen=True, slots=True)
class Fields:
    """An object with these fields. `required`: those that may not be missing; `others`: what fields not named hold.

    Without `others` these may hold anything, unless it is `closed`: then there may be none.
    """

    fields: "Mapping[str, Allowed | Many | Maybe | Fields]"
    required: Set[str] = frozenset()
    others: "Allowed | Many | Maybe | Fields | None" = None
    closed: bool = False


def check(value: object, expected: Allowed | Many | Maybe | Fields, where: str, error: type[NasError]) -> None:
    """Raises `error`, which names the place, what was found and what is allowed, unless a value is as expected."""
    if isinstance(expected, Maybe):
        if value is not None:
            check(value, expected.of, where, error)
    elif isinstance(expected, Many):
        if not isinstance(value, list | tuple) or not expected.least <= len(value) <= expected.most:
            most = f" and at most {expected.most}" if expected.most < math.inf else ""
            raise error(f"{where}: {refusal(value, f'a list of at least {expected.least}{most}')}")
        for index, item in enumerate(value):
            check(item, expected.of, f"{where}[{index}]", error)
    elif isinstance(expected, Fields):
        known = expected.fields if expected.closed else None
        for key, item in check_keys(value, known, where, error, required=expected.required).items():
            inner = expected.fields.get(key, expected.others)
            if inner is not None and not (isinstance(inner, Allowed) and inner.holds(item)):
                check(item, inner, f"{where}: {named([key])}", error)  # which puts the place in words only to tell it
    elif not expected.holds(value):
        raise error(f"{where}: {refusal(value, expected)}")


def check_keys(
    value: object,
    known: Iterable[str] | None,
    where: str,
    error: type[NasError],
    *,
    required: Set[str] = frozenset(),
) -> Mapping[str, Any]:
    """The value, an object with all `required` keys and none but those `known` (None: any); raises `error` otherwise.

    `where` may be empty, for a place that the caller puts before the text.
    """
    place = f"{where}: " if where else ""
    if not isinstance(value, dict):
        wanted = f"an object with {', '.join(sorted(required))}" if required else "an object"
        raise error(f"{place}{refusal(value, wanted)}")
    if missing := required - value.keys():
        raise error(f"{place}{named(missing)} is missing")
    if known is not None and (unknown := value.keys() - set(known)):
        raise error(f"{place}unknown key {named(unknown)}, allowed: {', '.join(known)}")
    return value


def refusal(value: object, allowed: object) -> str:
    """What was found and what is allowed, as every refusal says it; the place comes before."""
    return f"{found(value)}, allowed: {allowed}"


TEXT = Text()
INDEX = Interval(int, 0)
COUNT = Interval(int, 1)
"""A whole number of at least 1."""
RATE = Interval(float, 0, 1, open_high=True)
"""A probability below 1."""


def check_target(target: float) -> None:
    """Raises `NasError` for an accuracy that cannot be aimed at."""
    if not 0 < target <= 1:
        raise NasError(f"target is {target}, allowed: a fraction above 0, at most 1, such as 0.994")


def check_counts(**counts: tuple[int | None, int]) -> None:
    """Raises `NasError` for a count below its least, both given by the option's name; None is one left out."""
    for name, (value, least) in counts.items():
        if value is not None and (type(value) is not int or value < least):
            raise NasError(f"{name.replace('_', '-')} is {refusal(value, f'a whole number of at least {least}')}")
