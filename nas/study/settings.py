"""Settings that all trials of a study share: data, space, limits, objectives, sampler and seed."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nas.errors import StudyError
from nas.schema import COUNT, INDEX, TEXT, Interval, ListOf, ObjectOf, OneOf, check

OBJECTIVES = ("accuracy", "params", "macs", "peak_activation_bytes", "weight_bytes")
"""Objectives of a search: accuracy, and optionally one of the costs."""

WHOLE_NUMBER = Interval(int, 0, 10**100)  # seeds, and costs, which may exceed the limit of other counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings that all trials of a study share; results under different settings are not comparable.

    Studies of earlier versions lack the fields that have a default; they were made with these defaults.

    Attributes:
        dataset: Name of the dataset, or its folder.
        data_fingerprint: Fingerprint of its images and labels.
        split: Description of the split into train and val.
        space: Name of the search space.
        space_fingerprint: Fingerprint of the space, bound to the images and classes of the dataset.
        epochs: Number of epochs of a training run.
        consistency: Number of last epochs over which accuracy is measured.
        constraints: Limits, such as "params<=8000".
        seed: Seed of the draws, from which those of the training runs follow.
        objectives: "accuracy", or "accuracy" and a cost.
        sampler: Name of the sampler.
        num_startup: Number of first candidates, known or random, that the sampler does not propose.
        choices: Number of feasible random draws per start-up candidate. The one with the most parameters is trained.
        pruner: Name of the pruner.
        portfolio: Known designs with which the search begins.
    """

    dataset: str
    data_fingerprint: str
    split: str
    space: str
    space_fingerprint: str
    epochs: int
    consistency: int
    constraints: tuple[str, ...]
    seed: int
    objectives: tuple[str, ...] = ("accuracy",)
    sampler: str = "tpe"
    num_startup: int = 20
    choices: int = 1
    pruner: str = "none"
    portfolio: tuple[str, ...] = ()

    @property
    def cost(self) -> str:
        """Cost metric of the study: the second objective, or "params" if there is only one."""
        return (*self.objectives, "params")[1]

    @classmethod
    def from_json(cls, data: Mapping[str, Any], *, where: str = "settings") -> "Settings":
        """Returns the settings in a study's attribute; raises `StudyError` if they are invalid."""
        check(data, SETTINGS, where, StudyError)
        values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in data.items()}
        return cls(**values)

    def differences(self, other: "Settings") -> list[str]:
        """Returns a text for each field in which the other settings differ."""
        fields = [field.name for field in dataclasses.fields(self)]
        unlike = [name for name in fields if getattr(self, name) != getattr(other, name)]
        # Fingerprints and splits are only comparable if the names are equal.
        if "dataset" in unlike and "split" in unlike:
            unlike.remove("split")
        fingerprints = {"data_fingerprint": "dataset", "space_fingerprint": "space"}
        texts = []
        for name in unlike:
            if name not in fingerprints:
                texts.append(f"{name} is {_text(getattr(self, name))} in the study, {_text(getattr(other, name))} now")
            elif (named := fingerprints[name]) not in unlike:
                texts.append(f"{named} {getattr(self, named)} has changed")
        return texts


SETTINGS = ObjectOf(
    {
        **dict.fromkeys(("dataset", "data_fingerprint", "split", "space", "space_fingerprint"), TEXT),
        **dict.fromkeys(("sampler", "pruner"), TEXT),
        **dict.fromkeys(("epochs", "consistency", "choices"), COUNT),
        **dict.fromkeys(("constraints", "portfolio"), ListOf(TEXT)),
        "seed": WHOLE_NUMBER,
        "objectives": ListOf(OneOf(OBJECTIVES), 1, 2),
        "num_startup": INDEX,
    },
    required={field.name for field in dataclasses.fields(Settings) if field.default is dataclasses.MISSING},
    closed=True,
)


def _text(value: object) -> str:
    return " and ".join(value) or "none" if isinstance(value, tuple) else str(value)
