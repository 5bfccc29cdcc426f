"""Objective and consistent accuracy of a trial, both computed from its last epochs and not from its best."""

from collections.abc import Sequence
from statistics import fmean

from nas.training.metrics import EpochMetrics

CONSISTENCY = 5
"""Default number of last epochs that count."""


def objective(val_accuracies: Sequence[float], consistency: int) -> float:
    """Returns the mean val accuracy in 0..1 over the last `consistency` epochs, or over all if there are fewer.

    Raises:
        ValueError: there are no epochs, or `consistency` is below 1.
    """
    return fmean(_last(val_accuracies, consistency))


def consistent_accuracy(val_accuracies: Sequence[float], consistency: int) -> float:
    """Returns the lowest val accuracy in 0..1 over the epochs that `objective` averages; raises as `objective` does."""
    return min(_last(val_accuracies, consistency))


def val_accuracies(history: Sequence[EpochMetrics], epochs: int) -> tuple[float, ...]:
    """Returns the val accuracy of each epoch; for an empty history, that of a diverged run, 0 for all `epochs`."""
    return tuple(metrics.val_accuracy for metrics in history) or (0.0,) * epochs


def _last(val_accuracies: Sequence[float], consistency: int) -> Sequence[float]:
    if consistency < 1 or not val_accuracies:
        raise ValueError(f"the last {consistency} of {len(val_accuracies)} epochs: at least 1 of each is needed")
    return val_accuracies[-consistency:]
