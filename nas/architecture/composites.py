"""Layers made of layers, and the table of all kinds."""

from dataclasses import dataclass
from functools import lru_cache

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
    Measure,
    Shape,
    SqueezeExcite,
    chain,
    feature_map,
    size,
)
from nas.architecture.module_call import Call
from nas.errors import ArchitectureError, ShapeError
from nas.schema import refusal


def sequential(layers: tuple[Layer, ...], shape: Shape) -> Call:
    """The constructor call of the layers in a row."""
    calls = []
    for layer in layers:
        calls.append(layer.module(shape))
        shape = layer.measure(shape).output_shape
    return calls[0] if len(calls) == 1 else Call("nn.Sequential", tuple(calls))


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthwiseSeparable(Convolution):
    """A convolution per channel, then a 1x1 convolution across channels."""

    kind = "depthwise_separable"

    def _parts(self, shape: Shape) -> tuple[Layer, ...]:
        channels, _, _ = feature_map(self.kind, shape)
        return _separated(self, channels)

    def measure(self, shape: Shape) -> Measure:
        try:
            return chain(self._parts(shape), shape)
        except ShapeError as error:
            raise ShapeError(f"{self.kind}'s {error.text}" if error.position else error.text) from None

    def module(self, shape: Shape) -> Call:
        return Call("DepthwiseSeparable", (shape[0], self.out_channels, self.kernel_size), self._options())


@lru_cache(maxsize=4096)  # made and checked once, not at each of a search's thousands of measurements
def _separated(layer: DepthwiseSeparable, channels: int) -> tuple[Layer, ...]:
    depthwise = Conv(
        out_channels=channels,
        kernel_size=layer.kernel_size,
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
        groups=channels,
        bias=layer.bias,
    )
    return depthwise, Conv(out_channels=layer.out_channels, kernel_size=1, bias=layer.bias)


MAX_REPEATED = 1000


def _num_layers(layers: tuple[Layer, ...]) -> int:
    """Number of layers with every repetition written out."""
    return sum(getattr(x, "times", 1) * _num_layers(x.children()) or 1 for x in layers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Composite(Layer):
    """What holds layers."""

    layers: tuple[Layer, ...]

    def __post_init__(self) -> None:
        good = type(self.layers) is tuple and len(self.layers) > 0 and all(isinstance(x, Layer) for x in self.layers)
        self._check(good, "layers", "at least one layer")
        if ends := [x.kind for x in self.layers if x.ends_features]:
            raise ArchitectureError(
                f"{self.kind}: layers holds {ends[0]}, allowed: layers that keep a feature map a map"
            )

    def children(self) -> tuple[Layer, ...]:
        return self.layers


@dataclass(frozen=True, slots=True, kw_only=True)
class Residual(Composite):
    """The layers' output plus their input, or plus a 1x1 convolution of it where `projection` is set."""

    kind = "residual"
    projection: bool = False

    def __post_init__(self) -> None:
        Composite.__post_init__(self)
        self._check(type(self.projection) is bool, "projection", "true or false")

    def _shortcut(self, branch: Measure) -> Conv:
        return Conv(out_channels=branch.output_shape[0], kernel_size=1, stride=branch.stride, bias=False)

    def measure(self, shape: Shape) -> Measure:
        feature_map(self.kind, shape)
        branch = chain(self.layers, shape)
        shortcut = self._shortcut(branch).measure(shape) if self.projection else Measure(shape)
        if shortcut.output_shape != branch.output_shape:
            way = "1x1 projection" if self.projection else "identity"
            raise ShapeError(
                f"residual's branch turns {shape} into {branch.output_shape}, its {way} into {shortcut.output_shape}"
            )
        # The input stays alive while the branch runs, the branch's output while the shortcut does.
        held, out = size(shape), size(branch.output_shape)
        peak = max(branch.held_peak_elements, held + 2 * out if self.projection else 0)
        return Measure(
            output_shape=branch.output_shape,
            params=branch.params + shortcut.params,
            macs=branch.macs + shortcut.macs,
            buffer_bytes=branch.buffer_bytes,
            peak_elements=max(peak, 3 * out),
            extent=branch.extent,
            stride=branch.stride,
            held_peak_elements=max(peak, 3 * out + (held if self.projection else 0)),
        )

    def module(self, shape: Shape) -> Call:
        branch = chain(self.layers, shape)
        shortcut = self._shortcut(branch).module(shape) if self.projection else Call("nn.Identity")
        return Call("Residual", (sequential(self.layers, shape), shortcut))

    def title(self) -> str:
        return "residual, shortcut projected" if self.projection else "residual"


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeat(Composite):
    """The layers `times` times in a row, with weights of their own each time or, if `shared`, the same ones.

    Shared layers share all they hold, a batch norm's running statistics included: keep norms outside.
    """

    kind = "repeat"
    times: int
    shared: bool = False

    def __post_init__(self) -> None:
        Composite.__post_init__(self)
        self._check_counts("times")
        self._check(_num_layers((self,)) <= MAX_REPEATED, "times", f"what makes at most {MAX_REPEATED} layers in all")
        self._check(type(self.shared) is bool, "shared", "true or false")

    def measure(self, shape: Shape) -> Measure:
        total = chain(self.layers, shape, self.times)
        if not self.shared or self.times == 1:
            return total
        once = chain(self.layers, shape)
        if once.output_shape[0] != shape[0]:
            raise ShapeError(
                f"repeat with shared weights turns {shape} into {once.output_shape}, which its layers cannot take again"
            )
        return total._replace(params=once.params, buffer_bytes=once.buffer_bytes)

    def module(self, shape: Shape) -> Call:
        if self.shared:
            return Call("SharedRepeat", (sequential(self.layers, shape), self.times))
        return sequential(self.layers * self.times, shape)

    def title(self) -> str:
        return f"repeat {self.times} times" + ", the same weights" * self.shared


KINDS: dict[str, type[Layer]] = {
    kind.kind: kind
    for kind in (
        Conv,
        DepthwiseSeparable,
        BatchNorm,
        Activation,
        Dropout,
        MaxPool,
        AvgPool,
        GlobalAvgPool,
        Flatten,
        Linear,
        SqueezeExcite,
        Residual,
        Repeat,
    )
}


def kind_of(name: object) -> type[Layer]:
    """The layer class of a kind's name."""
    if not isinstance(name, str) or name not in KINDS:
        raise ArchitectureError(f"kind is {refusal(name, ', '.join(KINDS))}")
    return KINDS[name]
