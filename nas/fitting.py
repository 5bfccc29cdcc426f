"""One architecture, one recipe, one training."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from nas import datasets
from nas.architecture import Architecture
from nas.errors import ArchitectureError
from nas.recipe import Recipe
from nas.training import EpochMetrics, TrainingData, initialise, pick_device, state_dict_on_cpu
from nas.training import train as run

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


def train(
    architecture: Architecture,
    recipe: Recipe,
    *,
    dataset: str | None = None,
    data_root: str | Path | None = None,
    seed: int = 0,
    device: str = "auto",
    exact: bool = False,
    test: bool = False,
    on_dataset: Callable[[str, str], None] = lambda name, note: None,
    on_epoch: Callable[[EpochMetrics], None] = lambda metrics: None,
) -> Fit:
    """Trains on the train split and judges on the val split after every epoch; raises `TrainingDiverged`.

    With `test`, trains on train + val and opens the test split to judge on it: for checking a published figure,
    not for choosing. `exact` makes it bitwise repeatable on a GPU, too. `on_dataset` hears the dataset's name and why
    it was taken before anything is trained.
    """
    picked = pick_device(device)
    name, note = datasets.resolve(dataset, data_root=data_root)
    on_dataset(name, note)
    loaded = datasets.load(name, data_root=data_root)
    _check_fits(architecture, loaded.input_shape, loaded.num_classes, name)
    data = (
        TrainingData.on_test(loaded, datasets.load_test(name, data_root=data_root)) if test else TrainingData.of(loaded)
    )
    module = initialise(architecture, seed=seed)
    history = []
    for metrics in run(module, recipe, data, seed=seed, device=picked, exact=exact):
        history.append(metrics)
        on_epoch(metrics)
    return Fit(
        architecture=architecture,
        recipe=recipe,
        dataset=name,
        mean=data.mean,
        std=data.std,
        classes=loaded.classes,
        judged_on="test" if test else "val",
        seed=seed,
        data=loaded,
        history=tuple(history),
        weights=state_dict_on_cpu(module),
    )


def _check_fits(architecture: Architecture, shape: tuple[int, ...], num_classes: int, dataset: str) -> None:
    if architecture.input_shape != shape:
        raise ArchitectureError(f"the architecture takes {architecture.input_shape}, {dataset} has images of {shape}")
    if architecture.output_shape != (num_classes,):
        raise ArchitectureError(
            f"the architecture's output is {architecture.output_shape}, {dataset} needs ({num_classes},)"
        )
