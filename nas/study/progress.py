"""A ledger: what a study has come to, kept up as its trials begin and end, each of which is counted once."""

from collections import Counter
from collections.abc import Mapping

from optuna.trial import FrozenTrial, TrialState

from nas.study.trial import TRAINED, Tally, noted


class Ledger:
    """The figures of a study whose trials have `epochs` epochs, as they were at the last `update`."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self.fingerprints: set[str] = set()  # of every candidate that was handed out for training
        self.num_queued = 0
        self.running: set[int] = set()  # numbers of trials
        self.kept: Counter[int] = Counter()  # stored discards, by the index of the candidate they were drawn for
        self.best: FrozenTrial | None = None  # highest accuracy, the smallest of equals
        self._discards: Counter[str] = Counter()
        self._num_trained, self._num_pruned, self._num_epochs = 0, 0, 0
        self._next = 0
        self._unfinished: list[FrozenTrial] = []

    def update(self, trials: Mapping[int, FrozenTrial]) -> None:
        """Counts what has begun or ended; `trials` are all of the study, by number."""
        looked_at = [trials[trial.number] for trial in self._unfinished]
        while self._next in trials:
            looked_at.append(trials[self._next])
            self._next += 1
        self._unfinished = []
        for trial in looked_at:
            if "fingerprint" in trial.user_attrs:
                self.fingerprints.add(trial.user_attrs["fingerprint"])
            if trial.state.is_finished():
                self._count(trial)
            else:
                self._unfinished.append(trial)
        self.num_queued = sum(trial.state == TrialState.WAITING for trial in self._unfinished)
        self.running = {trial.number for trial in self._unfinished if trial.state == TrialState.RUNNING}

    def tally(self) -> Tally:
        """What has been trained so far."""
        spent = self._num_trained + self._num_epochs / self.epochs
        return Tally(num_trained=self._num_trained, num_pruned=self._num_pruned, spent=spent)

    def discards(self) -> Counter[str]:
        """Number of discards by reason."""
        return sum(map(discards_of, self._unfinished), Counter(self._discards))

    def _count(self, trial: FrozenTrial) -> None:
        outcome = trial.user_attrs.get("outcome")
        self._discards += discards_of(trial)
        self._num_trained += outcome in TRAINED
        if outcome == "discarded" and (index := noted(trial, "drawn_for")) is not None:
            self.kept[index] += 1
        if outcome == "pruned":
            self._num_pruned += 1
            self._num_epochs += len(noted(trial, "history"))
        if trial.state == TrialState.COMPLETE and (self.best is None or _rank(trial) < _rank(self.best)):
            self.best = trial


def discards_of(trial: FrozenTrial) -> Counter[str]:
    """The discards that a trial's candidate took, by reason."""
    # Without a fingerprint the candidate was never handed out: the same discards will be drawn again.
    counts = "fingerprint" in trial.user_attrs or trial.user_attrs.get("outcome") == "discarded"
    return Counter(noted(trial, "discards") if counts else None)


def _rank(trial: FrozenTrial) -> tuple[float, int]:
    return -trial.values[0], trial.user_attrs["params"]
