"""Layers of the parts of a network that a search space draws: convolutions, blocks, transitions and heads."""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

from nas.architecture.composites import DepthwiseSeparable, Repeat, Residual
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
    Shape,
    measure_sequence,
)

Layers = tuple[Layer, ...]

ORDERS = {
    "norm_act": ("norm", "act"),
    "act_norm": ("act", "norm"),
    "act": ("act",),
}
"""What follows a convolution, by the name of the order; `order_parts` has a layer for each word."""
POOLS: dict[str, Layer] = {"max": MaxPool(kernel_size=2), "avg": AvgPool(kernel_size=2)}
HEADS = ("gap_conv", "gap_linear", "conv_gap", "valid_conv", "block_gap", "gap")
"""Names of what computes the class scores after the last block; see `head_layers`."""


class ConvStyle(NamedTuple):
    """What the convolutions of a block have in common, beside their widths."""

    kernel_size: int
    padding: str
    convolution: str
    order: str
    activation: str
    dropout: float


def block_layers(widths: Sequence[int], repeats: int, style: ConvStyle, residual: bool, in_channels: int) -> Layers:
    """Returns the convolutions of a block, in a residual connection if `residual` and their padding is "same".

    Without padding, the input and the output differ in size and cannot be added.
    """
    layers = tuple(layer for width in widths for layer in conv_unit(width, style))
    if repeats:
        layers += shared_conv_unit(widths[-1], repeats, style)
    if residual and style.padding == "same":
        return (Residual(layers=layers, projection=in_channels != widths[-1]),)
    return layers


def transition_unit(channels: int, order: str, activation: str) -> Layers:
    """Returns the 1x1 convolution next to a pool, with its norm and activation."""
    return conv_unit(channels, ConvStyle(1, "same", "full", order, activation, 0.0))


# Layers are immutable, so candidates share them. The caches avoid constructing and checking them in every draw.


@cache
def _conv(width: int, style: ConvStyle) -> Layer:
    """Returns the convolution; it has a bias only if there is no norm."""
    kind = DepthwiseSeparable if style.convolution == "separable" else Conv
    bias = "norm" not in ORDERS[style.order]
    return kind(out_channels=width, kernel_size=style.kernel_size, padding=style.padding, bias=bias)  # type: ignore[arg-type]


def order_parts(activation: str) -> dict[str, Layer]:
    """Returns the layer for each word that an order in `ORDERS` may contain."""
    return {
        "norm": BatchNorm(),
        "act": Activation(function=activation),
    }


@cache
def after_conv(order: str, activation: str) -> Layers:
    """Returns the layers that follow a convolution, without dropout."""
    parts = order_parts(activation)
    return tuple(parts[part] for part in ORDERS[order])


@cache
def _dropout(rate: float) -> Layers:
    return (Dropout(rate=rate),) if rate else ()


@cache
def conv_unit(width: int, style: ConvStyle) -> Layers:
    """Returns a convolution with the layers of its order, such as norm and activation, and its dropout."""
    return _conv(width, style), *after_conv(style.order, style.activation), *_dropout(style.dropout)


@cache
def shared_conv_unit(width: int, times: int, style: ConvStyle) -> Layers:
    """Returns a convolution and activation applied `times` times with shared weights, then the rest of the order.

    The norm is outside the repetition, because its statistics differ each time. If `times` is 1, returns a `conv_unit`.
    """
    if times == 1:
        return conv_unit(width, style)
    activation = Activation(function=style.activation)
    repeat = Repeat(layers=(_conv(width, style), activation), times=times, shared=True)
    rest = (layer for layer in after_conv(style.order, style.activation) if layer != activation)
    return repeat, *rest, *_dropout(style.dropout)


def _convolutions_from_last(layers: Sequence[Layer]) -> Iterator[Convolution]:
    """Yields the convolutions from last to first, including those inside composites."""
    for layer in reversed(layers):
        if isinstance(layer, Convolution):
            yield layer
        yield from _convolutions_from_last(layer.children())


@cache
def _classifier(num_classes: int) -> Conv:
    return Conv(out_channels=num_classes, kernel_size=1, bias=False)


def head_layers(head: str, features: Sequence[Layer], *, input_shape: Shape, num_classes: int) -> Layers:
    """Returns the layers that compute class scores from a feature map.

    "block_gap" is one more convolution like the last one, then an average. The convolution has no norm and no
    activation, which would bound the scores.

    Args:
        head: one of `HEADS`.
        features: the layers before the head.
        input_shape: shape of the images, (channels, height, width).
        num_classes: number of classes.

    Raises:
        ShapeError: the head is "valid_conv", which depends on the size of the feature map, and one of `features` does
            not fit.
    """
    if head == "gap_conv":
        return GlobalAvgPool(), _classifier(num_classes), Flatten()
    if head == "gap_linear":
        return GlobalAvgPool(), Flatten(), Linear(out_features=num_classes)
    if head == "conv_gap":
        return _classifier(num_classes), GlobalAvgPool(), Flatten()
    if head == "valid_conv":
        _, height, width = measure_sequence(features, input_shape).output_shape
        conv = Conv(out_channels=num_classes, kernel_size=min(height, width), bias=False)
        return (conv, Flatten()) if height == width else (conv, GlobalAvgPool(), Flatten())
    if head == "block_gap":
        # The default serves encoding.py, which passes networks that may have no convolution.
        last = next(_convolutions_from_last(features), _classifier(num_classes))
        classifier = type(last)(
            out_channels=num_classes, kernel_size=last.kernel_size, padding=last.padding, bias=False
        )
        return classifier, GlobalAvgPool(), Flatten()
    return GlobalAvgPool(), Flatten()
