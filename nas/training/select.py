"""The fastest trainer that a device and a network have, behind one interface.

Machine code for each network on processors, graphs of kernels on CUDA, and where neither can do it the reference.
"""

from collections.abc import Iterator

import torch
from torch import nn

from nas.recipe import Recipe
from nas.training.cpu import CpuEngine
from nas.training.data import TrainingData
from nas.training.metrics import EpochMetrics
from nas.training.protocol import Engine


def most_at_once(device: torch.device, size: int | None = None) -> int:
    """The largest capacity that the engine of a device can have; `size` as for `open_engine`."""
    if device.type == "cuda":
        from nas.training.cuda.engine import GROUP

        return size or GROUP
    return CpuEngine.capacity


def open_engine(data: TrainingData, device: torch.device, *, exact: bool = False, size: int | None = None) -> Engine:
    """The engine of a device. `exact`: bitwise repeatable, which on processors it always is; `size`: of CUDA's groups.

    None: 16, or as many as memory allows.
    """
    if device.type == "cuda":
        from nas.training.cuda.engine import CudaGroup

        return CudaGroup(data, device, exact=exact, size=most_at_once(device, size))
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
