"""Budget: how much a study may train."""

from dataclasses import dataclass

from nas.study.progress import Tally

SLACK = 1e-9  # thirds of a training do not add up exactly


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """So many trials, so many minutes of so many workers, or whichever is spent first; counted over the whole study.

    trials: trained to the end; one that a pruner stops costs the share of its epochs. minutes: of training, by the
    clock. workers: that train at a time.
    """

    trials: int | None = None
    minutes: float | None = None
    workers: int = 1

    def admits(self, tally: Tally, *, running: int = 0) -> bool:
        """Whether one more training, and each that is running, can still go to its end."""
        return self._left(tally, running) >= 1 - SLACK

    def left_seconds(self, tally: Tally, each: float) -> float:
        """Seconds of training that are left, one after the other, where a whole one takes `each`."""
        left = [] if self.trials is None else [each * (self.trials - tally.spent)]
        return min(left + ([] if self.seconds is None else [self.seconds - tally.spent_seconds]))

    def share(self, tally: Tally) -> float:
        """How much of it is spent, 0 to 1."""
        by_trials = tally.spent / self.trials if self.trials is not None else 0.0
        by_time = tally.spent_seconds / self.seconds if self.seconds is not None else 0.0
        return min(1.0, max(by_trials, by_time))

    @property
    def seconds(self) -> float | None:
        """Seconds of training, summed over workers; None where time is no limit."""
        return None if self.minutes is None else 60 * self.minutes * self.workers

    def _left(self, tally: Tally, running: int) -> float:
        """Whole trainings that may still begin."""
        left = [float("inf")]
        if self.trials is not None:
            left.append(self.trials - tally.spent - running)
        if self.seconds is not None:
            # As long as none has ended, one each worker is as much as can be promised.
            each = tally.spent_seconds / tally.spent if tally.spent else self.seconds / self.workers
            left.append((self.seconds - tally.spent_seconds) / each - running)
        return min(left)

    def __str__(self) -> str:
        parts = [str(self.trials)] if self.trials is not None else []
        return " or ".join(parts + ([f"{self.minutes:g} minutes"] if self.minutes is not None else []))
