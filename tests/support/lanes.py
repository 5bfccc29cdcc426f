"""Networks that train in lanes: helpers that train them alone, in groups and with the reference trainer."""

from collections.abc import Sequence
from dataclasses import replace
from random import Random

import torch
from torch import Tensor, nn

from nas.architecture.architecture import Architecture
from nas.architecture.layers import Activation, BatchNorm, Conv, Dropout, Flatten, GlobalAvgPool, Linear, MaxPool
from nas.recipe import Recipe
from nas.training import reference
from nas.training.cuda.engine import CudaGroup
from nas.training.cuda.lane import Lane
from nas.training.cuda.runner import EagerRunner
from nas.training.data import TrainingData
from nas.training.metrics import EpochMetrics
from nas.training.reference import initialise
from support.architectures import ALL_KINDS, draw_architecture
from support.images import EVERY_AUGMENTATION, noise

CPU = torch.device("cpu")


GPU = torch.device("cuda:0")


RECIPE = Recipe(
    epochs=2,
    batch_size=16,
    learning_rate=0.02,
    weight_decay=1e-3,
    label_smoothing=0.1,
    **EVERY_AUGMENTATION,
)


def small(*, width: int = 6, dropout: float = 0.0, per: str = "element") -> Architecture:
    return Architecture(
        input_shape=(1, 12, 12),
        layers=(
            Conv(out_channels=width, kernel_size=3, stride=2, bias=False),
            BatchNorm(),
            Activation(),
            Dropout(rate=dropout, per=per),
            MaxPool(kernel_size=3, stride=2, padding=1),
            Conv(out_channels=10, kernel_size=3, padding="same"),
            Activation(function="silu"),
            GlobalAvgPool(),
            Flatten(),
            Linear(out_features=10),
        ),
    )


def drawn(seed: int) -> Architecture:
    """Returns a random architecture without dropout, extended to a classifier of ten classes."""
    kinds = tuple(kind for kind in ALL_KINDS if kind != "dropout")
    found = draw_architecture(Random(seed), (1, 12, 12), kinds)
    if len(found.output_shape) > 1:
        found = replace(found, layers=(*found.layers, Flatten()))
    return replace(found, layers=(*found.layers, Linear(out_features=10)))


def timeless(metrics: Sequence[EpochMetrics]) -> list[EpochMetrics]:
    return [replace(m, seconds=0.0) for m in metrics]


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in module.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def run_lane(
    architecture: Architecture, recipe: Recipe = RECIPE, *, seed: int = 7, warm_up: int = 0, device: torch.device = CPU
) -> tuple[list[EpochMetrics], dict[str, Tensor]]:
    module = initialise(architecture, seed=0)
    lane = Lane(module, recipe, noise(150).to(device), seed=seed, runner=EagerRunner())
    lane.warm_up(warm_up)
    metrics = []
    for _ in range(recipe.epochs):
        list(lane.launches())
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        metrics.append(lane.metrics(0.0))
    lane.finish()
    assert not module.training
    return timeless(metrics), weights(module)


def run_group(group: CudaGroup) -> dict[int, list[EpochMetrics | Exception]]:
    found: dict[int, list[EpochMetrics | Exception]] = {}
    while outcomes := group.advance():
        for key, outcome in outcomes:
            found.setdefault(key, []).append(
                replace(outcome, seconds=0.0) if isinstance(outcome, EpochMetrics) else outcome
            )
    return found


def run_reference(
    architecture: Architecture, recipe: Recipe = RECIPE, *, seed: int = 7, device: torch.device = CPU
) -> tuple[list[EpochMetrics], dict[str, Tensor]]:
    module = initialise(architecture, seed=0)
    metrics = list(reference.train(module, recipe, noise(150), seed=seed, device=device))
    return timeless(metrics), weights(module)


class Breaks(nn.Module):
    """Scales its input by a weight; call number `at` in training mode raises."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.left = at
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        self.left -= self.training
        if not self.left:
            raise ValueError("broken")
        return x * self.weight


def broken(at: int) -> nn.Module:
    return nn.Sequential(Breaks(at), nn.Flatten(), nn.Linear(144, 10), nn.BatchNorm1d(10))


def group(size: int = 4, data: TrainingData | None = None) -> CudaGroup:
    return CudaGroup(data or noise(150), CPU, exact=True, max_networks=size)


ARCHITECTURES = [small(), small(width=3, dropout=0.2), small(width=9, dropout=0.4, per="channel")]
