"""Recipe: the hyperparameters of a training run. Plain data, which `nas.training` reads."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from nas.errors import ArchitectureError, RecipeError
from nas.resources import network_file
from nas.schema import COUNT, RATE, Interval, OneOf, ScalarSchema, check_keys, mismatch_text
from nas.text import read_json

RECIPE_FIELDS: dict[str, ScalarSchema] = {
    "epochs": COUNT,
    "optimizer": OneOf(("sgd", "adam", "adamw")),
    "learning_rate": Interval(float, 0, open_low=True),
    "momentum": RATE,
    "weight_decay": Interval(float, 0),
    "schedule": OneOf(("constant", "step", "cosine", "one_cycle")),
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
"""Valid values of each field of a recipe; search spaces are checked against the same table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a network is trained: everything except the network, the data and the seed.

    `RECIPE_FIELDS` lists the valid values of each field. Augmentations other than `flip` draw a value for each
    example, uniformly between minus and plus their strength; 0 turns them off.

    Attributes:
        epochs: number of epochs.
        optimizer: "sgd" (with Nesterov momentum), "adam" or "adamw".
        learning_rate: peak of the schedule.
        momentum: momentum of SGD, or Adam's first beta.
        weight_decay: weight decay of every parameter, as the optimizer defines it.
        schedule: "constant"; "step" multiplies the rate by `step_gamma` every `step_epochs` epochs, counted from epoch
            `step_start`; "cosine" falls to 0; "one_cycle" rises from 1/25 of the peak and then falls to 1/250,000 of
            it, both along a cosine. "cosine" and "one_cycle" change the rate at every batch.
        warmup: fraction of all batches during which "one_cycle" rises.
        step_start, step_epochs, step_gamma: for "step".
        average_epochs: time constant, in epochs, of the running average of the weights that is validated and kept
            (`nas.training.averaging`); 0 validates and keeps the weights themselves.
        batch_size: examples per batch.
        label_smoothing: as in `torch.nn.CrossEntropyLoss`.
        rotation: degrees.
        translation: fraction of the image's width and height.
        scale: the scaling factor is 1 plus the drawn value.
        shear: degrees, along x.
        brightness: added to pixels in 0..1.
        contrast: the distance of pixels from the image's mean is multiplied by 1 plus the drawn value.
        flip: probability of mirroring an example left to right.

    Raises:
        RecipeError: a field has an invalid value.
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
        for name, expected in RECIPE_FIELDS.items():
            if not expected.accepts(getattr(self, name)):
                raise RecipeError(f"{name} is {mismatch_text(getattr(self, name), expected)}")

    def to_json(self) -> dict[str, Any]:
        """Returns all fields as plain data for `json.dump`."""
        return {name: getattr(self, name) for name in RECIPE_FIELDS}

    def effective_fields(self) -> dict[str, Any]:
        """Returns the fields that have an effect: not 0, and used by the recipe's schedule."""
        schedules = {"warmup": "one_cycle", **dict.fromkeys(("step_start", "step_epochs", "step_gamma"), "step")}
        values = self.to_json().items()
        return {name: x for name, x in values if x != 0 and schedules.get(name, self.schedule) == self.schedule}

    def rows(self) -> list[tuple[str, str]]:
        """Returns the fields that have an effect, and their values as text."""
        values = self.effective_fields().items()
        return [(name, f"{x:.4g}" if isinstance(x, float) else str(x)) for name, x in values]

    def text(self) -> str:
        """Returns the fields that have an effect, on one line: "epochs 15, optimizer sgd, learning_rate 0.1"."""
        return ", ".join(f"{name} {value}" for name, value in self.rows())

    @classmethod
    def from_json(cls, data: object, *, where: str = "recipe") -> "Recipe":
        """Returns the recipe that `to_json` wrote; missing fields get their defaults.

        Raises `RecipeError`, whose message starts with `where`, for unknown fields and invalid values.
        """
        values = check_keys(data, RECIPE_FIELDS, where, RecipeError)
        try:
            return cls(**values)
        except RecipeError as error:
            raise RecipeError(f"{where}: {error}") from None

    @classmethod
    def load(cls, path: str | Path) -> "Recipe":
        """Reads the recipe in a JSON file, which may be a design; raises `RecipeError` if it is missing or invalid."""
        data = read_json(path, RecipeError)
        if _is_design(data):
            return cls.from_json(data["recipe"], where=f"{path}: recipe")
        return cls.from_json(data, where=str(path))

    @classmethod
    def of_network(cls, name_or_path: str | Path) -> "Recipe | None":
        """Returns the recipe that belongs to a network; None for a network without one.

        The recipe is that of a design, or else `recipe.json` in the folder of the architecture file. Raises
        `RecipeError` if it is not valid.

        Args:
            name_or_path: name of a known network, path of an architecture file or of a design, or a folder with
                `architecture.json`, such as an export.
        """
        file = recipe_file(name_or_path)
        return None if file is None else cls.load(file)


def recipe_file(name_or_path: str | Path) -> Path | None:
    """Returns the file with the recipe of a network, as `Recipe.of_network` finds it; None if there is none."""
    try:
        path = network_file(name_or_path)
        data = read_json(path, ArchitectureError)
    except ArchitectureError:  # whoever loads the architecture reports the file
        return None
    if _is_design(data):
        return path
    beside = path.with_name("recipe.json")
    return beside if beside.exists() else None


def _is_design(data: object) -> TypeGuard[dict[str, Any]]:
    """Returns whether the content of a file is a design: an architecture with its recipe."""
    return isinstance(data, dict) and {"architecture", "recipe"} <= data.keys()
