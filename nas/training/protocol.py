"""Interface of the training engines."""

from typing import Protocol

from torch import nn

from nas.recipe import Recipe
from nas.training.metrics import EpochMetrics


class GroupFullError(Exception):
    """Memory does not suffice for one more network beside those in training."""


class Engine(Protocol):
    """Trains up to `capacity` networks side by side. The result of a network does not depend on the others.

    capacity: may change with every call.
    notes: messages about fallbacks and their reasons.
    """

    capacity: int
    notes: list[str]

    def add(self, key: int, module: nn.Module, recipe: Recipe, *, seed: int) -> None:
        """Adds a network, which is trained in place.

        Raises `GroupFullError` if the group is full, and `ValueError` if the network does not fit the data.
        """

    def remove(self, key: int) -> None:
        """Removes a network, if it is there, before its training is complete."""

    def advance(self) -> list[tuple[int, EpochMetrics | Exception]]:
        """Trains every network for one epoch; returns the metrics, or the exception, of each by key.

        A network is removed after the last epoch of its recipe and after an exception. The exception is
        `TrainingDiverged` if its loss is not finite.
        """
