"""What a training reports of each epoch."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from nas.errors import StudyError, TrainingDiverged
from nas.schema import COUNT, Allowed, Fields, Interval, check

ALLOWED: dict[str, Allowed] = {
    "epoch": COUNT,
    **dict.fromkeys(("train_loss", "val_loss"), Interval(float, -1)),  # rounding may put a loss just below 0
    **dict.fromkeys(("train_accuracy", "val_accuracy"), Interval(float, 0, 1)),
    **dict.fromkeys(("learning_rate", "seconds"), Interval(float, 0)),
}
EPOCH = Fields(ALLOWED, required=ALLOWED.keys(), closed=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochMetrics:
    """One epoch, counted from 1. Accuracies are fractions in 0..1.

    train_loss, train_accuracy: means over the epoch's augmented batches while the weights changed, label smoothing
        included.
    val_loss, val_accuracy: after the epoch, un-augmented and unsmoothed.
    learning_rate: that of the epoch's last step.
    seconds: wall time of training and validation; the first epoch's with what was built or compiled before it.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    learning_rate: float
    seconds: float

    def or_diverged(self) -> "EpochMetrics":
        """These metrics; raises `TrainingDiverged` where a loss is not finite."""
        for loss in (self.train_loss, self.val_loss):  # after the epoch's last step only the val loss can tell
            if not math.isfinite(loss):
                raise TrainingDiverged(self.epoch, loss)
        return self

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dump`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: object, *, where: str = "epoch metrics") -> "EpochMetrics":
        """The metrics in what `to_json` gave."""
        check(data, EPOCH, where, StudyError)
        assert isinstance(data, dict)
        return cls(**data)
