"""What a study stores, as values: the settings its trials have in common, and a trial."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from nas.architecture.architecture import Architecture
from nas.architecture.cost import METRICS
from nas.errors import ArchitectureError, RecipeError, StudyError
from nas.recipe import Recipe
from nas.schema import COUNT, INDEX, TEXT, Fields, Interval, Many, Words, check
from nas.training.metrics import EpochMetrics

NOTE = "nas:"
"""How the names of our system attributes begin."""

OBJECTIVES = ("accuracy", "params", "macs", "peak_activation_bytes", "weight_bytes")
"""What a search may look for: accuracy, and beside it one cost."""

TRAINED = ("trained", "diverged")
"""Outcomes of a whole training: to its end, or until its loss was no number."""

DRAWN = (*TRAINED, "pruned")
"""Outcomes of trials that get a picture and a table of their epochs: they were trained, if not to the end."""

STOPPED = ("discarded", "pruned")
"""Outcomes that are decisions, not failures: before the training, or in its midst."""

WHOLE = Interval(int, 0, 10**100)  # a cost, whatever a space allows, or a seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What all trials of a study have in common; results under different settings are not comparable."""

    dataset: str
    data_fingerprint: str
    split: str
    space: str
    space_fingerprint: str
    epochs: int
    consistency: int
    constraints: tuple[str, ...]
    seed: int
    # Studies of earlier versions do not say these; they were made like this.
    objectives: tuple[str, ...] = ("accuracy",)
    sampler: str = "tpe"
    num_startup: int = 20  # candidates before the sampler has enough to go on
    choices: int = 1  # feasible draws of which each of those is the largest
    pruner: str = "none"

    @property
    def cost(self) -> str:
        """The metric that is to be small beside accuracy: the second objective, or parameters."""
        return (*self.objectives, "params")[1]

    @classmethod
    def from_json(cls, data: Mapping[str, Any], *, where: str = "settings") -> "Settings":
        """The settings in what a study stores."""
        check(data, SETTINGS, where, StudyError)
        values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in data.items()}
        return cls(**values)

    def differences(self, other: "Settings") -> list[str]:
        """Where the other settings differ, as `field: this, not that`."""
        fields = [field.name for field in dataclasses.fields(self)]
        unlike = [name for name in fields if getattr(self, name) != getattr(other, name)]
        # A fingerprint says something only where the name is the same.
        contents = {"data_fingerprint": "dataset", "space_fingerprint": "space"}
        return [
            f"{contents[name]}: {getattr(self, contents[name])} is not what it was"
            if name in contents
            else f"{name}: {_text(getattr(self, name))}, not {_text(getattr(other, name))}"
            for name in unlike
            if contents.get(name) not in unlike
        ]


SETTINGS = Fields(
    {
        **dict.fromkeys(("dataset", "data_fingerprint", "split", "space", "space_fingerprint"), TEXT),
        **dict.fromkeys(("sampler", "pruner"), TEXT),
        **dict.fromkeys(("epochs", "consistency", "choices"), COUNT),
        "constraints": Many(TEXT),
        "seed": WHOLE,
        "objectives": Many(Words(OBJECTIVES), 1, 2),
        "num_startup": INDEX,
    },
    required={field.name for field in dataclasses.fields(Settings) if field.default is dataclasses.MISSING},
    closed=True,
)


def _text(value: object) -> str:
    return " and ".join(value) if isinstance(value, tuple) else str(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What a study has trained.

    num_trained: trials that were trained to their end, or until their loss was no number. num_pruned: trials that a
    pruner stopped. spent: what they cost of the budget, in trials; one that was stopped costs the share of its epochs.
    """

    num_trained: int
    num_pruned: int
    spent: float

    def admits(self, budget: int, *, running: int = 0) -> bool:
        """Whether one more training, and each that is running, can still go to its end."""
        return self.spent + running + 1 <= budget + 1e-9  # thirds of a training do not add up exactly


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRecord:
    """A trial as people and scripts read it. `state` is Optuna's name; accuracies are fractions."""

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
    recipe: Recipe | None
    architecture: Architecture | None
    history: tuple[EpochMetrics, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dump`."""
        row = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        row["recipe"] = self.recipe.to_json() if self.recipe else None
        row["architecture"] = self.architecture.to_json() if self.architecture else None
        row["history"] = [metrics.to_json() for metrics in self.history]
        return row


FIELDS = tuple(TrialRecord.__dataclass_fields__)


def read_trial(trial: FrozenTrial) -> TrialRecord:
    """The record in a trial of Optuna's."""
    attrs = trial.user_attrs
    network, recipe, history = (noted(trial, key) for key in ("architecture", "recipe", "history"))
    numbers = {key: attrs.get(key) for key in (*METRICS, "consistent_accuracy", "seconds", "num_draws", "seed")}
    where = f"trial {trial.number}"
    try:
        read = (
            Recipe.from_json(recipe, where=f"{where}: recipe") if recipe else None,
            Architecture.from_json(network, where=f"{where}: architecture") if network else None,
        )
    except (ArchitectureError, RecipeError) as error:
        raise StudyError(str(error)) from None
    return TrialRecord(
        number=trial.number,
        state=trial.state.name,
        outcome=attrs.get("outcome", ""),
        objective=trial.values[0] if trial.state == TrialState.COMPLETE else None,
        reason=attrs.get("reason", ""),
        recipe=read[0],
        architecture=read[1],
        history=epochs_of(history or [], where=f"{where}: history"),
        **numbers,
    )


def epochs_of(rows: Sequence[object], *, where: str) -> tuple[EpochMetrics, ...]:
    """The epochs in what a study stores of them."""
    return tuple(EpochMetrics.from_json(row, where=f"{where}[{index}]") for index, row in enumerate(rows))


def noted(trial: FrozenTrial, key: str) -> Any:
    """What `StudyRecords` noted under the key, None if nothing."""
    return trial.system_attrs.get(NOTE + key)
