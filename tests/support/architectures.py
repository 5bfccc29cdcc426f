"""Random architectures with every layer kind and option, small enough to build thousands of them."""

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

ON_MAPS = tuple(KINDS)
ON_VECTORS = ("linear", "batch_norm", "activation", "dropout", "repeat")
LOCAL = tuple(kind for kind in KINDS if kind not in ("global_avg_pool", "flatten", "linear", "squeeze_excite"))


def draw_architecture(rng: Random, input_shape: Shape | None = None, kinds: tuple[str, ...] = ON_MAPS) -> Architecture:
    """Returns a valid architecture of 1 to 10 layers of the given kinds."""
    shape = input_shape or (rng.randint(1, 4), rng.randint(4, 16), rng.randint(4, 16))
    return Architecture(input_shape=shape, layers=draw_layers(rng, shape, kinds, rng.randint(1, 10), depth=0))


def draw_layers(rng: Random, shape: Shape, kinds: tuple[str, ...], number: int, depth: int) -> tuple[Layer, ...]:
    """Returns layers that fit the shape and each other."""
    layers: list[Layer] = []
    while len(layers) < number:
        allowed = kinds if len(shape) == 3 else ON_VECTORS
        kind = rng.choice(allowed)
        if depth and (KINDS[kind].ends_features or (depth == 3 and kind in ("residual", "repeat"))):
            continue
        try:
            layer = draw_layer(rng, kind, shape, kinds, depth)
            shape = layer.measure(shape).output_shape
        except ArchitectureError:  # contradictory options, or a shape that does not fit: draw again
            continue
        layers.append(layer)
    return tuple(layers)


def draw_layer(  # noqa: PLR0911, PLR0912  # one branch per kind
    rng: Random, kind: str, shape: Shape, kinds: tuple[str, ...] = ON_MAPS, depth: int = 0
) -> Layer:
    """Returns a layer of the given kind with random options; it may not fit the shape."""
    channels = shape[0]
    match kind:
        case "conv":
            groups = rng.choice([1, 1, 2, 3, channels])
            out_channels = groups * rng.randint(1, max(1, 12 // groups))
            return Conv(out_channels=out_channels, groups=groups, **_window(rng))
        case "depthwise_separable":
            return DepthwiseSeparable(out_channels=rng.randint(1, 8), **_window(rng))
        case "batch_norm":
            return BatchNorm()
        case "activation":
            return Activation(function=rng.choice(list(ACTIVATIONS)))
        case "dropout":
            return Dropout(rate=rng.choice([0, 0.05, 0.5]), per=rng.choice(["element", "channel"]))
        case "max_pool" | "avg_pool":
            kernel = rng.choice([1, 2, 2, 3, 4])
            stride, padding = rng.choice([None, None, 1, 2, 3]), rng.choice([0, 0, kernel // 2])
            pool = MaxPool if kind == "max_pool" else AvgPool
            return pool(kernel_size=kernel, stride=stride, padding=padding)
        case "global_avg_pool":
            return GlobalAvgPool()
        case "flatten":
            return Flatten()
        case "linear":
            return Linear(out_features=rng.randint(1, 8), bias=rng.random() < 0.5)
        case "squeeze_excite":
            return SqueezeExcite(reduction=rng.choice([1, 2, 4, 100]))
        case "residual":
            projection = rng.random() < 0.5
            layers = draw_layers(rng, shape, kinds, rng.randint(1, 3), depth + 1)
            return Residual(layers=layers, projection=projection)
        case "repeat":
            layers = draw_layers(rng, shape, kinds, rng.randint(1, 3), depth + 1)
            return Repeat(layers=layers, times=rng.randint(1, 3), shared=rng.random() < 0.5)
        case _:
            raise AssertionError(f"tests/support/architectures.py draws no {kind}: add it")


def _window(rng: Random) -> dict[str, object]:
    padding = rng.choice(["same", "same", "valid", 0, 1, 2])
    return {
        "kernel_size": rng.randint(1, 5),
        "padding": padding,
        "stride": 1 if padding == "same" else rng.choice([1, 1, 2, 3]),
        "dilation": rng.choice([1, 1, 1, 2, 3]),
        "bias": rng.random() < 0.5,
    }


def architectures(kinds: tuple[str, ...] = ON_MAPS) -> st.SearchStrategy[Architecture]:
    """Returns `draw_architecture` as a Hypothesis strategy."""
    return st.randoms(use_true_random=False).map(lambda rng: draw_architecture(rng, kinds=kinds))
