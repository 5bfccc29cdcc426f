"""A trial's objective and consistent accuracy; neither is the best epoch's."""

from collections.abc import Sequence
from statistics import fmean

from nas.training.metrics import EpochMetrics

CONSISTENCY = 5
"""How many of the last epochs count, unless told otherwise."""


def objective(val_accuracies: Sequence[float], consistency: int) -> float:
    """Mean val accuracy, a fraction, over the last `consistency` epochs, or all where there are fewer."""
    return fmean(_last(val_accuracies, consistency))


def consistent_accuracy(val_accuracies: Sequence[float], consistency: int) -> float:
    """Smallest val accuracy, a fraction, over the same epochs: "at least this in each of the last 5"."""
    return min(_last(val_accuracies, consistency))


def val_accuracies(history: Sequence[EpochMetrics], epochs: int) -> tuple[float, ...]:
    """One for each epoch; 0 in all of `epochs` for a run that has none, since its loss was no number."""
    return tuple(metrics.val_accuracy for metrics in history) or (0.0,) * epochs


def _last(val_accuracies: Sequence[float], consistency: int) -> Sequence[float]:
    if consistency < 1 or not val_accuracies:
        raise ValueError(f"the last {consistency} of {len(val_accuracies)} epochs: at least 1 of each is needed")
    return val_accuracies[-consistency:]
