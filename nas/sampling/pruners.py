"""Pruners: which candidates are stopped before their last epoch, by Optuna's rules.

A candidate is compared with those before it alone, the ones that its own parameters could be drawn from. Candidates
that run beside it do not count, so what is stopped depends neither on which worker is faster nor on an interruption.
"""

from collections.abc import Callable

from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner

from nas.errors import NasError
from nas.sampling.candidate_view import CandidateView

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
    """The pruner of that name."""
    if name not in PRUNERS:
        raise NasError(f"--pruner {name!r}, allowed: {', '.join(PRUNERS)}")
    return PRUNERS[name](epochs)


class CandidatePruner:
    """Asks one of Optuna's pruners about candidates, each seen beside those at least `lag` before it."""

    def __init__(self, pruner: BasePruner, view: CandidateView, *, lag: int = 0) -> None:
        self.pruner = pruner
        self.view = view
        self.lag = lag

    def hopeless(self, number: int, index: int) -> bool:
        """Whether the candidate of that index should stop, after what its trial has reported so far."""
        if isinstance(self.pruner, NopPruner):
            return False
        study = self.view.below(index - self.lag)
        study.pruner = self.pruner
        return self.pruner.prune(study, self.view.numbered(number, index))


def _share(epochs: int, part: int) -> int:
    return max(1, epochs // part)
