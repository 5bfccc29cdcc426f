"""Pareto dominance: finds the non-dominated points."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")
Point = Sequence[float]


def dominates(a: Point, b: Point) -> bool:
    """Returns whether `a` is at least as large as `b` in every coordinate, and larger in at least one."""
    pairs = list(zip(a, b, strict=True))
    return all(x >= y for x, y in pairs) and any(x > y for x, y in pairs)


def pareto_front(items: Iterable[tuple[T, Point]]) -> list[T]:
    """Returns the items whose points no other point dominates, in input order; larger coordinates are better."""
    every = list(items)
    # In this order a point comes after all points that dominate it, and at least one of those is on the front. So it is
    # enough to compare each point with the front found so far.
    order = sorted(range(len(every)), key=lambda index: tuple(every[index][1]), reverse=True)
    on_front: list[int] = []
    for index in order:
        if not any(dominates(every[other][1], every[index][1]) for other in on_front):
            on_front.append(index)
    return [every[index][0] for index in sorted(on_front)]
