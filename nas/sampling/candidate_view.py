"""A study as Optuna's samplers and pruners are to see it."""

import bisect
import copy
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

import optuna
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nas.study.attributes import StoredTrial


class CandidateView(InMemoryStorage):
    """A study as Optuna's samplers and pruners are to see it: the candidates that have ended, in their order.

    Each is numbered by its place among the study's candidates. Diverged, failed and interrupted trials and stored
    discards are not shown: they would change how many trials TPE takes for good ones, and which bracket Hyperband puts
    a trial into. The trials share everything with the table in memory but their number.

    `trials` gives all trials of the study by number. `owner` stores what a pruner notes on a trial.
    """

    NAME = "candidates"

    def __init__(
        self,
        trials: Callable[[], Mapping[int, FrozenTrial]],
        directions: Sequence[StudyDirection],
        owner: BaseStorage | None = None,
    ) -> None:
        super().__init__()
        self.create_new_study(directions, self.NAME)
        self._trials = trials
        self._owner = owner
        self._below = 0
        self._ended: list[FrozenTrial] = []  # by the index of the candidate
        self._open: list[int] = []  # numbers of trials that may be shown later
        self._next = 0

    def below(self, index: int) -> optuna.Study:
        """The study with the ended candidates that come before the one of that index."""
        self._update()
        self._below = index
        # A new object each time: a study caches its trials.
        return optuna.Study(study_name=self.NAME, storage=self)

    def numbered(self, number: int, index: int) -> FrozenTrial:
        """The trial of that number in its place among the candidates."""
        return _renumbered(self._trials()[number], index)

    def num_ended(self) -> int:
        """How many candidates are shown."""
        return bisect.bisect_left(self._ended, self._below, key=_number)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        shown = self._ended[: self.num_ended()]
        return shown if states is None else [trial for trial in shown if trial.state in states]

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        # How far a pruner promoted a candidate belongs to its trial: later ones are compared with it.
        if self._owner is not None and trial_id >= 0:  # not the trial that a sampler is asked for
            self._owner.set_trial_system_attr(trial_id, key, value)

    def _update(self) -> None:
        """Takes in the trials that have ended since the last look."""
        trials = self._trials()
        looked_at, self._open = self._open, []
        while self._next in trials:  # a number that another process took may not have been seen yet
            looked_at.append(self._next)
            self._next += 1
        for number in looked_at:
            trial = StoredTrial(trials[number])
            if not trial.state.is_finished():
                self._open.append(number)
            elif trial.index is not None and (
                trial.is_complete or (trial.state == TrialState.PRUNED and trial.frozen.intermediate_values)
            ):
                bisect.insort(self._ended, _renumbered(trial.frozen, trial.index), key=_number)


def _number(trial: FrozenTrial) -> int:
    return trial.number


def _renumbered(trial: FrozenTrial, number: int) -> FrozenTrial:
    renumbered = copy.copy(trial)
    renumbered.number = number
    return renumbered
