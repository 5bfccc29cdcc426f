"""Layers made of layers, and the table of all kinds."""

from dataclasses import dataclass

from nas.errors import ArchitectureError, ShapeError
from nas.layers import (
    Activation,
    AvgPool,
    BatchNorm,
    Call,
    Conv,
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


def sequential(layers: tuple[Layer, ...], shape: Shape) -> Call:
    """The constructor call of the layers in a row."""
    calls = []
    for layer in layers:
        calls.append(layer.module(shape))
        shape = layer.measure(shape).output_shape
    return calls[0] if len(calls) == 1 else Call("nn.Sequential", tuple(calls))


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthwiseSeparable(Layer):
    """A convolution per channel, then a 1x1 convolution across channels."""

    kind = "depthwise_separable"
    out_channels: int
    kernel_size: int
    stride: int = 1
    padding: int | str = 0
    dilation: int = 1
    bias: bool = True

    def __post_init__(self) -> None:
        self._check_counts("out_channels")
        depthwise = self._depthwise(1)  # checks the rest
        object.__setattr__(self, "padding", depthwise.padding)

    def _depthwise(self, channels: int) -> Conv:
        return Conv(
            out_channels=channels,
            kernel_size=self.kernel_size,
            stride=self.stride,
            padding=self.padding,  # type: ignore[arg-type]  # Conv checks it
            dilation=self.dilation,
            groups=channels,
            bias=self.bias,
        )

    def _parts(self, shape: Shape) -> tuple[Layer, ...]:
        channels, _, _ = feature_map(self.kind, shape)
        return self._depthwise(channels), Conv(out_channels=self.out_channels, kernel_size=1, bias=self.bias)

    def measure(self, shape: Shape) -> Measure:
        return chain(self._parts(shape), shape)

    def module(self, shape: Shape) -> Call:
        return sequential(self._parts(shape), shape)


def _check_layers(layer: "Residual | Repeat") -> None:
    good = type(layer.layers) is tuple and len(layer.layers) > 0 and all(isinstance(x, Layer) for x in layer.layers)
    layer._check(good, "layers", "at least one layer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Residual(Layer):
    """The layers' output plus their input, or plus a 1x1 convolution of it where `projection` is set."""

    kind = "residual"
    layers: tuple[Layer, ...]
    projection: bool = False

    def __post_init__(self) -> None:
        _check_layers(self)
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
        peak, inner, held = 0, shape, 0
        for layer in self.layers:
            m = layer.measure(inner)
            peak, inner, held = max(peak, m.peak_elements + held), m.output_shape, size(shape)
        out = size(branch.output_shape)
        if self.projection:
            peak = max(peak, size(shape) + 2 * out)
        return Measure(
            output_shape=branch.output_shape,
            params=branch.params + shortcut.params,
            macs=branch.macs + shortcut.macs,
            buffer_bytes=branch.buffer_bytes,
            peak_elements=max(peak, 3 * out),
            extent=branch.extent,
            stride=branch.stride,
        )

    def module(self, shape: Shape) -> Call:
        branch = chain(self.layers, shape)
        shortcut = self._shortcut(branch).module(shape) if self.projection else Call("nn.Identity")
        return Call("Residual", (sequential(self.layers, shape), shortcut))

    def children(self) -> tuple[Layer, ...]:
        return self.layers


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeat(Layer):
    """The layers `times` times in a row, with weights of their own each time or, if `shared`, the same ones.

    Shared layers share all they hold, a batch norm's running statistics included: keep norms outside.
    """

    kind = "repeat"
    layers: tuple[Layer, ...]
    times: int
    shared: bool = False

    def __post_init__(self) -> None:
        _check_layers(self)
        self._check_counts("times")
        self._check(type(self.shared) is bool, "shared", "true or false")

    def measure(self, shape: Shape) -> Measure:
        total = chain(self.layers * self.times, shape)
        if not self.shared:
            return total
        once = chain(self.layers, shape)
        if self.times > 1 and once.output_shape[0] != shape[0]:
            raise ShapeError(
                f"repeat with shared weights turns {shape} into {once.output_shape}, which its layers cannot take again"
            )
        return total._replace(params=once.params, buffer_bytes=once.buffer_bytes)

    def module(self, shape: Shape) -> Call:
        if self.shared:
            return Call("SharedRepeat", (sequential(self.layers, shape), self.times))
        return sequential(self.layers * self.times, shape)

    def children(self) -> tuple[Layer, ...]:
        return self.layers


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
        raise ArchitectureError(f"kind is {name!r}, allowed: {', '.join(KINDS)}")
    return KINDS[name]
