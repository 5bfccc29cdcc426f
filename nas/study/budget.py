"""Budget: how much a study may train."""

import math
from dataclasses import dataclass, replace

from nas.study.progress import Tally

FINAL_SHARE = 0.2
"""Share of the budget that finalists get, for runs with other seeds: one run decides little among the best."""

MAX_FINALISTS = 5
RUNS_EACH = 2  # at least, beside the one that a finalist has had

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

    def for_candidates(self, tally: Tally) -> "Budget":
        """What is left when the finalists' share is set aside, as far as they have not had it yet."""
        had = tally.num_further
        trials = None if self.trials is None else self.trials - max(0, self._num_runs(self.trials) - had)
        minutes = self.minutes if had or self.minutes is None else self.minutes * (1 - FINAL_SHARE)
        return replace(self, trials=trials, minutes=minutes)

    def finals(self, tally: Tally) -> tuple[int, int]:
        """How many finalists there are to be, and with how many further runs each, the candidates being trained."""
        num_runs = self._num_runs(tally.spent + self._left(tally, running=0))
        num_finalists = min(MAX_FINALISTS, num_runs // RUNS_EACH)
        return num_finalists, num_runs // num_finalists if num_finalists else 0

    @staticmethod
    def _num_runs(trainings: float) -> int:
        """How many of so many trainings go to finalists: none where there would be no two of them."""
        num_runs = int(FINAL_SHARE * trainings + SLACK) // RUNS_EACH * RUNS_EACH
        return num_runs if num_runs >= 2 * RUNS_EACH else 0

    def left_seconds(self, tally: Tally, each: float) -> float:
        """Seconds of training that are left, one after the other, where a whole one takes `each`."""
        by_trials = math.inf if self.trials is None else each * (self.trials - tally.spent)
        by_time = math.inf if self.seconds is None else self.seconds - tally.spent_seconds
        return min(by_trials, by_time)

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
        by_trials = math.inf if self.trials is None else self.trials - tally.spent
        if self.seconds is None:
            return by_trials - running
        # As long as none has ended, one each worker is as much as can be promised.
        each = tally.spent_seconds / tally.spent if tally.spent else self.seconds / self.workers
        return min(by_trials, (self.seconds - tally.spent_seconds) / each) - running
