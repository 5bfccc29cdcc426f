"""Pruners: which candidates are stopped before their last epoch, by Optuna's rules.

A candidate is compared with those before it alone, the ones that its own parameters could be drawn from. Who runs
beside it does not count, so that what is stopped does not depend on who is faster, nor on an interruption.
"""

import copy
from collections.abc import Callable, Container
from typing import Any

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nas.errors import NasError

PRUNERS: dict[str, Callable[[int], BasePruner]] = {
    "none": lambda epochs: NopPruner(),
    "median": lambda epochs: MedianPruner(n_startup_trials=5, n_warmup_steps=_share(epochs, 5)),
    "asha": lambda epochs: SuccessiveHalvingPruner(min_resource=_share(epochs, 5), reduction_factor=2),
    "hyperband": lambda epochs: HyperbandPruner(
        min_resource=_share(epochs, 5), max_resource=epochs, reduction_factor=2
    ),
}
"""Each for a number of epochs. None looks before a fifth of them is over: earlier accuracies say little of the last."""


def pruner(name: str, epochs: int) -> BasePruner:
    """The one of that name."""
    if name not in PRUNERS:
        raise NasError(f"--pruner {name!r}, allowed: {', '.join(PRUNERS)}")
    return PRUNERS[name](epochs)


class CandidatePruner:
    """Asks a pruner of Optuna's about the candidates of a study, each seen beside those at least `lag` before it."""

    def __init__(self, pruner: BasePruner, study: optuna.Study, *, lag: int = 0) -> None:
        self.pruner = pruner
        self.study = study
        self.lag = lag
        self._earlier = _Earlier(study)

    def hopeless(self, number: int, index: int) -> bool:
        """Whether the candidate of that index should stop, after what its trial has reported so far."""
        if isinstance(self.pruner, NopPruner):
            return False
        storage = self.study._storage
        trial_id = storage.get_trial_id_from_study_id_trial_number(self.study._study_id, number)
        own = _numbered(storage.get_trial(trial_id), index)
        self._earlier.below = index - self.lag
        view = optuna.Study(study_name=_Earlier.NAME, storage=self._earlier, pruner=self.pruner)
        return self.pruner.prune(view, own)


class _Earlier(InMemoryStorage):
    """A study as a pruner should see it: the ended candidates below an index, numbered by their place among all.

    Hyperband deals the trials of a study out by its name and their numbers: so a study's own, which discards and
    interruptions push on, would not do.
    """

    NAME = "candidates"

    def __init__(self, study: optuna.Study) -> None:
        super().__init__()
        self.create_new_study([StudyDirection.MAXIMIZE], self.NAME)
        self.below = 0
        self._study = study

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        ended = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        indices = ((trial, trial.user_attrs.get("candidate", self.below)) for trial in ended)
        return [
            _numbered(trial, index)
            for trial, index in indices
            if index < self.below and (states is None or trial.state in states)
        ]

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        # How far a candidate was promoted belongs to its trial: later ones are compared with it.
        self._study._storage.set_trial_system_attr(trial_id, key, value)


def _numbered(trial: FrozenTrial, number: int) -> FrozenTrial:
    numbered = copy.copy(trial)
    numbered.number = number
    return numbered


def _share(epochs: int, part: int) -> int:
    return max(1, epochs // part)
