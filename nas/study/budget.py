"""Budget: how much a study may train."""

import math
from dataclasses import dataclass

from nas.study.progress import Tally

FINAL_SHARE = 0.2
"""Share of the budget that finalists get, for runs with other seeds: one run decides little among the best."""

MAX_FINALISTS = 5
RUNS_EACH = 2  # at least, beside the one that a finalist has had

LEAST_SECONDS = 0.1
"""What a training counts at least, on average: one that diverges in its first epoch has no time stored."""

SLACK = 1e-9  # thirds of a training do not add up exactly


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """So many trials, so many minutes of so many workers, or whichever is spent first; counted over the whole study.

    trials: trained to the end; one that a pruner stops costs the share of its epochs. minutes: of training on `workers`
    processes, each of which has so much time; what trains side by side on a GPU shares its time.
    """

    trials: int | None = None
    minutes: float | None = None
    workers: int = 1

    def admits(self, tally: Tally, *, running: int = 0) -> bool:
        """Whether one more training, and each that is running, can still go to its end."""
        return self._left(tally) - running >= 1 - SLACK

    def admits_candidate(self, tally: Tally, *, running: int = 0) -> bool:
        """The same, when the finalists' share is set aside, as far as they have not had it yet."""
        left = self._left(tally)
        reserve = 0 if math.isinf(left) else max(0, _num_runs(tally.spent + left) - tally.num_further)
        return left - running >= 1 + reserve - SLACK

    def finals(self, tally: Tally) -> tuple[int, int]:
        """How many finalists there are to be, and how many further runs in all, the candidates being trained."""
        left = self._left(tally)
        if not 0 < left < math.inf:
            return 0, 0
        num_runs = min(_num_runs(tally.spent + left), int(tally.num_further + left + SLACK))
        return min(MAX_FINALISTS, num_runs // RUNS_EACH), num_runs

    def share(self, tally: Tally) -> float:
        """How much of it is spent, 0 to 1."""
        by_trials = tally.spent / self.trials if self.trials is not None else 0.0
        by_time = tally.spent_seconds / self.seconds if self.seconds is not None else 0.0
        return min(1.0, max(by_trials, by_time))

    @property
    def seconds(self) -> float | None:
        """Seconds of training, summed over workers; None where time is no limit."""
        return None if self.minutes is None else 60 * self.minutes * self.workers

    def _left(self, tally: Tally) -> float:
        """Whole trainings that are left; infinite where time alone counts and no training has told what one takes."""
        by_trials = math.inf if self.trials is None else self.trials - tally.spent
        if self.seconds is None or not tally.spent:
            return by_trials
        each = max(tally.spent_seconds / tally.spent, LEAST_SECONDS)
        return min(by_trials, (self.seconds - each * tally.spent) / each)


def _num_runs(trainings: float) -> int:
    """How many of so many trainings go to finalists: none where there would be no two of them."""
    num_runs = int(FINAL_SHARE * trainings + SLACK) // RUNS_EACH * RUNS_EACH
    return num_runs if num_runs >= 2 * RUNS_EACH else 0
