"""Results of training outside a search: a network trained with one seed, or with several."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nas.architecture.architecture import Architecture
from nas.architecture.cost import cost_of
from nas.data import datasets
from nas.recipe import Recipe
from nas.seed_stats import SeedAccuracies
from nas.text import html_lines
from nas.training.metrics import EpochMetrics
from nas.training.results import history_text

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A trained network.

    Attributes:
        architecture, recipe: what was trained, and how.
        dataset: name of the dataset.
        mean, std: of each channel of the train split, for pixels scaled to 0..1.
        classes: names of the classes.
        judged_on: "val" or "test", the split that the val figures in `history` come from.
        seed: of the initialisation and of the training run.
        data: the train and val split.
        history: metrics of each epoch; empty if the run diverged.
        weights: state dict on the CPU; empty if the run diverged.
    """

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

    def lines(self) -> list[str]:
        """Returns the accuracies as a line of text."""
        return [f"{self.judged_on.capitalize()} accuracy: {history_text(self.history)} (seed {self.seed})."]

    def __str__(self) -> str:
        """Returns the dataset and the accuracies as lines of text."""
        return "\n".join([f"Dataset {self.dataset}", *self.lines()])

    def _repr_html_(self) -> str:
        """Returns the same lines as HTML, for notebooks."""
        return html_lines(str(self).splitlines())

    def to_json(self) -> dict[str, Any]:
        """Returns plain data for `json.dump`."""
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
    """The same training with several seeds.

    Attributes:
        fit: the run with the first seed, and its weights.
        histories: metrics of each epoch, by seed; empty for a run that diverged.
        result: accuracies of all seeds, compared with a target.
    """

    fit: Fit
    histories: Mapping[int, tuple[EpochMetrics, ...]]
    result: SeedAccuracies

    def __str__(self) -> str:
        """Returns the dataset and the accuracies of all seeds as lines of text."""
        return f"Dataset {self.fit.dataset}, {self.fit.judged_on} split\n{self.result}"

    def _repr_html_(self) -> str:
        """Returns the same lines as HTML, for notebooks."""
        return html_lines(str(self).splitlines())

    def to_json(self) -> dict[str, Any]:
        """Returns plain data for `json.dump`."""
        return {**self.fit.to_json(), "seeds": list(self.histories), **self.result.to_json()}
