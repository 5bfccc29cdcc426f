"""A view of a study that shows only its ended candidates to Optuna's samplers and pruners."""

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
    """In-memory storage that shows the trained and pruned candidates of a study, numbered by their candidate index.

    Diverged, failed and interrupted trials and stored discards are hidden. They would change how many trials TPE counts
    as good, and would shift the trial numbers from which Hyperband computes a trial's bracket. The trials shown are
    shallow copies of the study's trials that differ only in their number.

    Args:
        trials: Function that returns all trials of the study by number.
        directions: Directions of the study's objectives.
        attribute_storage: Storage that receives the attributes that a pruner sets on a trial; None drops them.
    """

    NAME = "candidates"

    def __init__(
        self,
        trials: Callable[[], Mapping[int, FrozenTrial]],
        directions: Sequence[StudyDirection],
        attribute_storage: BaseStorage | None = None,
    ) -> None:
        super().__init__()
        self.create_new_study(directions, self.NAME)
        self._trials = trials
        self._attribute_storage = attribute_storage
        self._end_index = 0
        self._ended_trials: list[FrozenTrial] = []  # sorted by candidate index
        self._unfinished_numbers: list[int] = []  # numbers of unfinished trials
        self._next_number = 0

    def study_before(self, index: int) -> optuna.Study:
        """Returns a study of the ended candidates whose index is below `index`.

        All returned studies share one storage: each call also changes what the earlier ones show.
        """
        self._update()
        self._end_index = index
        # A new object each time, because `optuna.Study` caches its trials.
        return optuna.Study(study_name=self.NAME, storage=self)

    def renumbered_trial(self, number: int, index: int) -> FrozenTrial:
        """Returns the study's trial `number` as a copy that is numbered by its candidate index."""
        return _with_number(self._trials()[number], index)

    def num_ended(self) -> int:
        """Returns the number of candidates in the study that the last call of `study_before` returned."""
        return bisect.bisect_left(self._ended_trials, self._end_index, key=_number)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        shown = self._ended_trials[: self.num_ended()]
        return shown if states is None else [trial for trial in shown if trial.state in states]

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        # ASHA and Hyperband store the rungs that a trial has reached, and compare later trials with them. Samplers also
        # set attributes, but on a placeholder trial with a negative ID.
        if self._attribute_storage is not None and trial_id >= 0:
            self._attribute_storage.set_trial_system_attr(trial_id, key, value)

    def _update(self) -> None:
        """Adds the candidates that have ended since the last call."""
        trials = self._trials()
        looked_at, self._unfinished_numbers = self._unfinished_numbers, []
        while self._next_number in trials:  # stops at a gap: a trial of another process may not have been read yet
            looked_at.append(self._next_number)
            self._next_number += 1
        for number in looked_at:
            trial = StoredTrial(trials[number])
            if not trial.state.is_finished():
                self._unfinished_numbers.append(number)
            elif trial.index is not None and (
                trial.is_complete or (trial.state == TrialState.PRUNED and trial.frozen.intermediate_values)
            ):
                bisect.insort(self._ended_trials, _with_number(trial.frozen, trial.index), key=_number)


def _number(trial: FrozenTrial) -> int:
    return trial.number


def _with_number(trial: FrozenTrial, number: int) -> FrozenTrial:
    renumbered = copy.copy(trial)
    renumbered.number = number
    return renumbered
