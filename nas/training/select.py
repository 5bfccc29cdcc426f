"""Selects the fastest trainer for a device and a network, behind one interface.

On CPUs this is machine code generated for the network, or the reference trainer if the network is not supported. On
CUDA it is a group of lanes with CUDA graphs, or without graphs if capture fails. On other devices it is the reference
trainer.
"""

from collections.abc import Iterator

import torch
from torch import nn

from nas.recipe import Recipe
from nas.training.cpu import CpuEngine
from nas.training.data import TrainingData
from nas.training.metrics import EpochMetrics
from nas.training.protocol import Engine


def max_engine_capacity(device: torch.device, max_networks: int | None = None) -> int:
    """Returns the largest capacity that the engine of a device can have; `max_networks` is that of `open_engine`."""
    if device.type == "cuda":
        from nas.training.cuda.engine import DEFAULT_MAX_NETWORKS

        return max_networks or DEFAULT_MAX_NETWORKS
    return CpuEngine.capacity


def open_engine(
    data: TrainingData, device: torch.device, *, exact: bool = False, max_networks: int | None = None
) -> Engine:
    """Returns a training engine for a device.

    Args:
        data: on any device; the engine moves it to `device`.
        device: where to train.
        exact: whether results on CUDA are bitwise repeatable. On CPUs they always are.
        max_networks: largest number of networks that train side by side on CUDA, default 16; memory may allow fewer.
    """
    if device.type == "cuda":
        from nas.training.cuda.engine import CudaGroup

        return CudaGroup(data, device, exact=exact, max_networks=max_engine_capacity(device, max_networks))
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
    """Trains `module` in place with the fastest engine of the device and yields the metrics of each epoch.

    Arguments and errors are those of `reference.train`, `exact` is that of `open_engine`. On CUDA, the module is in
    eval mode and holds the kept weights only after the last epoch.
    """
    engine = open_engine(data, device, exact=exact, max_networks=1)
    engine.add(0, module, recipe, seed=seed)
    for _ in range(recipe.epochs):
        for _, metrics in engine.advance():
            if isinstance(metrics, Exception):
                raise metrics
            yield metrics
