"""Random architectures with every layer kind and option, small enough to build thousands of them.

A new kind of layer needs a line in `EXAMPLES`, or in `COMPOSITE_EXAMPLES` if it contains other layers.
"""

from collections.abc import Callable
from random import Random

from hypothesis import strategies as st

from nas.architecture.architecture import Architecture
from nas.architecture.composites import KINDS, DepthwiseSeparable, Repeat, Residual
from nas.architecture.layers import (
    ACTIVATIONS,
    Activation,
    AvgPool,
    BatchNorm,
    Conv,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Layer,
    Linear,
    MaxPool,
    Shape,
    SqueezeExcite,
)
from nas.errors import ArchitectureError


def _window(rng: Random) -> dict[str, object]:
    padding = rng.choice(["same", "same", "valid", 0, 1, 2])
    return {
        "kernel_size": rng.randint(1, 5),
        "padding": padding,
        "stride": 1 if padding == "same" else rng.choice([1, 1, 2, 3]),
        "dilation": rng.choice([1, 1, 1, 2, 3]),
        "bias": rng.random() < 0.5,
    }


def _conv(rng: Random, channels: int) -> Layer:
    groups = rng.choice([1, 1, 2, 3, channels])
    return Conv(out_channels=groups * rng.randint(1, max(1, 12 // groups)), groups=groups, **_window(rng))


def _pool(rng: Random) -> dict[str, object]:
    kernel = rng.choice([1, 2, 2, 3, 4])
    return {
        "kernel_size": kernel,
        "stride": rng.choice([None, None, 1, 2, 3]),
        "padding": rng.choice([0, 0, kernel // 2]),
    }


EXAMPLES: dict[str, Callable[[Random, int], Layer]] = {
    "conv": _conv,
    "depthwise_separable": lambda rng, _: DepthwiseSeparable(out_channels=rng.randint(1, 8), **_window(rng)),
    "batch_norm": lambda rng, _: BatchNorm(),
    "activation": lambda rng, _: Activation(function=rng.choice(list(ACTIVATIONS))),
    "dropout": lambda rng, _: Dropout(rate=rng.choice([0, 0.05, 0.5]), per=rng.choice(["element", "channel"])),
    "max_pool": lambda rng, _: MaxPool(**_pool(rng)),
    "avg_pool": lambda rng, _: AvgPool(**_pool(rng)),
    "global_avg_pool": lambda rng, _: GlobalAvgPool(),
    "flatten": lambda rng, _: Flatten(),
    "linear": lambda rng, _: Linear(out_features=rng.randint(1, 8), bias=rng.random() < 0.5),
    "squeeze_excite": lambda rng, _: SqueezeExcite(reduction=rng.choice([1, 2, 4, 100])),
}
"""Draws a layer of each kind with random options, for an input with that many channels; it may not fit the input."""

COMPOSITE_EXAMPLES: dict[str, Callable[[Random, tuple[Layer, ...]], Layer]] = {
    "residual": lambda rng, layers: Residual(layers=layers, projection=rng.random() < 0.5),
    "repeat": lambda rng, layers: Repeat(layers=layers, times=rng.randint(1, 3), shared=rng.random() < 0.5),
}
"""Draws a composite of each kind around layers."""

ALL_KINDS = (*EXAMPLES, *COMPOSITE_EXAMPLES)


def draw_architecture(
    rng: Random, input_shape: Shape | None = None, kinds: tuple[str, ...] = ALL_KINDS
) -> Architecture:
    """Returns a valid architecture of 1 to 10 layers of the given kinds."""
    shape = input_shape or (rng.randint(1, 4), rng.randint(4, 16), rng.randint(4, 16))
    return Architecture(input_shape=shape, layers=draw_layers(rng, shape, kinds, rng.randint(1, 10), depth=0))


def draw_layers(rng: Random, shape: Shape, kinds: tuple[str, ...], number: int, depth: int) -> tuple[Layer, ...]:
    """Returns layers that fit the shape and each other."""
    layers: list[Layer] = []
    while len(layers) < number:
        kind = rng.choice(kinds)
        if depth and (KINDS[kind].ends_features or (depth == 3 and kind in COMPOSITE_EXAMPLES)):
            continue
        try:
            layer = draw_layer(rng, kind, shape, kinds, depth)
            shape = layer.measure(shape).output_shape
        except ArchitectureError:  # contradictory options, or a shape that does not fit: draw again
            continue
        layers.append(layer)
    return tuple(layers)


def draw_layer(rng: Random, kind: str, shape: Shape, kinds: tuple[str, ...] = ALL_KINDS, depth: int = 0) -> Layer:
    """Returns a layer of the given kind with random options; it may not fit the shape."""
    if kind in COMPOSITE_EXAMPLES:
        return COMPOSITE_EXAMPLES[kind](rng, draw_layers(rng, shape, kinds, rng.randint(1, 3), depth + 1))
    return EXAMPLES[kind](rng, shape[0])


def architectures(kinds: tuple[str, ...] = ALL_KINDS) -> st.SearchStrategy[Architecture]:
    """Returns `draw_architecture` as a Hypothesis strategy."""
    return st.randoms(use_true_random=False).map(lambda rng: draw_architecture(rng, kinds=kinds))
