"""Trains one architecture with one recipe, once or with several seeds."""

import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nas.architecture.architecture import Architecture
from nas.commands.display import epoch_line
from nas.commands.networks import SourcedRecipe, check_fits_board, default_recipe, load_architecture
from nas.data import datasets
from nas.errors import ArchitectureError, NasError, argument_text, first_line
from nas.recipe import Recipe
from nas.schema import DEFAULT_TARGET, check_counts, check_instance, check_target
from nas.seed_stats import SeedAccuracies
from nas.training.data import TrainingData
from nas.training.device import pick_device
from nas.training.fit import Fit, Repeats
from nas.training.metrics import EpochMetrics
from nas.training.reference import initialise, state_dict_on_cpu
from nas.training.results import NUM_LAST_EPOCHS, history_text, val_accuracies
from nas.training.select import train as run
from nas.workers.backend import Compute
from nas.workers.protocol import Job
from nas.workers.run_all import run_all

if TYPE_CHECKING:
    from torch import Tensor, nn

RECIPE_HINT = "Recipe(epochs=15) or Recipe.load('recipe.json')"


def train(
    network: Architecture | str | Path,
    recipe: Recipe | None = None,
    *,
    epochs: int | None = None,
    dataset: str | None = None,
    data_root: str | Path | None = None,
    seed: int = 0,
    device: str = "auto",
    exact: bool = False,
    test: bool = False,
    board: str | None = None,
    progress: bool = False,
    on_epoch: Callable[[EpochMetrics], None] = lambda metrics: None,
) -> Fit:
    """Trains a network once and evaluates it after every epoch.

    Args:
        network (Architecture | str | Path): Network to train, name of a known one such as "nas-3686", path of an
            architecture file or of a design, or folder of an export. Its input and output shape must fit the dataset.
        recipe (Recipe | None): How to train it. Default: the network's own recipe if it is given by name, file or
            folder and has one, else `Recipe()`.
        epochs (int | None): Number of epochs, in place of the recipe's. Default: the recipe's.
        dataset (str | None): Name of a dataset, or "folder:PATH". Default: MNIST if available, else scikit-learn's
            digits.
        data_root (str | Path | None): Folder that datasets are read from and downloaded to. Default: `$NAS_DATA`, or
            the user's cache.
        seed (int): Seed of the weights and of the training, at least 0 and below 2**64. Default: 0.
        device (str): "auto" (CUDA, then MPS, then CPU), "cuda" (the first GPU), "cuda:N", "mps" or "cpu". Default:
            "auto".
        exact (bool): Whether training on a GPU is bitwise reproducible, which is slower. Default: False.
        test (bool): Whether to train on train + val and evaluate on the test split, instead of train and val. Meant for
            checking a published result, not for choosing a network. Default: False.
        board (str | None): Name of a board, such as "pico", or "FILE.toml:NAME". The network's int8 C code must fit
            into half of its RAM and of its flash, or nothing is trained. Default: no board.
        progress (bool): Whether to print the dataset, the recipe if it is not given, and a line for each epoch.
            Default: False.
        on_epoch (Callable[[EpochMetrics], None]): Called with the metrics of each epoch. Default: does nothing.

    Returns:
        The trained network: weights on the CPU and metrics of each epoch.

    Raises:
        TrainingDiverged: If the loss is not finite.
        InfeasibleError: If the network does not fit into the board.
        ArchitectureError: If there is no such network, it does not fit the dataset, or it cannot be built.
        RecipeError: If the network's own recipe is not valid.
        NasError: If an argument is not valid, the dataset or the device is not available, or memory does not suffice
            for a batch.
    """
    check_counts(epochs=(epochs, 1))
    _check_seed("seed", seed)
    picked = pick_device(device)
    architecture, recipe, line = _resolve(network, recipe, epochs)
    lines = [line, check_fits_board(architecture, board) if board is not None else ""]
    loaded, data = _load_data(architecture, dataset, data_root, test=test, progress=progress, lines=lines)
    module = _build_module(architecture, seed)
    history = []
    try:
        for metrics in run(module, recipe, data, seed=seed, device=picked, exact=exact):
            history.append(metrics)
            if progress:
                print(epoch_line(metrics, recipe.epochs, "test" if test else "val"), flush=True)
            on_epoch(metrics)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        raise NasError(f"out of memory with batches of {recipe.batch_size}: {first_line(error)}") from None
    return _make_fit(architecture, recipe, loaded, seed, history, state_dict_on_cpu(module), test=test)


def train_seeds(
    network: Architecture | str | Path,
    recipe: Recipe | None = None,
    *,
    epochs: int | None = None,
    seeds: int = 5,
    first_seed: int = 0,
    target: float = DEFAULT_TARGET,
    dataset: str | None = None,
    data_root: str | Path | None = None,
    device: str = "auto",
    workers: int | None = None,
    exact: bool = False,
    test: bool = False,
    board: str | None = None,
    progress: bool = False,
    on_run: Callable[[int, tuple[EpochMetrics, ...]], None] = lambda seed, history: None,
) -> Repeats:
    """Trains a network with several seeds, several runs at a time, and compares the accuracies with a target.

    A run that diverges has no epochs and counts as an accuracy of 0.

    Args:
        network (Architecture | str | Path): Network to train, name of a known one such as "nas-3686", path of an
            architecture file or of a design, or folder of an export. Its input and output shape must fit the dataset.
        recipe (Recipe | None): How to train it. Default: the network's own recipe if it is given by name, file or
            folder and has one, else `Recipe()`.
        epochs (int | None): Number of epochs, in place of the recipe's. Default: the recipe's.
        seeds (int): Number of runs, at least 2. Default: 5.
        first_seed (int): Seed of the first run; the others have the seeds after it. Default: 0.
        target (float): Accuracy to reach in each of the last 5 epochs, a fraction above 0 and at most 1. Default:
            0.994.
        dataset (str | None): Name of a dataset, or "folder:PATH". Default: MNIST if available, else scikit-learn's
            digits.
        data_root (str | Path | None): Folder that datasets are read from and downloaded to. Default: `$NAS_DATA`, or
            the user's cache.
        device (str): "auto" (CUDA, then MPS, then CPU), "cuda" (all GPUs), "cuda:N", "mps" or "cpu". Default: "auto".
        workers (int | None): Number of worker processes. Default: one per CPU core, or one per GPU.
        exact (bool): Whether training on a GPU is bitwise reproducible, which is slower. Default: False.
        test (bool): Whether to train on train + val and evaluate on the test split, instead of train and val. Meant for
            checking a published result, not for choosing a network. Default: False.
        board (str | None): Name of a board, such as "pico", or "FILE.toml:NAME". The network's int8 C code must fit
            into half of its RAM and of its flash, or nothing is trained. Default: no board.
        progress (bool): Whether to print the dataset, the recipe if it is not given, and a line for each run that has
            ended. Default: False.
        on_run (Callable[[int, tuple[EpochMetrics, ...]], None]): Called with the seed and the metrics of each run when
            it ends. Default: does nothing.

    Returns:
        The metrics of each run, the comparison with the target, and the network of the first run; it has no weights if
        that run diverged.

    Raises:
        InfeasibleError: If the network does not fit into the board.
        ArchitectureError: If there is no such network, it does not fit the dataset, or it cannot be built.
        RecipeError: If the network's own recipe is not valid.
        NasError: If an argument is not valid, the dataset or the device is not available, or a run fails.
    """
    check_counts(epochs=(epochs, 1), seeds=(seeds, 2), workers=(workers, 1))
    check_target(target)
    _check_seed("first_seed", first_seed, seeds)
    backend = Compute(device=device, workers=workers).backend()
    architecture, recipe, line = _resolve(network, recipe, epochs)
    lines = [line, check_fits_board(architecture, board) if board is not None else ""]
    loaded, data = _load_data(architecture, dataset, data_root, test=test, progress=progress, lines=lines)
    _build_module(architecture, first_seed)  # fails before worker processes start
    chosen = range(first_seed, first_seed + seeds)
    histories: dict[int, tuple[EpochMetrics, ...]] = {}
    weights = b""
    with backend, closing(backend.open(data, exact=exact)) as opened:
        jobs = [Job(key=seed, architecture=architecture, recipe=recipe, seed=seed) for seed in chosen]
        for job, history, end in run_all(opened, jobs):
            if end.outcome == "failed":
                raise NasError(f"seed {job.seed} failed: {end.reason}")
            histories[job.seed] = tuple(history) if end.outcome == "trained" else ()
            if job.seed == first_seed:
                weights = end.weights
            if progress:
                judged_on, text = "test" if test else "val", history_text(histories[job.seed])
                print(f"seed {job.seed}: {judged_on} {text}", flush=True)
            on_run(job.seed, histories[job.seed])
    import torch

    return Repeats(
        fit=_make_fit(
            architecture,
            recipe,
            loaded,
            first_seed,
            histories[first_seed],
            torch.load(io.BytesIO(weights), weights_only=True) if weights else {},
            test=test,
        ),
        histories={seed: histories[seed] for seed in chosen},
        result=SeedAccuracies(
            accuracies=tuple(val_accuracies(histories[seed], recipe.epochs) for seed in chosen),
            consistency=NUM_LAST_EPOCHS,
            target=target,
            num_images=len(data.val_labels),
        ),
    )


def _check_seed(name: str, seed: int, seeds: int = 1) -> None:
    if type(seed) is not int or not 0 <= seed <= 2**64 - seeds:
        raise NasError(f"{argument_text(name, seed)}: expected an integer from 0 to 2**64 - {seeds}")


def _resolve(
    network: Architecture | str | Path, recipe: Recipe | None, epochs: int | None
) -> tuple[Architecture, Recipe, str]:
    """Returns the architecture, the recipe to train it with, and a line about the recipe if its source is known."""
    if recipe is not None:
        check_instance("recipe", recipe, Recipe, RECIPE_HINT)
    architecture = load_architecture(network)
    chosen = default_recipe(network) if recipe is None else recipe
    if epochs is not None:
        chosen = replace(chosen, epochs=epochs)
    line = chosen.line() if isinstance(chosen, SourcedRecipe) else ""
    return architecture, Recipe(**chosen.to_json()), line


def _load_data(
    architecture: Architecture,
    dataset: str | None,
    data_root: str | Path | None,
    *,
    test: bool,
    progress: bool,
    lines: Sequence[str],
) -> tuple[datasets.Dataset, TrainingData]:
    name, note = datasets.resolve(dataset, data_root=data_root)
    if progress:
        print(*filter(None, (f"dataset {name}: {note}", *lines)), sep="\n", flush=True)
    loaded = datasets.load(name, data_root=data_root)
    _check_fits(architecture, loaded.input_shape, loaded.num_classes, name)
    if test:
        return loaded, TrainingData.with_test_split(loaded, datasets.load_test(name, data_root=data_root))
    return loaded, TrainingData.from_dataset(loaded)


def _make_fit(
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


def _build_module(architecture: Architecture, seed: int) -> "nn.Module":
    """Builds the network and runs it once, since its sizes may be too large for torch or for this machine."""
    import torch

    try:
        module = initialise(architecture, seed=seed)
        with torch.inference_mode():
            module.eval()(torch.zeros(1, *architecture.input_shape))
    except (MemoryError, RuntimeError) as error:
        raise ArchitectureError(f"the architecture cannot be run on this machine: {first_line(error)}") from None
    return module.train()


def _is_out_of_memory(error: Exception) -> bool:
    import torch

    # On a CPU torch raises a plain RuntimeError.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)


def _check_fits(architecture: Architecture, shape: tuple[int, ...], num_classes: int, dataset: str) -> None:
    if architecture.input_shape != shape:
        found = architecture.input_shape
        raise ArchitectureError(f"architecture: input_shape is {found}, expected {shape} for dataset {dataset}")
    if architecture.output_shape != (num_classes,):
        found = architecture.output_shape
        raise ArchitectureError(
            f"architecture: output_shape is {found}, expected ({num_classes},) for dataset {dataset}"
        )
