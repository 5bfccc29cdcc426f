"""Recipe: how a network is trained. Plain data; `nas.training` carries it out."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.errors import RecipeError
from nas.schema import COUNT, RATE, Allowed, Interval, Words, check_keys, refusal
from nas.text import read_json

ALLOWED: dict[str, Allowed] = {
    "epochs": COUNT,
    "optimizer": Words(("sgd", "adam", "adamw")),
    "learning_rate": Interval(float, 0, open_low=True),
    "momentum": RATE,
    "weight_decay": Interval(float, 0),
    "schedule": Words(("constant", "step", "cosine", "one_cycle")),
    "warmup": RATE,
    "step_start": Interval(int, 0),
    "step_epochs": COUNT,
    "step_gamma": Interval(float, 0, 1, open_low=True),
    "average_epochs": Interval(float, 0),
    "batch_size": COUNT,
    "label_smoothing": RATE,
    "rotation": Interval(float, 0, 180),
    "translation": Interval(float, 0, 1),
    "scale": RATE,
    "shear": Interval(float, 0, 45),
    "brightness": Interval(float, 0, 1),
    "contrast": Interval(float, 0, 1),
    "flip": Interval(float, 0, 1),
}
"""What each field of a recipe may be; search spaces are held to the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything but the network, the data and the seed.

    optimizer: "sgd" is with Nesterov momentum.
    learning_rate: the peak of the schedule.
    schedule: "step" multiplies by `step_gamma` every `step_epochs`, the first `step_start` epochs not counted; "cosine"
        falls to 0; "one_cycle" rises for `warmup` of the steps and falls by a cosine. Changed at every batch, except
        "step".
    average_epochs: how many epochs the running average of the weights spans that is judged and kept
        (`nas.training.averaging`); 0: the last weights are.
    rotation, shear: degrees; translation, scale, brightness, contrast: fractions. Each example draws its own
        value between minus and plus that strength (a scale or a contrast of 1 plus it).
    flip: how likely an example is mirrored, left to right.
    """

    epochs: int = 15
    optimizer: str = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: str = "one_cycle"
    warmup: float = 0.2
    step_start: int = 0
    step_epochs: int = 6
    step_gamma: float = 0.1
    average_epochs: float = 0.0
    batch_size: int = 128
    label_smoothing: float = 0.0
    rotation: float = 0.0
    translation: float = 0.0
    scale: float = 0.0
    shear: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    flip: float = 0.0

    def __post_init__(self) -> None:
        for name, allowed in ALLOWED.items():
            if not allowed.holds(getattr(self, name)):
                raise RecipeError(f"{name} is {refusal(getattr(self, name), allowed)}")

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dump`, every field in it."""
        return dataclasses.asdict(self)

    def in_effect(self) -> dict[str, Any]:
        """The fields that change something: none that are off or belong to another schedule."""
        schedules = {"warmup": "one_cycle", **dict.fromkeys(("step_start", "step_epochs", "step_gamma"), "step")}
        values = self.to_json().items()
        return {name: x for name, x in values if x != 0 and schedules.get(name, self.schedule) == self.schedule}

    @classmethod
    def from_json(cls, data: object, *, where: str = "recipe") -> "Recipe":
        """The recipe in what `to_json` gave; fields left out keep their defaults."""
        values = check_keys(data, ALLOWED, where, RecipeError)
        try:
            return cls(**values)
        except RecipeError as error:
            raise RecipeError(f"{where}: {error}") from None

    @classmethod
    def load(cls, path: str | Path) -> "Recipe":
        """The recipe in a JSON file."""
        return cls.from_json(read_json(path, RecipeError), where=str(path))
