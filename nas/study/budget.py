"""Computes how much of its budget a study has left, for candidates and for finalists."""

import math
from dataclasses import dataclass

from nas.study.progress import Tally
from nas.text import count_text

FINAL_SHARE = 0.2
"""Share of the budget for runs of the finalists with other seeds: a single run hardly separates the best trials."""

MAX_FINALISTS = 5
MIN_RUNS_PER_FINALIST = 2  # minimum of further runs for each finalist

MIN_SECONDS_PER_RUN = 0.1
"""Lower bound of the mean seconds per training run: a run that diverges in its first epoch stores no time."""

SLACK = 1e-9  # tolerance for rounding: a pruned trial counts as a fraction of a training run


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Limit on the training of a whole study: in trials, in time, or both, whichever is spent first.

    Attributes:
        trials: Number of whole training runs; a pruned trial costs its share of epochs. None: unlimited.
        minutes: Training time of each worker; networks that train side by side on a GPU share it. None: unlimited.
        workers: Number of worker processes that have `minutes` each.
    """

    trials: int | None = None
    minutes: float | None = None
    workers: int = 1

    def admits(self, tally: Tally, *, running: int = 0) -> bool:
        """Returns whether the budget lasts for one more whole training run, beside those that are running."""
        return self._num_runs_left(tally) - running >= 1 - SLACK

    def admits_candidate(self, tally: Tally, *, running: int = 0) -> bool:
        """Returns whether one more candidate fits, beside `running` trainings and the share of the finalists."""
        left = self._num_runs_left(tally)
        reserve = 0 if math.isinf(left) else max(0, _num_further_runs(tally.spent + left) - tally.num_further)
        return left - running >= 1 + reserve - SLACK

    def finalist_counts(self, tally: Tally) -> tuple[int, int]:
        """Returns the number of finalists, and the number of their further runs in all, those already trained included.

        Both are 0 if nothing is left of the budget, or if it is not known yet how many training runs it allows.
        """
        left = self._num_runs_left(tally)
        if not 0 < left < math.inf:
            return 0, 0
        num_runs = min(_num_further_runs(tally.spent + left), int(tally.num_further + left + SLACK))
        return min(MAX_FINALISTS, num_runs // MIN_RUNS_PER_FINALIST), num_runs

    def spent_share(self, tally: Tally) -> float:
        """Returns the share of the budget that is spent, 0 to 1: the larger of the shares of trials and of time."""
        by_trials = tally.spent / self.trials if self.trials is not None else 0.0
        by_time = tally.spent_seconds / self.seconds if self.seconds is not None else 0.0
        return min(1.0, max(by_trials, by_time))

    @property
    def seconds(self) -> float | None:
        """Training time in seconds, summed over workers; None if time is unlimited."""
        return None if self.minutes is None else 60 * self.minutes * self.workers

    def _num_runs_left(self, tally: Tally) -> float:
        """Returns how many whole training runs are left; infinite if only time is limited and no run has ended yet."""
        by_trials = math.inf if self.trials is None else self.trials - tally.spent
        if self.seconds is None or not tally.spent:
            return by_trials
        each = max(tally.spent_seconds / tally.spent, MIN_SECONDS_PER_RUN)
        return min(by_trials, (self.seconds - each * tally.spent) / each)


def tally_text(tally: Tally, budget: Budget) -> str:
    """Returns how much of the budget is spent, as short text."""
    beside = f" and {tally.num_pruned} stopped early" if tally.num_pruned else ""
    beside += f" and {count_text(tally.num_further, 'further run')} of finalists" if tally.num_further else ""
    if budget.trials is None:
        text = f"{tally.num_trained} trained{beside}"
    elif not beside:
        text = f"{tally.num_trained} of {budget.trials} trained"
    else:
        text = f"{tally.num_trained} trained{beside}, {tally.spent:.1f} of {budget.trials} spent"
    if budget.minutes is not None:
        text += f", {tally.spent_seconds / budget.workers / 60:.1f} of {budget.minutes:g} minutes"
    return text


def _num_further_runs(trainings: float) -> int:
    """Returns how many of `trainings` are further runs of finalists; 0 if they are too few for two finalists."""
    num_runs = int(FINAL_SHARE * trainings + SLACK) // MIN_RUNS_PER_FINALIST * MIN_RUNS_PER_FINALIST
    return num_runs if num_runs >= 2 * MIN_RUNS_PER_FINALIST else 0
