"""The receptive field in `nas.architecture.cost`, compared with gradients and with backprojected windows."""

import dataclasses
from random import Random

import pytest
import torch
from support.architectures import draw_architecture

from nas.architecture.architecture import Architecture
from nas.architecture.composites import DepthwiseSeparable, Repeat, Residual
from nas.architecture.cost import cost_of
from nas.architecture.layers import (
    Activation,
    AvgPool,
    BatchNorm,
    Conv,
    Convolution,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Layer,
    Linear,
    MaxPool,
    SqueezeExcite,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths"),
    pytest.mark.usefixtures("one_thread"),
]


KINDS = (
    "conv",
    "depthwise_separable",
    "batch_norm",
    "activation",
    "dropout",
    "max_pool",
    "avg_pool",
    "residual",
    "repeat",
)
"""Layers to compose: `window` knows what they see. test_layer_kinds.py checks the window of each kind alone."""


def window(layers: tuple[Layer, ...], low: int, high: int, shortcuts: bool = True) -> tuple[int, int]:
    """Returns the first and last input pixel, along one axis, that the output units `low` to `high` see."""
    for layer in reversed(layers):
        match layer:
            case Convolution():
                reach = layer.dilation * (layer.kernel_size - 1)
                before = reach // 2 if layer.padding == "same" else layer.padding
                low, high = low * layer.stride - before, high * layer.stride - before + reach
            case MaxPool() | AvgPool():
                low, high = (
                    low * layer.stride - layer.padding,
                    high * layer.stride - layer.padding + layer.kernel_size - 1,
                )
            case Residual():
                stride = stride_of(layer.layers)
                shortcut = low * stride, high * stride
                low, high = window(layer.layers, low, high, shortcuts)
                if shortcuts:
                    low, high = min(low, shortcut[0]), max(high, shortcut[1])
            case Repeat():
                low, high = window(layer.layers * layer.times, low, high, shortcuts)
            case BatchNorm() | Activation() | Dropout():
                pass
            case _:
                raise AssertionError(layer)
    return low, high


def stride_of(layers: tuple[Layer, ...]) -> int:
    return window(layers, 1, 1, shortcuts=False)[0] - window(layers, 0, 0, shortcuts=False)[0]


def linearised(layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """Returns the layers without activations and with average instead of max pools: every path has a gradient."""
    done: list[Layer] = []
    for layer in layers:
        match layer:
            case Activation():
                done.append(Dropout(rate=0))
            case MaxPool():
                done.append(AvgPool(kernel_size=layer.kernel_size, stride=layer.stride, padding=layer.padding))
            case Residual() | Repeat():
                done.append(dataclasses.replace(layer, layers=linearised(layer.layers)))
            case _:
                done.append(layer)
    return tuple(done)


def gradient_extents(architecture: Architecture, position: tuple[int, int]) -> list[tuple[int, int]]:
    """Returns the (first, last) input rows and columns that have a gradient of the unit at `position`."""
    layers = linearised(architecture.layers)
    module = dataclasses.replace(architecture, layers=layers).build().double().eval()
    with torch.no_grad():
        for parameter in module.parameters():  # positive, so that gradients do not cancel
            parameter.uniform_(0.05, 0.2)
    x = torch.ones(1, *architecture.input_shape, dtype=torch.float64, requires_grad=True)
    module(x)[0, :, position[0], position[1]].sum().backward()
    seen = x.grad[0].sum(0) != 0
    extents = []
    for axis in (1, 0):
        pixels = seen.any(axis).nonzero().flatten().tolist()
        extents.append((pixels[0], pixels[-1]))
    return extents


def test_receptive_field_equals_gradient_extent():
    side, num_checked, num_wider = 120, 0, 0
    for seed in range(500):
        architecture = draw_architecture(Random(f"gradient {seed}"), (2, side, side), KINDS)
        _, height, width = architecture.output_shape
        low, high = window(architecture.layers, height // 2, height // 2)
        if low < 0 or high >= side:
            continue  # clipped at the border
        assert gradient_extents(architecture, (height // 2, width // 2)) == [(low, high)] * 2, architecture
        branch_low, branch_high = window(architecture.layers, height // 2, height // 2, shortcuts=False)
        assert cost_of(architecture).receptive_field == branch_high - branch_low + 1
        num_checked += 1
        # The pixel that a strided, padded 1x1 branch sees may lie outside the window of its shortcut.
        num_wider += (low, high) != (branch_low, branch_high)
    assert num_checked > 300
    assert num_wider < 10


def test_receptive_field_equals_backprojected_window():
    for seed in range(1000):
        architecture = draw_architecture(Random(f"windows {seed}"), kinds=KINDS)
        low, high = window(architecture.layers, 0, 0, shortcuts=False)
        assert cost_of(architecture).receptive_field == high - low + 1, architecture


def receptive_field(*layers: Layer, input_shape: tuple[int, int, int] = (1, 28, 28)) -> int:
    return cost_of(Architecture(input_shape=input_shape, layers=layers)).receptive_field


def test_receptive_field_equals_hand_computed_values():
    three, pool = Conv(out_channels=4, kernel_size=3), MaxPool(kernel_size=2)
    assert receptive_field(Activation()) == 1
    assert receptive_field(three, three) == 5
    assert receptive_field(three, pool, three) == 8
    assert receptive_field(three, pool, three, pool, three) == 18
    assert receptive_field(Conv(out_channels=1, kernel_size=3, dilation=4)) == 9
    assert receptive_field(Conv(out_channels=1, kernel_size=1, stride=4), three) == 9
    assert receptive_field(DepthwiseSeparable(out_channels=1, kernel_size=5, stride=2), three) == 9
    assert receptive_field(Repeat(layers=(three, pool), times=2)) == 10
    same = Conv(out_channels=1, kernel_size=3, padding=1)
    assert receptive_field(Residual(layers=(same, same)), same) == 7


@pytest.mark.parametrize(
    "head",
    [
        (GlobalAvgPool(), Flatten(), Linear(out_features=10)),
        (GlobalAvgPool(), Conv(out_channels=10, kernel_size=1), Flatten()),
        (GlobalAvgPool(), Conv(out_channels=10, kernel_size=3, padding=1), GlobalAvgPool(), Flatten()),
        (Flatten(), Linear(out_features=10)),
    ],
)
def test_receptive_field_excludes_head(head):
    three = Conv(out_channels=4, kernel_size=3)
    assert receptive_field(three, MaxPool(kernel_size=2), three, *head) == 8
    assert receptive_field(*head) == 1


def test_squeeze_excite_extends_receptive_field_to_whole_map():
    conv = Conv(out_channels=4, kernel_size=3)
    assert receptive_field(conv, SqueezeExcite(), input_shape=(1, 9, 9)) == 9
    assert receptive_field(conv, SqueezeExcite(), conv, input_shape=(1, 9, 9)) == 11
    pool = MaxPool(kernel_size=2)
    assert receptive_field(conv, pool, SqueezeExcite(), conv, input_shape=(1, 12, 12)) == 4 + 4 * 2 + 2 * 2
    assert receptive_field(SqueezeExcite(), input_shape=(1, 5, 9)) == 9


@pytest.mark.parametrize("side", [7, 9, 12])
def test_squeeze_excite_spreads_gradient_to_every_pixel(side):
    conv = Conv(out_channels=4, kernel_size=3)
    for layers in [(conv, SqueezeExcite()), (conv, SqueezeExcite(), conv), (conv, Residual(layers=(SqueezeExcite(),)))]:
        architecture = Architecture(input_shape=(1, side, side), layers=layers)
        assert gradient_extents(architecture, (0, 0)) == [(0, side - 1)] * 2
        assert cost_of(architecture).receptive_field >= side
        without = dataclasses.replace(architecture, layers=(conv,))
        assert gradient_extents(without, (0, 0)) == [(0, 2)] * 2
