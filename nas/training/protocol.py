"""What every training engine offers."""

from typing import Protocol

from torch import nn

from nas.recipe import Recipe
from nas.training.metrics import EpochMetrics


class GroupFullError(Exception):
    """There is no memory for one more network beside those that are being trained."""


class Engine(Protocol):
    """Trains up to `capacity` networks side by side; what one comes to does not depend on the others.

    `notes` says what was done otherwise than meant, and why.
    """

    capacity: int
    notes: list[str]

    def add(self, key: int, module: nn.Module, recipe: Recipe, *, seed: int) -> None:
        """Takes a network in, to be trained in place; raises `GroupFullError`."""

    def remove(self, key: int) -> None:
        """Drops a network, wherever its training stands."""

    def advance(self) -> list[tuple[int, EpochMetrics | Exception]]:
        """Trains every network by an epoch: its metrics, or what it failed with.

        A network leaves by itself after its recipe's last epoch, or when it fails: `TrainingDiverged` where its loss
        is no longer finite.
        """
