"""Results of training outside a search: one network with weights, or one for each seed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nas.architecture.architecture import Architecture
from nas.architecture.cost import cost_of
from nas.data import datasets
from nas.recipe import Recipe
from nas.seed_stats import TestResult
from nas.training.metrics import EpochMetrics

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A trained network. `judged_on` is the split that the history's val figures are of: "val" or "test"."""

    architecture: Architecture
    recipe: Recipe
    dataset: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    judged_on: str
    seed: int
    data: datasets.Dataset = field(repr=False)
    history: tuple[EpochMetrics, ...]
    weights: "Mapping[str, Tensor]" = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dump`."""
        cost = cost_of(self.architecture)
        return {
            "dataset": self.dataset,
            "judged_on": self.judged_on,
            "params": cost.params,
            "macs": cost.macs,
            "receptive_field": cost.receptive_field,
            "epochs": self.recipe.epochs,
            "seeds": [self.seed],
            "accuracies": [[metrics.val_accuracy for metrics in self.history]],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeats:
    """The same training with several seeds. `fit`: with the first of them, whose weights are to be kept.

    histories: by seed, without epochs where the loss was no number; then there are no weights either.
    result: what the seeds say of a target.
    """

    fit: Fit
    histories: Mapping[int, tuple[EpochMetrics, ...]]
    result: TestResult

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dump`."""
        return {**self.fit.to_json(), "seeds": list(self.histories), **self.result.to_json()}
