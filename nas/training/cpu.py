"""Training engine for all devices but CUDA: machine code for a network on a CPU, or else the reference trainer."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from nas.recipe import Recipe
from nas.training import reference
from nas.training.data import TrainingData
from nas.training.metrics import EpochMetrics
from nas.training.native.graph import UnsupportedError
from nas.training.native.trainer import NativeTrainer


class CpuEngine:
    """Trains one network at a time in one thread."""

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
            # Always one thread, so that a result does not depend on the number of workers on the machine.
            with _one_thread():
                metrics = next(epochs)
        except Exception as error:  # any error of a network is the outcome of its own training run
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


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
