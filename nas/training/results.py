"""Objective and consistent accuracy of a trial, both computed from its last epochs and not from its best."""

from collections.abc import Sequence
from statistics import fmean

from nas.text import last_epochs_text
from nas.training.metrics import EpochMetrics

NUM_LAST_EPOCHS = 5
"""Default number of last epochs that count."""


def objective(val_accuracies: Sequence[float], num_last_epochs: int) -> float:
    """Returns the mean val accuracy in 0..1 over the last `num_last_epochs` epochs, or over all if there are fewer.

    Raises:
        ValueError: there are no epochs, or `num_last_epochs` is below 1.
    """
    return fmean(_last(val_accuracies, num_last_epochs))


def consistent_accuracy(val_accuracies: Sequence[float], num_last_epochs: int) -> float:
    """Returns the lowest val accuracy in 0..1 over the epochs that `objective` averages; raises as `objective` does."""
    return min(_last(val_accuracies, num_last_epochs))


def val_accuracies(history: Sequence[EpochMetrics], epochs: int) -> tuple[float, ...]:
    """Returns the val accuracy of each epoch; for an empty history, that of a diverged run, 0 for all `epochs`."""
    return tuple(metrics.val_accuracy for metrics in history) or (0.0,) * epochs


def accuracies_text(accuracies: Sequence[float], num_last_epochs: int) -> str:
    """Returns final, mean and lowest accuracy of a training run, from its accuracy after each epoch."""
    final = f"final {accuracies[-1]:.2%}"
    if min(num_last_epochs, len(accuracies)) == 1:  # the mean and the lowest are the same figure
        return final
    mean, lowest = objective(accuracies, num_last_epochs), consistent_accuracy(accuracies, num_last_epochs)
    return f"{final}, mean of {last_epochs_text(num_last_epochs, len(accuracies))} {mean:.2%}, lowest {lowest:.2%}"


def history_text(history: Sequence[EpochMetrics]) -> str:
    """Returns the accuracies of a training run as text, with the default number of last epochs; "diverged" if empty."""
    return accuracies_text([metrics.val_accuracy for metrics in history], NUM_LAST_EPOCHS) if history else "diverged"


def _last(val_accuracies: Sequence[float], num_last_epochs: int) -> Sequence[float]:
    if num_last_epochs < 1 or not val_accuracies:
        raise ValueError(f"the last {num_last_epochs} of {len(val_accuracies)} epochs: at least 1 of each is needed")
    return val_accuracies[-num_last_epochs:]
