"""Programs of the native engine, and training steps with them."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from nas.architecture.architecture import Architecture
from nas.architecture.composites import Repeat, Residual
from nas.architecture.layers import Activation, AvgPool, BatchNorm, Conv, Flatten, GlobalAvgPool, Layer, Linear, MaxPool
from nas.recipe import Recipe
from nas.training.native.emit import Machine
from nas.training.native.graph import lower
from nas.training.native.optimizer import NUM_RATES
from nas.training.native.program import Program
from nas.training.native.trainer import blocks, split_into_lanes
from nas.training.reference import initialise

HOST = Machine.host()


def machine(lanes: int, registers: int) -> Machine:
    assert HOST is not None
    return replace(HOST, lanes=lanes, registers=registers)


def conv(out_channels: int, kernel_size: int = 3, padding: int | str = "same", **options: object) -> Conv:
    return Conv(out_channels=out_channels, kernel_size=kernel_size, padding=padding, **options)


def program_of(
    layers: tuple[Layer, ...],
    shape: tuple[int, int, int],
    *,
    recipe: Recipe | None = None,
    count: int = 16,
    on: Machine | None = None,
) -> tuple[Program, nn.Module]:
    """Returns the program of a network and the network, with noise added to all parameters."""
    module = initialise(Architecture(input_shape=shape, layers=layers), seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    on = (on or HOST).with_lanes_dividing(count)
    recipe = recipe or Recipe(momentum=0.0)
    return Program(module, lower(module, shape), recipe, batch_size=count, machine=on), module


def examples(shape: tuple[int, int, int], *, steps: int = 1, count: int = 16) -> tuple[Tensor, Tensor]:
    """Returns images (steps, count, *shape) and labels (steps, count)."""
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(steps, count, *shape, generator=generator)
    return images, torch.randint(5, (steps, count), generator=generator)


def take_steps(
    program: Program, images: Tensor, labels: Tensor, *, table: Tensor | None = None, keys: Tensor | None = None
) -> Tensor:
    """Trains one step per batch; returns loss and number of correct answers of each. Default rates: 0."""
    steps, count = images.shape[:2]
    lanes = program.machine.lanes
    whole, inside = blocks(program.image_layout, steps, count // lanes)
    for place, batch in zip(inside, images, strict=True):
        place.copy_(split_into_lanes(batch, lanes))
    results = torch.zeros(steps, 2, dtype=torch.float64)
    keys = torch.zeros(steps, program.num_keys, dtype=torch.int32) if keys is None else keys
    table = torch.zeros(steps, NUM_RATES) if table is None else table
    program.run_training(whole, labels.int(), keys, table, results)
    return results


HEAD = (GlobalAvgPool(), Flatten(), Linear(out_features=5))


EVERYTHING = (
    conv(6, 4, 1),
    BatchNorm(),
    Activation(function="leaky_relu"),
    MaxPool(kernel_size=2),
    Residual(layers=(conv(6, groups=3), Activation(function="gelu"), BatchNorm())),
    Repeat(layers=(conv(6, 5), BatchNorm(), Activation(function="silu")), times=2, shared=True),
    AvgPool(kernel_size=2),
    conv(7, 1),
    Activation(function="hardswish"),
    *HEAD,
)
