"""The layer vocabulary: one frozen dataclass a kind, named and spelled as in torch.nn.

A layer is a value without weights. Given the shape of one example, `(channels, height, width)`
or `(features,)`, it knows what it costs (`measure`) and which module it is (`module`); nothing
else in the package knows the kinds apart. To add one, write its class here or, if it holds other
layers, in `composites.py`, and name it in the table at the end of `composites.py`.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar, Literal, NamedTuple

from nas.architecture.module_call import Call
from nas.errors import ArchitectureError, ShapeError
from nas.schema import COUNT, LARGEST, Interval, refusal

Shape = tuple[int, ...]

PADDING = Interval(int, 0)
PADDING_TEXT = f'"same", "valid" or {PADDING}'
MOST_PIXELS = 10**100  # between the windows of neighbours: no image is that large, and Python still writes it out


class Measure(NamedTuple):
    """What a layer makes of one example of a given shape.

    `extent` is the side of the window of its input that one output unit sees and `stride` the step
    between the windows of neighbours, both in input pixels of the layer. `peak_elements` is the largest
    number of values alive at once (inputs + outputs) while it runs, `held_peak_elements` the same where its
    input must outlive it (0: no difference).
    """

    output_shape: Shape
    params: int = 0
    macs: int = 0
    buffer_bytes: int = 0
    peak_elements: int = 0
    extent: int = 1
    stride: int = 1
    held_peak_elements: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer(ABC):
    """A layer of an architecture."""

    kind: ClassVar[str]
    ends_features: ClassVar[bool] = False  # global pooling and flattening: what follows is no feature map

    @abstractmethod
    def measure(self, shape: Shape) -> Measure:
        """Output shape and cost for one example of `shape`; raises `ShapeError` if it does not fit."""

    @abstractmethod
    def module(self, shape: Shape) -> Call:
        """The constructor call of its module for an input of `shape`."""

    def children(self) -> tuple["Layer", ...]:
        """The layers it holds, for showing; empty for all but the composites."""
        return ()

    def title(self) -> str:
        """What it is in words, without its children."""
        return self.kind

    def _check(self, good: bool, field: str, allowed: object) -> None:
        if not good:
            raise ArchitectureError(f"{self.kind}: {field} is {refusal(getattr(self, field), allowed)}")

    def _check_counts(self, *fields: str) -> None:
        for field in fields:
            self._check(COUNT.holds(getattr(self, field)), field, COUNT)  # in words only where it is told


def chain(layers: Sequence[Layer], shape: Shape, times: int = 1) -> Measure:
    """The layers in a row, `times` over, measured as one."""
    params = macs = buffer_bytes = peak = held_peak = held = 0
    extent = stride = 1
    for _, (index, layer) in product(range(times), enumerate(layers)):
        try:
            m = layer.measure(shape)
        except ShapeError as error:
            raise error.inside(f"layers[{index}]") from None
        held_peak = max(held_peak, m.peak_elements + held if held else m.held_peak_elements or m.peak_elements)
        held = held or size(shape)
        shape = m.output_shape
        params += m.params
        macs += m.macs
        buffer_bytes += m.buffer_bytes
        peak = max(peak, m.peak_elements)
        extent += (m.extent - 1) * stride
        stride *= m.stride
        if stride > MOST_PIXELS:
            raise ShapeError(f"the strides multiply to more than {MOST_PIXELS:g}", f"layers[{index}]")
    return Measure(shape, params, macs, buffer_bytes, peak, extent, stride, held_peak)


def shape_text(shape: Shape, between: str = "x") -> str:
    """A shape as it is read: 8x14x14."""
    return between.join(map(str, shape))


def size(shape: Shape) -> int:
    """Number of values in one example of `shape`."""
    number = 1
    for side in shape:
        number *= side
    return number


def feature_map(kind: str, shape: Shape) -> tuple[int, int, int]:
    """`shape` as (channels, height, width), or a `ShapeError`."""
    if len(shape) != 3:
        raise ShapeError(f"{kind} needs a feature map (channels, height, width), met shape {shape}")
    return shape[0], shape[1], shape[2]


def _slide(kind: str, shape: Shape, window: int, stride: int, total_padding: int) -> tuple[int, int]:
    """Height and width after a sliding window of side `window`."""
    _, height, width = feature_map(kind, shape)
    height, width = height + total_padding, width + total_padding
    if height < window or width < window:
        raise ShapeError(f"{kind} has a window of {window}x{window}, met shape {shape} padded to {height}x{width}")
    return (height - window) // stride + 1, (width - window) // stride + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Convolution(Layer):
    """What all convolutions have.

    Padding is a number, "valid" (0) or "same" (stride 1 only), and kept as the number where it is one.
    """

    out_channels: int
    kernel_size: int
    stride: int = 1
    padding: int | Literal["same", "valid"] = 0
    dilation: int = 1
    bias: bool = True

    def __post_init__(self) -> None:
        self._check_counts("out_channels", "kernel_size", "stride", "dilation")
        self._check(type(self.bias) is bool, "bias", "true or false")
        if self.padding == "valid":
            object.__setattr__(self, "padding", 0)
        elif self.padding == "same":
            self._check(self.stride == 1, "stride", 'only 1 with padding "same"')
            self._check(self.dilation * self.kernel_size <= LARGEST, "dilation", f"at most {LARGEST:g} / kernel_size")
            if self.dilation * (self.kernel_size - 1) % 2 == 0:
                object.__setattr__(self, "padding", self.dilation * (self.kernel_size - 1) // 2)
        else:
            self._check(PADDING.holds(self.padding), "padding", PADDING_TEXT)

    def _options(self, *others: str) -> tuple[tuple[str, Any], ...]:
        """The keyword arguments of its module that are not torch's defaults; `others` default to 1."""
        defaults = {"stride": 1, "padding": 0, "dilation": 1, **dict.fromkeys(others, 1), "bias": True}
        return tuple((key, getattr(self, key)) for key, default in defaults.items() if getattr(self, key) != default)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conv(Convolution):
    """2-d convolution."""

    kind = "conv"
    groups: int = 1

    def __post_init__(self) -> None:
        Convolution.__post_init__(self)
        self._check_counts("groups")
        self._check(self.out_channels % self.groups == 0, "groups", f"a divisor of out_channels ({self.out_channels})")

    def measure(self, shape: Shape) -> Measure:
        window = self.dilation * (self.kernel_size - 1) + 1
        padding = window - 1 if isinstance(self.padding, str) else 2 * self.padding
        height, width = _slide("conv", shape, window, self.stride, padding)
        in_channels = shape[0]
        if in_channels % self.groups:
            raise ShapeError(f"conv has groups {self.groups}, which do not divide the channels of shape {shape}")
        weights = self.out_channels * (in_channels // self.groups) * self.kernel_size**2
        outputs = self.out_channels * height * width
        return Measure(
            output_shape=(self.out_channels, height, width),
            params=weights + (self.out_channels if self.bias else 0),
            macs=weights * height * width,
            peak_elements=size(shape) + outputs,
            extent=window,
            stride=self.stride,
        )

    def module(self, shape: Shape) -> Call:
        return Call("nn.Conv2d", (shape[0], self.out_channels, self.kernel_size), self._options("groups"))


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchNorm(Layer):
    """Batch normalisation over a feature map's channels or a vector's features, with scale and shift."""

    kind = "batch_norm"

    def measure(self, shape: Shape) -> Measure:
        # running mean and variance in float32, and the int64 count of batches
        return Measure(shape, params=2 * shape[0], buffer_bytes=8 * shape[0] + 8, peak_elements=2 * size(shape))

    def module(self, shape: Shape) -> Call:
        return Call("nn.BatchNorm2d" if len(shape) == 3 else "nn.BatchNorm1d", (shape[0],))


ACTIVATIONS = {
    "relu": "nn.ReLU",
    "leaky_relu": "nn.LeakyReLU",
    "gelu": "nn.GELU",
    "silu": "nn.SiLU",
    "hardswish": "nn.Hardswish",
}
"""Every activation function and its torch class; the engines and exporters have code for each of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation(Layer):
    """An elementwise nonlinearity with torch's default slope."""

    kind = "activation"
    function: str = "relu"

    def __post_init__(self) -> None:
        self._check(isinstance(self.function, str) and self.function in ACTIVATIONS, "function", ", ".join(ACTIVATIONS))

    def measure(self, shape: Shape) -> Measure:
        return Measure(shape, peak_elements=2 * size(shape))

    def module(self, shape: Shape) -> Call:
        return Call(ACTIVATIONS[self.function])


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropout(Layer):
    """Zeroes single values, or whole channels, with probability `rate` while training."""

    kind = "dropout"
    rate: float
    per: Literal["element", "channel"] = "element"

    def __post_init__(self) -> None:
        good = type(self.rate) in (int, float) and 0 <= self.rate < 1
        self._check(good, "rate", "a number of at least 0 and below 1")
        object.__setattr__(self, "rate", abs(float(self.rate)))  # 0, 0.0 and -0.0 are equal, so written alike
        self._check(self.per in ("element", "channel"), "per", "element, channel")

    def measure(self, shape: Shape) -> Measure:
        if self.per == "channel":
            feature_map("dropout per channel", shape)
        return Measure(shape, peak_elements=2 * size(shape))

    def module(self, shape: Shape) -> Call:
        return Call("nn.Dropout" if self.per == "element" else "nn.Dropout2d", (self.rate,))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pool(Layer):
    torch_name: ClassVar[str]
    kernel_size: int
    stride: int | None = None
    padding: int = 0

    def __post_init__(self) -> None:
        if self.stride is None:  # torch's default
            object.__setattr__(self, "stride", self.kernel_size)
        self._check_counts("kernel_size", "stride")
        good = type(self.padding) is int and 0 <= self.padding <= self.kernel_size // 2
        self._check(good, "padding", "a whole number from 0 to half the kernel size")

    def measure(self, shape: Shape) -> Measure:
        assert self.stride is not None
        height, width = _slide(self.kind, shape, self.kernel_size, self.stride, 2 * self.padding)
        return Measure(
            output_shape=(shape[0], height, width),
            peak_elements=size(shape) + shape[0] * height * width,
            extent=self.kernel_size,
            stride=self.stride,
        )

    def module(self, shape: Shape) -> Call:
        kwargs = [("stride", self.stride)] * (self.stride != self.kernel_size) + [("padding", self.padding)] * (
            self.padding != 0
        )
        return Call(self.torch_name, (self.kernel_size,), tuple(kwargs))


@dataclass(frozen=True, slots=True, kw_only=True)
class MaxPool(_Pool):
    """The largest value of each window."""

    kind = "max_pool"
    torch_name = "nn.MaxPool2d"


@dataclass(frozen=True, slots=True, kw_only=True)
class AvgPool(_Pool):
    """The mean of each window, padding counted."""

    kind = "avg_pool"
    torch_name = "nn.AvgPool2d"


@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalAvgPool(Layer):
    """The mean of each channel: (C, H, W) to (C, 1, 1)."""

    kind = "global_avg_pool"
    ends_features = True

    def measure(self, shape: Shape) -> Measure:
        channels, height, width = feature_map(self.kind, shape)
        return Measure((channels, 1, 1), peak_elements=size(shape) + channels, extent=max(height, width))

    def module(self, shape: Shape) -> Call:
        return Call("GlobalAvgPool")


@dataclass(frozen=True, slots=True, kw_only=True)
class Flatten(Layer):
    """A feature map as a vector: (C, H, W) to (C * H * W,). What follows may see all of the map."""

    kind = "flatten"
    ends_features = True

    def measure(self, shape: Shape) -> Measure:
        channels, height, width = feature_map(self.kind, shape)
        return Measure((channels * height * width,), peak_elements=2 * size(shape), extent=max(height, width))

    def module(self, shape: Shape) -> Call:
        return Call("nn.Flatten")


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear(Layer):
    """A fully connected layer on a vector."""

    kind = "linear"
    out_features: int
    bias: bool = True

    def __post_init__(self) -> None:
        self._check_counts("out_features")
        self._check(type(self.bias) is bool, "bias", "true or false")

    def measure(self, shape: Shape) -> Measure:
        if len(shape) != 1:
            raise ShapeError(f"linear needs a vector (features,), met shape {shape}; put a flatten before it")
        weights = shape[0] * self.out_features
        params = weights + (self.out_features if self.bias else 0)
        return Measure((self.out_features,), params, weights, 0, shape[0] + self.out_features)

    def module(self, shape: Shape) -> Call:
        return Call("nn.Linear", (shape[0], self.out_features), () if self.bias else (("bias", False),))


@dataclass(frozen=True, slots=True, kw_only=True)
class SqueezeExcite(Layer):
    """Channels scaled by gates computed from the means of all channels, through channels // reduction hidden units.

    Through its gate every output sees the whole map, and the receptive field says so.
    """

    kind = "squeeze_excite"
    reduction: int = 4

    def __post_init__(self) -> None:
        self._check_counts("reduction")

    def measure(self, shape: Shape) -> Measure:
        channels, height, width = feature_map(self.kind, shape)
        squeezed = max(1, channels // self.reduction)
        return Measure(
            output_shape=shape,
            params=2 * channels * squeezed + squeezed + channels,
            macs=2 * channels * squeezed,
            peak_elements=2 * size(shape) + channels,
            extent=max(height, width),
        )

    def module(self, shape: Shape) -> Call:
        return Call("SqueezeExcite", (shape[0], max(1, shape[0] // self.reduction)))
