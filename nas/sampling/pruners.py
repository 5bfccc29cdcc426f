"""Pruners: Optuna's rules for stopping the training of a candidate before its last epoch.

With w workers, a candidate is compared with all earlier ones but the last 2 (w - 1), even if these have ended. So
pruning depends neither on the speed of the workers nor on interruptions.
"""

from collections.abc import Callable

from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner

from nas.errors import NasError, argument_text, one_of, suggestion
from nas.sampling.candidate_view import CandidateView

PRUNERS: dict[str, Callable[[int], BasePruner]] = {
    "none": lambda epochs: NopPruner(),
    "median": lambda epochs: MedianPruner(n_startup_trials=5, n_warmup_steps=_fifth(epochs)),
    "asha": lambda epochs: SuccessiveHalvingPruner(min_resource=_fifth(epochs), reduction_factor=2),
    "hyperband": lambda epochs: HyperbandPruner(min_resource=_fifth(epochs), max_resource=epochs, reduction_factor=2),
}
"""Constructors by name; each takes the number of epochs of a training.

No pruner acts before a fifth of the epochs (rounded down, at least one), because earlier accuracies predict the last
one poorly.
"""


def pruner_named(name: str, epochs: int) -> BasePruner:
    """Returns the pruner with that name, for trainings of `epochs` epochs; raises `NasError` for an unknown name."""
    if name not in PRUNERS:
        raise NasError(f"{argument_text('pruner', name)}{suggestion(name, PRUNERS)}: expected {one_of(PRUNERS)}")
    return PRUNERS[name](epochs)


class CandidatePruner:
    """Applies one of Optuna's pruners to candidates, each compared with all earlier ones but the last `lag`."""

    def __init__(self, pruner: BasePruner, view: CandidateView, *, lag: int = 0) -> None:
        self.pruner = pruner
        self.view = view
        self.lag = lag

    def num_results_needed(self, index: int) -> int:
        """Returns how many of the first candidates must have ended before the candidate `index` starts."""
        return 0 if isinstance(self.pruner, NopPruner) else index - self.lag

    def should_prune(self, number: int, index: int) -> bool:
        """Returns whether to stop the trial `number` of candidate `index`, given the epochs that it has reported."""
        if isinstance(self.pruner, NopPruner):
            return False
        study = self.view.study_before(self.num_results_needed(index))
        study.pruner = self.pruner
        return self.pruner.prune(study, self.view.renumbered_trial(number, index))


def _fifth(epochs: int) -> int:
    return max(1, epochs // 5)
