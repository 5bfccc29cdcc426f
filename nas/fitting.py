"""One architecture, one recipe, one training."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from nas import datasets
from nas.architecture import Architecture
from nas.errors import ArchitectureError, NasError, first_line, found
from nas.recipe import Recipe
from nas.training import EpochMetrics, TrainingData, initialise, pick_device, state_dict_on_cpu
from nas.training import train as run

if TYPE_CHECKING:
    from torch import Tensor, nn


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
    if not 0 <= seed < 2**64:
        raise NasError(f"seed is {found(seed)}, allowed: a whole number of at least 0 and below 2**64")
    picked = pick_device(device)
    name, note = datasets.resolve(dataset, data_root=data_root)
    on_dataset(name, note)
    loaded = datasets.load(name, data_root=data_root)
    _check_fits(architecture, loaded.input_shape, loaded.num_classes, name)
    data = (
        TrainingData.on_test(loaded, datasets.load_test(name, data_root=data_root)) if test else TrainingData.of(loaded)
    )
    module = _initialised(architecture, seed)
    history = []
    try:
        for metrics in run(module, recipe, data, seed=seed, device=picked, exact=exact):
            history.append(metrics)
            on_epoch(metrics)
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        raise NasError(f"batches of {recipe.batch_size} take more memory than there is: {first_line(error)}") from None
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


def _initialised(architecture: Architecture, seed: int) -> "nn.Module":
    """The network, seen to run: its sizes may be more than torch can count, or than this machine can hold."""
    import torch

    try:
        module = initialise(architecture, seed=seed)
        with torch.inference_mode():
            module.eval()(torch.zeros(1, *architecture.input_shape))
    except (MemoryError, RuntimeError) as error:
        raise ArchitectureError(f"the architecture cannot be run here: {first_line(error)}") from None
    return module.train()


def _out_of_memory(error: Exception) -> bool:
    import torch

    # Torch has a type for it on a GPU alone.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)


def _check_fits(architecture: Architecture, shape: tuple[int, ...], num_classes: int, dataset: str) -> None:
    if architecture.input_shape != shape:
        raise ArchitectureError(f"the architecture takes {architecture.input_shape}, {dataset} has images of {shape}")
    if architecture.output_shape != (num_classes,):
        raise ArchitectureError(
            f"the architecture's output is {architecture.output_shape}, {dataset} needs ({num_classes},)"
        )
