"""One architecture and one recipe, trained once or with several seeds."""

import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from nas.architecture.architecture import Architecture
from nas.data import datasets
from nas.errors import ArchitectureError, NasError, first_line, found
from nas.recipe import Recipe
from nas.schema import check_counts, check_target
from nas.seed_stats import TestResult
from nas.training.data import TrainingData
from nas.training.device import pick_device
from nas.training.fit import Fit, Repeats
from nas.training.metrics import EpochMetrics
from nas.training.reference import initialise, state_dict_on_cpu
from nas.training.results import CONSISTENCY, val_accuracies
from nas.training.select import train as run
from nas.workers.backend import Compute
from nas.workers.protocol import Job
from nas.workers.run_all import run_all

if TYPE_CHECKING:
    from torch import Tensor, nn


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
    _check_seed(seed)
    picked = pick_device(device)
    loaded, data = _data(architecture, dataset, data_root, test=test, on_dataset=on_dataset)
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
    return _fit(architecture, recipe, loaded, seed, history, state_dict_on_cpu(module), test=test)


def train_seeds(
    architecture: Architecture,
    recipe: Recipe,
    *,
    seeds: int = 5,
    first_seed: int = 0,
    target: float = 0.994,
    dataset: str | None = None,
    data_root: str | Path | None = None,
    device: str = "auto",
    workers: int | None = None,
    exact: bool = False,
    test: bool = False,
    on_dataset: Callable[[str, str], None] = lambda name, note: None,
    on_run: Callable[[int, tuple[EpochMetrics, ...]], None] = lambda seed, history: None,
) -> Repeats:
    """`train` with the seeds from `first_seed` on, several at a time, held against a target as `confirm` does.

    A run whose loss is no number counts as an accuracy of 0; the first then leaves no weights. `on_run` hears of each
    run as it ends.
    """
    check_counts(seeds=(seeds, 2), workers=(workers, 1))
    check_target(target)
    _check_seed(first_seed)
    _check_seed(first_seed + seeds - 1)
    place = Compute(device=device, workers=workers).place()
    loaded, data = _data(architecture, dataset, data_root, test=test, on_dataset=on_dataset)
    _initialised(architecture, first_seed)  # whether it can be run is known before processes are started
    chosen = range(first_seed, first_seed + seeds)
    histories: dict[int, tuple[EpochMetrics, ...]] = {}
    weights = b""
    with place, closing(place.open(data, exact=exact)) as opened:
        jobs = [Job(key=seed, architecture=architecture, recipe=recipe, seed=seed) for seed in chosen]
        for job, history, end in run_all(opened, jobs):
            if end.outcome == "failed":
                raise NasError(f"seed {job.seed} failed: {end.reason}")
            histories[job.seed] = tuple(history) if end.outcome == "trained" else ()
            if job.seed == first_seed:
                weights = end.weights
            on_run(job.seed, histories[job.seed])
    import torch

    return Repeats(
        fit=_fit(
            architecture,
            recipe,
            loaded,
            first_seed,
            histories[first_seed],
            torch.load(io.BytesIO(weights), weights_only=True) if weights else {},
            test=test,
        ),
        histories={seed: histories[seed] for seed in chosen},
        result=TestResult(
            accuracies=tuple(val_accuracies(histories[seed], recipe.epochs) for seed in chosen),
            consistency=CONSISTENCY,
            target=target,
            num_images=len(data.val_labels),
        ),
    )


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 2**64:
        raise NasError(f"seed is {found(seed)}, allowed: a whole number of at least 0 and below 2**64")


def _data(
    architecture: Architecture,
    dataset: str | None,
    data_root: str | Path | None,
    *,
    test: bool,
    on_dataset: Callable[[str, str], None],
) -> tuple[datasets.Dataset, TrainingData]:
    name, note = datasets.resolve(dataset, data_root=data_root)
    on_dataset(name, note)
    loaded = datasets.load(name, data_root=data_root)
    _check_fits(architecture, loaded.input_shape, loaded.num_classes, name)
    if test:
        return loaded, TrainingData.on_test(loaded, datasets.load_test(name, data_root=data_root))
    return loaded, TrainingData.of(loaded)


def _fit(
    architecture: Architecture,
    recipe: Recipe,
    loaded: datasets.Dataset,
    seed: int,
    history: Sequence[EpochMetrics],
    weights: "Mapping[str, Tensor]",
    *,
    test: bool,
) -> Fit:
    return Fit(
        architecture=architecture,
        recipe=recipe,
        dataset=loaded.name,
        mean=tuple(loaded.mean),
        std=tuple(loaded.std),
        classes=loaded.classes,
        judged_on="test" if test else "val",
        seed=seed,
        data=loaded,
        history=tuple(history),
        weights=weights,
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
