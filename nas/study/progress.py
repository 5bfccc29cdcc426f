"""What a study has come to: counted once for each trial that begins or ends."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from nas.study.attributes import Outcome, StoredTrial
from nas.training.metrics import EpochMetrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What a study has trained.

    num_trained: trials that were trained to their end, or until their loss was no number. num_pruned: trials that a
    pruner stopped. spent: what they cost of the budget, in trials; one that was stopped costs the share of its epochs.
    spent_seconds: of training, summed over workers. num_further: runs that finalists had with other
    seeds; each costs the budget one training.
    """

    num_trained: int
    num_pruned: int
    spent: float
    spent_seconds: float = 0.0
    num_further: int = 0


class StudyProgress:
    """Counts over a study's trials, as they were at the last `update`.

    epochs: epochs of a whole training. finals: epochs of the further runs that finalists had, by trial.
    fingerprints: of every candidate that was handed out for training.
    num_queued, running: trials that wait, and numbers of those in training. stored_discards: how many discards are
    stored, by the index of the candidate that they were drawn for. best: highest accuracy, the smallest of equals.
    """

    def __init__(self, epochs: int, finals: Mapping[int, Sequence[Sequence[EpochMetrics]]]) -> None:
        self.epochs = epochs
        self.fingerprints: set[str] = set()
        self.num_queued = 0
        self.running: set[int] = set()
        self.stored_discards: Counter[int] = Counter()
        self.best: StoredTrial | None = None
        self._discards: Counter[str] = Counter()
        self._num_trained, self._num_pruned, self._num_epochs = 0, 0, 0
        further = [history for histories in finals.values() for history in histories]
        self._num_further = len(further)
        self._seconds = sum((metrics.seconds for history in further for metrics in history), 0.0)
        self._next = 0
        self._unfinished: list[StoredTrial] = []

    def update(self, trials: Mapping[int, FrozenTrial]) -> None:
        """Counts what has begun or ended; `trials` are all of the study, by number."""
        looked_at = [StoredTrial(trials[trial.number]) for trial in self._unfinished]
        while self._next in trials:
            looked_at.append(StoredTrial(trials[self._next]))
            self._next += 1
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
        """What has been trained so far."""
        return Tally(
            num_trained=self._num_trained,
            num_pruned=self._num_pruned,
            spent=self._num_trained + self._num_epochs / self.epochs + self._num_further,
            spent_seconds=self._seconds,
            num_further=self._num_further,
        )

    def discards(self) -> Counter[str]:
        """Number of discards by reason."""
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
            self._num_epochs += trial.num_epochs
        if trial.is_complete and (self.best is None or trial.rank() < self.best.rank()):
            self.best = trial
