"""Metrics that a training run reports for each epoch."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from nas.errors import StudyError, TrainingDiverged
from nas.schema import COUNT, Interval, ObjectOf, ScalarSchema, check

EPOCH_FIELDS: dict[str, ScalarSchema] = {
    "epoch": COUNT,
    **dict.fromkeys(("train_loss", "val_loss"), Interval(float, -1)),  # rounding can make a loss slightly negative
    **dict.fromkeys(("train_accuracy", "val_accuracy"), Interval(float, 0, 1)),
    **dict.fromkeys(("learning_rate", "seconds"), Interval(float, 0)),
}
EPOCH = ObjectOf(EPOCH_FIELDS, required=EPOCH_FIELDS.keys(), closed=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochMetrics:
    """Metrics of one epoch. Losses are mean cross entropies, accuracies are in 0..1.

    Attributes:
        epoch: counted from 1.
        train_loss, train_accuracy: means over the augmented batches, computed while the weights change. The loss
            includes label smoothing.
        val_loss, val_accuracy: after the epoch, without augmentation and label smoothing; on the test split if the
            training run is evaluated on it.
        learning_rate: of the last step.
        seconds: wall time of training and validation. Networks that train side by side on a GPU share it evenly. The
            first epoch includes the time for building and compiling.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    learning_rate: float
    seconds: float

    def or_diverged(self) -> "EpochMetrics":
        """Returns these metrics; raises `TrainingDiverged` if a loss is not finite."""
        for loss in (self.train_loss, self.val_loss):  # only the val loss shows that the last step diverged
            if not math.isfinite(loss):
                raise TrainingDiverged(self.epoch, loss)
        return self

    def to_json(self) -> dict[str, Any]:
        """Returns plain data for `json.dump`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: object, *, where: str = "epoch metrics") -> "EpochMetrics":
        """Returns the metrics from the output of `to_json`; raises `StudyError` for invalid data."""
        check(data, EPOCH, where, StudyError)
        assert isinstance(data, dict)
        return cls(**data)
