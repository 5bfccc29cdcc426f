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
    # What dominates a point stands before it here, and one such stands in the front: so no two others are compared.
    order = sorted(range(len(every)), key=lambda index: tuple(every[index][1]), reverse=True)
    on_front: list[int] = []
    for index in order:
        if not any(dominates(every[other][1], every[index][1]) for other in on_front):
            on_front.append(index)
    return [every[index][0] for index in sorted(on_front)]
