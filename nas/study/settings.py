"""What all trials of a study have in common: its data, space, limits, sampler and seed."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nas.errors import StudyError
from nas.schema import COUNT, INDEX, TEXT, Fields, Interval, Many, Words, check

OBJECTIVES = ("accuracy", "params", "macs", "peak_activation_bytes", "weight_bytes")
"""What a search may look for: accuracy, and beside it one cost."""

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
    portfolio: tuple[str, ...] = ()  # known designs that it begins with

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
        **dict.fromkeys(("constraints", "portfolio"), Many(TEXT)),
        "seed": WHOLE,
        "objectives": Many(Words(OBJECTIVES), 1, 2),
        "num_startup": INDEX,
    },
    required={field.name for field in dataclasses.fields(Settings) if field.default is dataclasses.MISSING},
    closed=True,
)


def _text(value: object) -> str:
    return " and ".join(value) or "none" if isinstance(value, tuple) else str(value)
