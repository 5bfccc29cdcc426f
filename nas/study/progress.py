"""Counts the trained, pruned, discarded, queued and running trials of a study."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from nas.space.feasibility import reason_text
from nas.study.attributes import Outcome, StoredTrial
from nas.training.metrics import EpochMetrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What a study has trained so far.

    Attributes:
        num_trained: Number of trials that were trained to the last epoch or diverged.
        num_pruned: Number of trials that a pruner stopped.
        spent: Cost of all training, further runs included, in whole training runs; a pruned trial costs its share of
            epochs.
        spent_seconds: Training time in seconds, further runs included, summed over workers.
        num_further: Number of further runs of finalists with other seeds; each costs one whole training run.
    """

    num_trained: int
    num_pruned: int
    spent: float
    spent_seconds: float = 0.0
    num_further: int = 0


def discards_text(discards: Mapping[str, int], *, num_stored: int = 0) -> str:
    """Returns the number of discards and their reasons, most frequent first, and how many are stored as trials."""
    total = sum(discards.values())
    reasons = ", ".join(
        f"{reason_text(reason)}: {count:,}" for reason, count in sorted(discards.items(), key=lambda x: -x[1])
    )
    stored = f", the first {num_stored:,} stored as trials, so trial numbers have gaps" if num_stored else ""
    return f"{total:,} discarded ({reasons}){stored}" if total else "none discarded"


class StudyProgress:
    """Counts of a study's trials, as of the last `update`. Each trial is counted once.

    Args:
        epochs: Number of epochs of a whole training run.
        finals: Epochs of each further run of the finalists, by trial.

    Attributes:
        fingerprints: Fingerprints of all candidates whose training has begun.
        num_queued: Number of trials in the queue.
        running: Numbers of the running trials.
        stored_discards: Number of stored discards, by the index of the candidate found after them.
        best: Complete trial with the highest accuracy and, among equals, the fewest parameters; None if there is none.
    """

    def __init__(self, epochs: int, finals: Mapping[int, Sequence[Sequence[EpochMetrics]]]) -> None:
        self.epochs = epochs
        self.fingerprints: set[str] = set()
        self.num_queued = 0
        self.running: set[int] = set()
        self.stored_discards: Counter[int] = Counter()
        self.best: StoredTrial | None = None
        self._discards: Counter[str] = Counter()
        self._num_trained, self._num_pruned, self._num_pruned_epochs = 0, 0, 0
        further = [history for histories in finals.values() for history in histories]
        self._num_further = len(further)
        self._seconds = sum((metrics.seconds for history in further for metrics in history), 0.0)
        self._next_number = 0
        self._unfinished: list[StoredTrial] = []

    def update(self, trials: Mapping[int, FrozenTrial]) -> None:
        """Counts trials that have begun or ended since the last call. `trials`: all trials of the study, by number."""
        looked_at = [StoredTrial(trials[trial.number]) for trial in self._unfinished]
        while self._next_number in trials:
            looked_at.append(StoredTrial(trials[self._next_number]))
            self._next_number += 1
        self._unfinished = []
        for trial in looked_at:
            if trial.fingerprint is not None:
                self.fingerprints.add(trial.fingerprint)
            if trial.state.is_finished():
                self._count(trial)
            else:
                self._unfinished.append(trial)
        self.num_queued = sum(trial.state == TrialState.WAITING for trial in self._unfinished)
        self.running = {trial.number for trial in self._unfinished if trial.state == TrialState.RUNNING}

    def tally(self) -> Tally:
        """Returns what has been trained so far."""
        return Tally(
            num_trained=self._num_trained,
            num_pruned=self._num_pruned,
            spent=self._num_trained + self._num_pruned_epochs / self.epochs + self._num_further,
            spent_seconds=self._seconds,
            num_further=self._num_further,
        )

    def discards(self) -> Counter[str]:
        """Returns the number of discards by reason."""
        return sum((trial.discards for trial in self._unfinished), Counter(self._discards))

    def _count(self, trial: StoredTrial) -> None:
        outcome = trial.outcome
        self._discards += trial.discards
        if outcome is None:
            return
        self._num_trained += outcome.is_whole_training
        if outcome.is_whole_training or outcome is Outcome.PRUNED:
            self._seconds += trial.seconds
        if outcome is Outcome.DISCARDED and trial.drawn_for is not None:
            self.stored_discards[trial.drawn_for] += 1
        if outcome is Outcome.PRUNED:
            self._num_pruned += 1
            self._num_pruned_epochs += trial.num_epochs
        if trial.is_complete and (self.best is None or trial.sort_key() < self.best.sort_key()):
            self.best = trial
