"""Pareto dominance: which points are non-dominated."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")
Point = Sequence[float]


def dominates(a: Point, b: Point) -> bool:
    """Whether `a` is at least as large as `b` in every number, and larger in one."""
    return all(x >= y for x, y in zip(a, b, strict=True)) and any(x > y for x, y in zip(a, b, strict=True))


def front(items: Iterable[tuple[T, Point]]) -> list[T]:
    """The items that no other one dominates, in their order; larger numbers are better."""
    every = list(items)
    return [item for item, point in every if not any(dominates(other, point) for _, other in every)]
