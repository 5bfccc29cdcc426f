"""Which values a field may take: one object that checks, and says in words what it allows."""

import math
import sys
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Interval:
    """Numbers from `low` to `high`; `kind` int takes whole numbers alone, float takes both."""

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
        return above and below and abs(value) <= sys.float_info.max  # no infinity, nor a whole number beyond a float

    def __str__(self) -> str:
        noun = "a whole number" if self.kind is int else "a number"
        low = f"{'above' if self.open_low else 'of at least'} {self.low:g}"
        high = f" and {'below' if self.open_high else 'at most'} {self.high:g}" if self.high < math.inf else ""
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


Allowed = Interval | Words | Flag

COUNT = Interval(int, 1)
"""A whole number of at least 1."""
RATE = Interval(float, 0, 1, open_high=True)
"""A probability below 1."""
