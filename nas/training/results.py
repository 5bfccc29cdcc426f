"""Objective and consistent accuracy of a trial, both computed from its last epochs and not from its best."""

from collections.abc import Sequence
from statistics import fmean

from nas.text import last_epochs
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


def accuracies_text(accuracies: Sequence[float], consistency: int) -> str:
    """Returns final, mean and lowest accuracy of a training run, from its accuracy after each epoch."""
    final = f"final {accuracies[-1]:.2%}"
    if min(consistency, len(accuracies)) == 1:  # the mean and the lowest are the same figure
        return final
    mean, lowest = objective(accuracies, consistency), consistent_accuracy(accuracies, consistency)
    return f"{final}, mean of {last_epochs(consistency, len(accuracies))} {mean:.2%}, lowest {lowest:.2%}"


def history_text(history: Sequence[EpochMetrics]) -> str:
    """Returns the accuracies of a training run as text, with the default number of last epochs; "diverged" if empty."""
    return accuracies_text([metrics.val_accuracy for metrics in history], CONSISTENCY) if history else "diverged"


def _last(val_accuracies: Sequence[float], consistency: int) -> Sequence[float]:
    if consistency < 1 or not val_accuracies:
        raise ValueError(f"the last {consistency} of {len(val_accuracies)} epochs: at least 1 of each is needed")
    return val_accuracies[-consistency:]
