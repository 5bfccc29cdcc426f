"""Layer kinds of an architecture: one frozen dataclass per kind, with the field names of torch.nn.

A layer is a value without weights. For the shape of one example, `(channels, height, width)` or `(features,)`,
`measure` returns its output shape and cost, and `module_call` the constructor call of its torch module. A new kind
needs a class here (in `composites.py` if it contains other layers) and an entry in `KINDS` in `composites.py`.
CONTRIBUTING.md ("Add a layer") lists everything that belongs to a kind.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar, Literal, NamedTuple

from nas.architecture.module_call import ModuleCall
from nas.errors import ArchitectureError, ShapeError
from nas.schema import COUNT, MAX_COUNT, Interval, OneOf, mismatch_text, number_text

Shape = tuple[int, ...]

PADDING = Interval(int, 0)
PADDING_TEXT = f'"same", "valid" or {PADDING}'
MAX_STRIDE = 10**100  # limit of a chain's stride: larger than any image, and Python can still print it


class Measure(NamedTuple):
    """Output shape and cost of a layer for one example of a given shape.

    Attributes:
        output_shape: shape of the output for one example.
        params: trainable parameters.
        macs: multiply-accumulates.
        buffer_bytes: bytes of buffers, such as running statistics.
        peak_elements: largest number of values (inputs and outputs) alive at once while the layer runs.
        extent: side of the input window that one output unit sees, in pixels of the layer's input.
        stride: distance between the windows of neighbouring output units, in pixels of the layer's input.
        held_peak_elements: the peak if the layer's input stays alive until the layer ends; 0 means `peak_elements`.
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
    ends_features: ClassVar[bool] = False  # True for global pooling and flattening

    @abstractmethod
    def measure(self, shape: Shape) -> Measure:
        """Returns output shape and cost for one example of `shape`; raises `ShapeError` if the layer does not fit."""

    @abstractmethod
    def module_call(self, shape: Shape) -> ModuleCall:
        """Returns the constructor call of the torch module for inputs of `shape`."""

    def children(self) -> tuple["Layer", ...]:
        """Returns the layers that this layer contains; empty for all kinds except composites."""
        return ()

    def title(self) -> str:
        """Returns a short description of the layer, without its children."""
        return self.kind

    def _check(self, good: bool, field: str, expected: object) -> None:
        """Raises `ArchitectureError`, which names the field, its value and what was expected, unless it is `good`."""
        if not good:
            raise ArchitectureError(f"{self.kind}: {field} is {mismatch_text(getattr(self, field), expected)}")

    def _check_counts(self, *fields: str) -> None:
        """Raises `ArchitectureError` unless each field is an integer of at least 1."""
        for field in fields:
            self._check(COUNT.accepts(getattr(self, field)), field, COUNT)  # formatted only in an error


def measure_sequence(layers: Sequence[Layer], shape: Shape, times: int = 1) -> Measure:
    """Returns the measure of the layers in sequence, the whole sequence applied `times` times.

    Raises `ShapeError`, with the position of the layer, if a layer does not fit.
    """
    params = macs = buffer_bytes = peak = 0
    held_peak = held = 0  # the peak if the input of the sequence stays alive, and how many values that input has
    extent = stride = 1
    for _, (index, layer) in product(range(times), enumerate(layers)):
        try:
            m = layer.measure(shape)
        except ShapeError as error:
            raise error.with_prefix(f"layers[{index}]") from None
        if held:
            held_peak = max(held_peak, held + m.peak_elements)
        else:  # the first layer, whose input is that of the sequence
            held_peak, held = m.held_peak_elements or m.peak_elements, num_elements(shape)
        shape = m.output_shape
        params += m.params
        macs += m.macs
        buffer_bytes += m.buffer_bytes
        peak = max(peak, m.peak_elements)
        extent += (m.extent - 1) * stride
        stride *= m.stride
        if stride > MAX_STRIDE:
            text = f"the product of all strides is too large, expected at most {number_text(MAX_STRIDE)}"
            raise ShapeError(text, f"layers[{index}]")
    return Measure(shape, params, macs, buffer_bytes, peak, extent, stride, held_peak)


def shape_text(shape: Shape, between: str = "x") -> str:
    """Returns a shape as text, such as "8x14x14"."""
    return between.join(map(str, shape))


def num_elements(shape: Shape) -> int:
    """Returns the number of values in one example of `shape`."""
    number = 1
    for side in shape:
        number *= side
    return number


def feature_map_shape(kind: str, shape: Shape) -> tuple[int, int, int]:
    """Returns `shape` as (channels, height, width); raises `ShapeError` if it is not the shape of a feature map."""
    if len(shape) != 3:
        raise ShapeError(f"{kind}: input shape is {shape}, expected (channels, height, width)")
    return shape[0], shape[1], shape[2]


def _window_output_size(kind: str, shape: Shape, window: int, stride: int, total_padding: int) -> tuple[int, int]:
    """Returns the output height and width of a sliding window; `total_padding` is the sum over both sides."""
    _, height, width = feature_map_shape(kind, shape)
    height, width = height + total_padding, width + total_padding
    if height < window or width < window:
        padded = f", padded to {height}x{width}" if total_padding else ""
        raise ShapeError(f"{kind}: input shape is {shape}{padded}, expected at least {window}x{window} (its window)")
    return (height - window) // stride + 1, (width - window) // stride + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Convolution(Layer):
    """Base of all convolutions.

    Attributes:
        out_channels: number of output channels.
        kernel_size: side of the window.
        stride: distance between two windows. Default: 1.
        padding: zeros at each side, "valid" (0) or "same" (only with stride 1). "valid" is stored as 0, and "same" as a
            number if both sides get the same padding. Default: 0.
        dilation: distance between two points of a window. Default: 1.
        bias: whether a bias is added. Default: True.
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
            self._check(self.stride == 1, "stride", '1 with padding "same"')
            self._check(
                self.dilation * self.kernel_size <= MAX_COUNT,
                "dilation",
                f"at most {number_text(MAX_COUNT)} / kernel_size",
            )
            if self.dilation * (self.kernel_size - 1) % 2 == 0:
                object.__setattr__(self, "padding", self.dilation * (self.kernel_size - 1) // 2)
        else:
            self._check(PADDING.accepts(self.padding), "padding", PADDING_TEXT)

    def _options(self, *others: str) -> tuple[tuple[str, Any], ...]:
        """Returns the module's keyword arguments that differ from torch's defaults; `others` default to 1."""
        defaults = {"stride": 1, "padding": 0, "dilation": 1, **dict.fromkeys(others, 1), "bias": True}
        return tuple((key, getattr(self, key)) for key, default in defaults.items() if getattr(self, key) != default)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conv(Convolution):
    """A 2-d convolution.

    Attributes:
        groups: number of groups of channels that are convolved separately. Default: 1.
    """

    kind = "conv"
    groups: int = 1

    def __post_init__(self) -> None:
        Convolution.__post_init__(self)
        self._check_counts("groups")
        self._check(self.out_channels % self.groups == 0, "groups", f"a divisor of out_channels ({self.out_channels})")

    def measure(self, shape: Shape) -> Measure:
        window = self.dilation * (self.kernel_size - 1) + 1
        padding = window - 1 if isinstance(self.padding, str) else 2 * self.padding
        height, width = _window_output_size("conv", shape, window, self.stride, padding)
        in_channels = shape[0]
        if in_channels % self.groups:
            raise ShapeError(
                f"conv: groups is {self.groups}, expected a divisor of the channels of input shape {shape}"
            )
        weights = self.out_channels * (in_channels // self.groups) * self.kernel_size**2
        outputs = self.out_channels * height * width
        return Measure(
            output_shape=(self.out_channels, height, width),
            params=weights + (self.out_channels if self.bias else 0),
            macs=weights * height * width,
            peak_elements=num_elements(shape) + outputs,
            extent=window,
            stride=self.stride,
        )

    def module_call(self, shape: Shape) -> ModuleCall:
        return ModuleCall("nn.Conv2d", (shape[0], self.out_channels, self.kernel_size), self._options("groups"))


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchNorm(Layer):
    """Batch normalisation over the channels of a feature map or the features of a vector, with scale and shift."""

    kind = "batch_norm"

    def measure(self, shape: Shape) -> Measure:
        # running mean and variance in float32, and the number of batches in int64
        return Measure(shape, params=2 * shape[0], buffer_bytes=8 * shape[0] + 8, peak_elements=2 * num_elements(shape))

    def module_call(self, shape: Shape) -> ModuleCall:
        return ModuleCall("nn.BatchNorm2d" if len(shape) == 3 else "nn.BatchNorm1d", (shape[0],))


ACTIVATIONS = {
    "relu": "nn.ReLU",
    "leaky_relu": "nn.LeakyReLU",
    "gelu": "nn.GELU",
    "silu": "nn.SiLU",
    "hardswish": "nn.Hardswish",
}
"""Torch class of each activation function; the CPU engine and the C exporter implement each of them."""
ACTIVATION_NAMES = OneOf(tuple(ACTIVATIONS))


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation(Layer):
    """An elementwise activation function with torch's default parameters.

    Attributes:
        function: "relu", "leaky_relu", "gelu", "silu" or "hardswish". Default: "relu".
    """

    kind = "activation"
    function: str = "relu"

    def __post_init__(self) -> None:
        self._check(ACTIVATION_NAMES.accepts(self.function), "function", ACTIVATION_NAMES)

    def measure(self, shape: Shape) -> Measure:
        return Measure(shape, peak_elements=2 * num_elements(shape))

    def module_call(self, shape: Shape) -> ModuleCall:
        return ModuleCall(ACTIVATIONS[self.function])


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropout(Layer):
    """Zeroes values at random during training.

    Attributes:
        rate: probability, at least 0 and below 1.
        per: "element" for single values, "channel" for whole channels. Default: "element".
    """

    kind = "dropout"
    rate: float
    per: Literal["element", "channel"] = "element"

    def __post_init__(self) -> None:
        good = type(self.rate) in (int, float) and 0 <= self.rate < 1
        self._check(good, "rate", "a number of at least 0 and below 1")
        object.__setattr__(self, "rate", abs(float(self.rate)))  # 0, 0.0 and -0.0 are equal: they must serialise alike
        self._check(self.per in ("element", "channel"), "per", "element or channel")

    def measure(self, shape: Shape) -> Measure:
        if self.per == "channel":
            feature_map_shape("dropout per channel", shape)
        return Measure(shape, peak_elements=2 * num_elements(shape))

    def module_call(self, shape: Shape) -> ModuleCall:
        return ModuleCall("nn.Dropout" if self.per == "element" else "nn.Dropout2d", (self.rate,))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pool(Layer):
    """Base of the pools.

    Attributes:
        kernel_size: side of the window.
        stride: distance between two windows. Default: `kernel_size`.
        padding: width of the padding at each side, at most half of `kernel_size`. Default: 0.
    """

    torch_name: ClassVar[str]
    kernel_size: int
    stride: int | None = None
    padding: int = 0

    def __post_init__(self) -> None:
        if self.stride is None:  # torch's default
            object.__setattr__(self, "stride", self.kernel_size)
        self._check_counts("kernel_size", "stride")
        good = type(self.padding) is int and 0 <= self.padding <= self.kernel_size // 2
        self._check(good, "padding", "an integer from 0 to half of kernel_size")

    def measure(self, shape: Shape) -> Measure:
        assert self.stride is not None
        height, width = _window_output_size(self.kind, shape, self.kernel_size, self.stride, 2 * self.padding)
        return Measure(
            output_shape=(shape[0], height, width),
            peak_elements=num_elements(shape) + shape[0] * height * width,
            extent=self.kernel_size,
            stride=self.stride,
        )

    def module_call(self, shape: Shape) -> ModuleCall:
        kwargs = [("stride", self.stride)] * (self.stride != self.kernel_size) + [("padding", self.padding)] * (
            self.padding != 0
        )
        return ModuleCall(self.torch_name, (self.kernel_size,), tuple(kwargs))


@dataclass(frozen=True, slots=True, kw_only=True)
class MaxPool(_Pool):
    """Max pooling: the largest value of each window."""

    kind = "max_pool"
    torch_name = "nn.MaxPool2d"


@dataclass(frozen=True, slots=True, kw_only=True)
class AvgPool(_Pool):
    """Average pooling: the mean of each window, padding included."""

    kind = "avg_pool"
    torch_name = "nn.AvgPool2d"


@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalAvgPool(Layer):
    """Global average pooling: (C, H, W) to (C, 1, 1)."""

    kind = "global_avg_pool"
    ends_features = True

    def measure(self, shape: Shape) -> Measure:
        channels, height, width = feature_map_shape(self.kind, shape)
        return Measure((channels, 1, 1), peak_elements=num_elements(shape) + channels, extent=max(height, width))

    def module_call(self, shape: Shape) -> ModuleCall:
        return ModuleCall("GlobalAvgPool")


@dataclass(frozen=True, slots=True, kw_only=True)
class Flatten(Layer):
    """Flattens a feature map to a vector: (C, H, W) to (C * H * W,). Its window is the whole map."""

    kind = "flatten"
    ends_features = True

    def measure(self, shape: Shape) -> Measure:
        channels, height, width = feature_map_shape(self.kind, shape)
        return Measure((channels * height * width,), peak_elements=2 * num_elements(shape), extent=max(height, width))

    def module_call(self, shape: Shape) -> ModuleCall:
        return ModuleCall("nn.Flatten")


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear(Layer):
    """A fully connected layer on a vector.

    Attributes:
        out_features: number of outputs.
        bias: whether a bias is added. Default: True.
    """

    kind = "linear"
    out_features: int
    bias: bool = True

    def __post_init__(self) -> None:
        self._check_counts("out_features")
        self._check(type(self.bias) is bool, "bias", "true or false")

    def measure(self, shape: Shape) -> Measure:
        if len(shape) != 1:
            raise ShapeError(f"linear: input shape is {shape}, expected (features,); put a flatten layer before it")
        weights = shape[0] * self.out_features
        params = weights + (self.out_features if self.bias else 0)
        return Measure((self.out_features,), params, weights, 0, shape[0] + self.out_features)

    def module_call(self, shape: Shape) -> ModuleCall:
        return ModuleCall("nn.Linear", (shape[0], self.out_features), () if self.bias else (("bias", False),))


@dataclass(frozen=True, slots=True, kw_only=True)
class SqueezeExcite(Layer):
    """Scales each channel by a gate computed from the means of all channels.

    The gate depends on the whole feature map, so the window of every output unit is the whole map.

    Attributes:
        reduction: the gate has channels // reduction hidden units, at least 1. Default: 4.
    """

    kind = "squeeze_excite"
    reduction: int = 4

    def __post_init__(self) -> None:
        self._check_counts("reduction")

    def measure(self, shape: Shape) -> Measure:
        channels, height, width = feature_map_shape(self.kind, shape)
        squeezed = max(1, channels // self.reduction)
        return Measure(
            output_shape=shape,
            params=2 * channels * squeezed + squeezed + channels,
            macs=2 * channels * squeezed,
            peak_elements=2 * num_elements(shape) + channels,
            extent=max(height, width),
        )

    def module_call(self, shape: Shape) -> ModuleCall:
        return ModuleCall("SqueezeExcite", (shape[0], max(1, shape[0] // self.reduction)))
