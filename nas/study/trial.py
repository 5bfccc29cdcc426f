"""Typed records of trials: in training, in any state, and trained."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from nas.architecture.architecture import Architecture
from nas.architecture.cost import Cost
from nas.errors import ArchitectureError, RecipeError, StudyError
from nas.recipe import Recipe
from nas.space.candidate import Candidate
from nas.space.domains import Value
from nas.study.attributes import NUMERIC_ATTRS, Outcome, StoredTrial
from nas.text import html_lines
from nas.training.metrics import EpochMetrics


@dataclass(slots=True, kw_only=True)
class RunningTrial:
    """A trial in training.

    Attributes:
        number: Number of the trial in Optuna.
        index: Index of the candidate within the study.
        candidate: Network and recipe.
        parameters: Value of each parameter of the search space.
        cost: Cost of the network.
        seed: Seed of the training run.
        num_draws: Draws until the candidate, itself included.
        source: Provenance of a known candidate; empty for a drawn one.
        history: Metrics of the epochs so far.
    """

    number: int
    index: int
    candidate: Candidate
    parameters: Mapping[str, Value]
    cost: Cost
    seed: int
    num_draws: int
    source: str = ""
    history: list[EpochMetrics] = field(default_factory=list)

    def ended_record(self, outcome: Outcome, *, reason: str = "", seconds: float) -> "TrialRecord":
        """Returns the record of the trial if it did not complete its training. `seconds`: training time."""
        return TrialRecord(
            state=outcome.state.name,
            outcome=str(outcome),
            objective=None,
            consistent_accuracy=None,
            **self._shared_fields(reason, seconds),
        )

    def trained_record(self, *, objective: float, consistent_accuracy: float, seconds: float) -> "TrainedTrial":
        """Returns the record of the trial after its last epoch. `seconds`: training time; accuracies are fractions."""
        return TrainedTrial(
            state=Outcome.TRAINED.state.name,
            outcome=str(Outcome.TRAINED),
            objective=objective,
            consistent_accuracy=consistent_accuracy,
            **self._shared_fields("", seconds),
        )

    def _shared_fields(self, reason: str, seconds: float) -> dict[str, Any]:
        return {
            "number": self.number,
            **self.cost.metrics(),
            "seconds": seconds,
            "num_draws": self.num_draws,
            "seed": self.seed,
            "reason": reason,
            "source": self.source,
            "recipe": self.candidate.recipe,
            "architecture": self.candidate.architecture,
            "parameters": self.parameters,
            "history": tuple(self.history),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRecord:
    """Record of a trial in any state. A value that the trial lacks is None.

    Attributes:
        number: Number of the trial in Optuna.
        state: Name of Optuna's `TrialState`.
        outcome: Value of `Outcome`; empty before the trial has ended.
        objective: Mean validation accuracy over the last epochs, a fraction.
        consistent_accuracy: Lowest validation accuracy over the same epochs, a fraction.
        params, macs, receptive_field, peak_activation_bytes, weight_bytes: Cost of the network, as in `Cost`.
        seconds: Training time in seconds.
        num_draws: Draws until the candidate, itself included.
        seed: Seed of the training run.
        reason: Why the trial was discarded, stopped or failed; otherwise empty.
        recipe: Recipe of the candidate.
        architecture: Network of the candidate.
        history: Metrics of each epoch; empty before the trial has ended.
        parameters: Value of each parameter of the search space; empty before the trial has a candidate.
        source: Provenance of a known candidate, such as "portfolio nas-7230"; empty for a drawn one.
        further: Objectives of the further runs that the trial had as a finalist, one for each seed.
    """

    number: int
    state: str
    outcome: str
    objective: float | None
    consistent_accuracy: float | None
    params: int | None
    macs: int | None
    receptive_field: int | None
    peak_activation_bytes: int | None
    weight_bytes: int | None
    seconds: float | None
    num_draws: int | None
    seed: int | None
    reason: str
    recipe: Recipe | None = field(repr=False)
    architecture: Architecture | None = field(repr=False)
    history: tuple[EpochMetrics, ...] = field(repr=False)
    parameters: Mapping[str, Value] = field(default_factory=dict, repr=False)
    source: str = ""
    further: tuple[float, ...] = ()

    def _repr_html_(self) -> str:
        """Returns cost, result, recipe and diagram as HTML, for notebooks."""
        result = ", ".join(filter(None, (self.source, runs_text(self), result_text(self) or self.state.lower())))
        lines = [f"Trial {self.number}: {result}"]
        if self.recipe is not None:
            lines.append(f"Recipe: {self.recipe.text()}")
        return html_lines(lines) + ((self.architecture and self.architecture._repr_html_()) or "")

    def to_json(self) -> dict[str, Any]:
        """Returns plain data for `json.dump`."""
        row = {name: getattr(self, name) for name in FIELDS}
        row["recipe"] = self.recipe.to_json() if self.recipe else None
        row["architecture"] = self.architecture.to_json() if self.architecture else None
        row["parameters"] = dict(self.parameters)
        row["further"] = list(self.further)
        row["history"] = [metrics.to_json() for metrics in self.history]
        return row


FIELDS = tuple(TrialRecord.__dataclass_fields__)
"""Names of the fields of a trial's record, in the order of `TrialRecord.to_json`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedTrial(TrialRecord):
    """Record of a trial that was trained to the last epoch."""

    objective: float
    consistent_accuracy: float
    params: int
    macs: int
    receptive_field: int
    peak_activation_bytes: int
    weight_bytes: int
    seconds: float
    recipe: Recipe = field(repr=False)
    architecture: Architecture = field(repr=False)

    @property
    def mean_objective(self) -> float:
        """Mean objective over all runs of the trial, a fraction; its own objective unless it has further runs."""
        return fmean((self.objective, *self.further))


def cost_text(cost: Cost | TrialRecord) -> str:
    """Returns parameters, MACs and receptive field (pixels) as short text."""
    return f"{cost.params:,} params, {cost.macs:,} MACs, receptive field {cost.receptive_field}"


def result_text(trial: TrialRecord) -> str:
    """Returns how a trial ended, as short text."""
    if trial.objective is None:
        return trial.reason
    return f"{trial.objective:.2%} (lowest {trial.consistent_accuracy:.2%}) in {trial.seconds:.0f} s"


def runs_text(trial: TrialRecord) -> str:
    """Returns a text with the mean objective over a finalist's runs; empty for other trials."""
    if not isinstance(trial, TrainedTrial) or not trial.further:
        return ""
    return f"mean of {1 + len(trial.further)} runs {trial.mean_objective:.2%}"


def read_trial(trial: StoredTrial) -> TrialRecord:
    """Returns the record of a stored trial; raises `StudyError` if its architecture, recipe or epochs are damaged."""
    where = f"trial {trial.number}"
    try:
        recipe = Recipe.from_json(trial.stored_recipe, where=f"{where}: recipe") if trial.stored_recipe else None
        architecture = (
            Architecture.from_json(trial.stored_architecture, where=f"{where}: architecture")
            if trial.stored_architecture
            else None
        )
    except (ArchitectureError, RecipeError) as error:
        raise StudyError(str(error)) from None
    record: dict[str, Any] = {
        "number": trial.number,
        "state": trial.state.name,
        "outcome": str(trial.outcome or ""),
        "objective": trial.objective,
        "reason": trial.reason,
        "recipe": recipe,
        "architecture": architecture,
        "parameters": trial.params,
        "source": trial.source,
        "history": epochs_of(trial.stored_history, where=f"{where}: history"),
        **{name: trial.numeric_attr(name) for name in NUMERIC_ATTRS},
    }
    return TrainedTrial(**record) if trial.is_complete else TrialRecord(**record)


def read_trained(trial: StoredTrial) -> TrainedTrial:
    """Returns the record of a complete trial; raises `StudyError` if it is damaged."""
    record = read_trial(trial)
    assert isinstance(record, TrainedTrial)
    return record


def epochs_of(rows: Sequence[object], *, where: str) -> tuple[EpochMetrics, ...]:
    """Returns the stored epochs as metrics; raises `StudyError`, which names `where`, if they are invalid."""
    return tuple(EpochMetrics.from_json(row, where=f"{where}[{index}]") for index, row in enumerate(rows))
