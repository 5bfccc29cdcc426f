"""Layers that contain other layers, and the table of all layer kinds."""

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
    feature_map_shape,
    measure_sequence,
    num_elements,
)
from nas.architecture.module_call import ModuleCall
from nas.errors import ArchitectureError, ShapeError, one_of
from nas.schema import mismatch_text


def sequential_call(layers: tuple[Layer, ...], shape: Shape) -> ModuleCall:
    """Returns the constructor call of the layers in sequence; a single layer is not wrapped in `nn.Sequential`."""
    calls = []
    for layer in layers:
        calls.append(layer.module_call(shape))
        shape = layer.measure(shape).output_shape
    return calls[0] if len(calls) == 1 else ModuleCall("nn.Sequential", tuple(calls))


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthwiseSeparable(Convolution):
    """A convolution per channel, then a 1x1 convolution across channels."""

    kind = "depthwise_separable"

    def parts(self, shape: Shape) -> tuple[Layer, ...]:
        """Returns the two convolutions for inputs of `shape`."""
        channels, _, _ = feature_map_shape(self.kind, shape)
        return _depthwise_and_pointwise(self, channels)

    def measure(self, shape: Shape) -> Measure:
        try:
            return measure_sequence(self.parts(shape), shape)
        except ShapeError as error:
            raise ShapeError(f"{self.kind}'s {error.text}" if error.position else error.text) from None

    def module_call(self, shape: Shape) -> ModuleCall:
        return ModuleCall("DepthwiseSeparable", (shape[0], self.out_channels, self.kernel_size), self._options())


@lru_cache(maxsize=4096)  # a search measures equal layers thousands of times
def _depthwise_and_pointwise(layer: DepthwiseSeparable, channels: int) -> tuple[Layer, ...]:
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


MAX_REPEATED = 1000  # layers in one `Repeat`: their cost is added up one by one


def _num_layers(layers: tuple[Layer, ...]) -> int:
    """Returns the number of layers, with every repetition counted."""
    return sum(getattr(x, "times", 1) * _num_layers(x.children()) or 1 for x in layers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Composite(Layer):
    """Base of the layers that contain other layers.

    Attributes:
        layers: the layers inside, which must return a feature map.
    """

    layers: tuple[Layer, ...]

    def __post_init__(self) -> None:
        good = type(self.layers) is tuple and len(self.layers) > 0 and all(isinstance(x, Layer) for x in self.layers)
        self._check(good, "layers", "a tuple of at least one layer")
        if ends := [x.kind for x in self.layers if x.ends_features]:
            raise ArchitectureError(
                f"{self.kind}: {ends[0]} found in layers, expected layers that return a feature map"
            )

    def children(self) -> tuple[Layer, ...]:
        return self.layers


@dataclass(frozen=True, slots=True, kw_only=True)
class Residual(Composite):
    """The output of the layers plus their input.

    Attributes:
        projection: whether the input goes through a 1x1 convolution before it is added. Default: False.
    """

    kind = "residual"
    projection: bool = False

    def __post_init__(self) -> None:
        Composite.__post_init__(self)
        self._check(type(self.projection) is bool, "projection", "true or false")

    def shortcut(self, shape: Shape) -> Conv | None:
        """Returns the 1x1 convolution of the shortcut for inputs of `shape`; None without projection."""
        return self._projection(measure_sequence(self.layers, shape)) if self.projection else None

    def _projection(self, branch: Measure) -> Conv:
        return Conv(out_channels=branch.output_shape[0], kernel_size=1, stride=branch.stride, bias=False)

    def measure(self, shape: Shape) -> Measure:
        feature_map_shape(self.kind, shape)
        branch = measure_sequence(self.layers, shape)
        shortcut = self._projection(branch).measure(shape) if self.projection else Measure(shape)
        if shortcut.output_shape != branch.output_shape:
            way = "1x1 projection" if self.projection else "identity"
            raise ShapeError(
                f"residual: output shape of the layers is {branch.output_shape}, expected {shortcut.output_shape}"
                f" as from the {way} shortcut"
            )
        # The input stays alive while the branch runs, and the branch's output while the shortcut runs.
        held, out = num_elements(shape), num_elements(branch.output_shape)
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

    def module_call(self, shape: Shape) -> ModuleCall:
        conv = self.shortcut(shape)
        shortcut = ModuleCall("nn.Identity") if conv is None else conv.module_call(shape)
        return ModuleCall("Residual", (sequential_call(self.layers, shape), shortcut))

    def title(self) -> str:
        return "residual, shortcut projected" if self.projection else "residual"


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeat(Composite):
    """The layers applied several times in sequence.

    Shared layers also share the running statistics of batch norms, so batch norms should be outside a shared repeat.

    Attributes:
        times: how often the layers are applied.
        shared: whether each time has the same weights, instead of new ones. Default: False.
    """

    kind = "repeat"
    times: int
    shared: bool = False

    def __post_init__(self) -> None:
        Composite.__post_init__(self)
        self._check_counts("times")
        self._check(
            _num_layers((self,)) <= MAX_REPEATED, "times", f"few enough for at most {MAX_REPEATED} layers in total"
        )
        self._check(type(self.shared) is bool, "shared", "true or false")

    def measure(self, shape: Shape) -> Measure:
        total = measure_sequence(self.layers, shape, self.times)
        if not self.shared or self.times == 1:
            return total
        once = measure_sequence(self.layers, shape)
        if once.output_shape[0] != shape[0]:
            raise ShapeError(
                f"repeat: output shape of the layers is {once.output_shape}, expected {shape[0]} channels as in the"
                " input because shared is true"
            )
        return total._replace(params=once.params, buffer_bytes=once.buffer_bytes)

    def module_call(self, shape: Shape) -> ModuleCall:
        if self.shared:
            return ModuleCall("SharedRepeat", (sequential_call(self.layers, shape), self.times))
        return sequential_call(self.layers * self.times, shape)

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


def layer_class(name: object) -> type[Layer]:
    """Returns the layer class of that kind; raises `ArchitectureError` if there is none."""
    if not isinstance(name, str) or name not in KINDS:
        raise ArchitectureError(f"kind is {mismatch_text(name, one_of(KINDS))}")
    return KINDS[name]
