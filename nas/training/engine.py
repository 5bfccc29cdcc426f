"""The fastest trainer that a device and a network have, behind one interface.

Machine code for each network on processors, graphs of kernels on CUDA, and where neither can do it the reference.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import nn

from nas.recipe import Recipe
from nas.training import reference
from nas.training.data import TrainingData
from nas.training.metrics import EpochMetrics
from nas.training.native import NativeTrainer, UnsupportedError


class GroupFullError(Exception):
    """There is no memory for one more network beside those that are being trained."""


class Engine(Protocol):
    """Trains up to `capacity` networks side by side; what one comes to does not depend on the others.

    `notes` says what was done otherwise than meant, and why.
    """

    capacity: int
    notes: list[str]

    def add(self, key: int, module: nn.Module, recipe: Recipe, *, seed: int) -> None:
        """Takes a network in, to be trained in place; raises `GroupFullError`."""

    def remove(self, key: int) -> None:
        """Drops a network, wherever its training stands."""

    def advance(self) -> list[tuple[int, EpochMetrics | Exception]]:
        """Trains every network by an epoch: its metrics, or what it failed with.

        A network leaves by itself after its recipe's last epoch, or when it fails: `TrainingDiverged` where its loss
        is no longer finite.
        """


class CpuEngine:
    """One network at a time, in one thread."""

    capacity = 1

    def __init__(self, data: TrainingData, device: torch.device) -> None:
        self.data, self.device = data, device
        self.notes: list[str] = []
        self._running: dict[int, tuple[int, Iterator[EpochMetrics]]] = {}

    def add(self, key: int, module: nn.Module, recipe: Recipe, *, seed: int) -> None:
        self._running[key] = recipe.epochs, self._epochs(module, recipe, seed)

    def remove(self, key: int) -> None:
        self._running.pop(key, None)

    def advance(self) -> list[tuple[int, EpochMetrics | Exception]]:
        return [(key, self._advance(key)) for key in list(self._running)]

    def _advance(self, key: int) -> EpochMetrics | Exception:
        last, epochs = self._running[key]
        try:
            # In one thread always, so that a result does not depend on how many workers share the machine.
            with _one_thread():
                metrics = next(epochs)
        except Exception as error:  # whatever a network does belongs to its own training
            self.remove(key)
            return error
        if metrics.epoch == last:
            self.remove(key)
        return metrics

    def _epochs(self, module: nn.Module, recipe: Recipe, seed: int) -> Iterator[EpochMetrics]:
        if self.device.type == "cpu":
            try:
                return NativeTrainer(module, recipe, self.data, seed=seed).epochs()
            except UnsupportedError as reason:
                self.notes.append(f"trained by the reference trainer, for there is no machine code for {reason}")
        return reference.train(module, recipe, self.data, seed=seed, device=self.device)


def most_at_once(device: torch.device, size: int | None = None) -> int:
    """The largest capacity that the engine of a device can have; `size` as for `open_engine`."""
    if device.type == "cuda":
        from nas.training.cuda import LARGEST_GROUP

        return size or LARGEST_GROUP
    return CpuEngine.capacity


def open_engine(data: TrainingData, device: torch.device, *, exact: bool = False, size: int | None = None) -> Engine:
    """The engine of a device. `exact`: bitwise repeatable, which on processors it always is; `size`: of CUDA's groups.

    None: as many networks at a time as pay.
    """
    if device.type == "cuda":
        from nas.training.cuda import CudaGroup

        return CudaGroup(data, device, exact=exact, size=size)
    return CpuEngine(data.to(device), device)


def train(
    module: nn.Module,
    recipe: Recipe,
    data: TrainingData,
    *,
    seed: int,
    device: torch.device,
    exact: bool = False,
) -> Iterator[EpochMetrics]:
    """Yields the metrics of each epoch while it trains `module` in place; raises `TrainingDiverged`.

    What `reference.train` does, on the fastest engine of the device.
    """
    engine = open_engine(data, device, exact=exact, size=1)
    engine.add(0, module, recipe, seed=seed)
    for _ in range(recipe.epochs):
        for _, metrics in engine.advance():
            if isinstance(metrics, Exception):
                raise metrics
            yield metrics


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
