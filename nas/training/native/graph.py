"""Lowers a network to the few operations that have kernels: convolution, pointwise chain, mean and sum."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from nas.architecture import modules
from nas.architecture.activations import activation_name

Shape = tuple[int, int, int]


class UnsupportedError(Exception):
    """There are no kernels for a part of the network, or for this CPU; the text names it."""


@dataclass(eq=False, slots=True)
class Value:
    """A feature map. One operation writes it, except for the image, and others read it.

    Attributes:
        shape: (channels, height, width) of one example.
        halo: rows and columns of zeros around each channel.
        is_image: whether it is the input of the network.
    """

    shape: Shape
    halo: int = 0
    is_image: bool = False


@dataclass(frozen=True, slots=True)
class Geometry:
    """Properties of a convolution that its kernels depend on, besides the layouts of its feature maps."""

    kernel_size: int
    padding: int
    groups: int
    has_bias: bool


@dataclass(eq=False, slots=True, kw_only=True)
class Conv:
    """A convolution with stride 1. A linear layer is a 1x1 convolution of a 1x1 feature map."""

    input: Value
    output: Value
    weight: nn.Parameter
    bias: nn.Parameter | None
    geometry: Geometry

    @property
    def inputs(self) -> tuple[Value, ...]:
        return (self.input,)


@dataclass(frozen=True, slots=True)
class Norm:
    """Batch norm; `Pointwise.norm` is its module."""


@dataclass(frozen=True, slots=True)
class Activation:
    """An activation from `functions.ACTIVATIONS`."""

    name: str


@dataclass(frozen=True, slots=True)
class Dropout:
    """Zeroes elements, or whole channels of an example if `per_channel`, with probability `rate`."""

    rate: float
    per_channel: bool


@dataclass(frozen=True, slots=True)
class Pool:
    """Pooling over adjacent windows of `size` by `size`; `kind` is "max" or "avg"."""

    kind: str
    size: int


Stage = Norm | Activation | Dropout


@dataclass(eq=False, slots=True, kw_only=True)
class Pointwise:
    """Elementwise stages with at most one norm, followed by a pool; size 1 means no pooling."""

    input: Value
    output: Value
    stages: list[Stage] = field(default_factory=list)
    norm: nn.BatchNorm1d | nn.BatchNorm2d | None = None
    pool: Pool = Pool("max", 1)

    @property
    def inputs(self) -> tuple[Value, ...]:
        return (self.input,)


@dataclass(eq=False, slots=True, kw_only=True)
class Mean:
    """Global average pooling."""

    input: Value
    output: Value

    @property
    def inputs(self) -> tuple[Value, ...]:
        return (self.input,)


@dataclass(eq=False, slots=True, kw_only=True)
class Add:
    """The sum of two values."""

    left: Value
    right: Value
    output: Value

    @property
    def inputs(self) -> tuple[Value, ...]:
        return (self.left, self.right)


Operation = Conv | Pointwise | Mean | Add


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """Operations in the order in which they run, from the images to the logits."""

    image: Value
    operations: tuple[Operation, ...]
    logits: Value

    def consumers(self, value: Value) -> list[Operation]:
        """Returns the operations that read a value."""
        return [operation for operation in self.operations if value in operation.inputs]


def lower(module: nn.Module, input_shape: Sequence[int]) -> Graph:
    """Returns the operations of a network for images of `input_shape`, (channels, height, width).

    Raises:
        UnsupportedError: there is no kernel for a part of the network.
        ValueError: a layer does not fit its input.
    """
    channels, height, width = input_shape
    image = Value((channels, height, width), is_image=True)
    lowering = _Lowering()
    logits = lowering.add(module, image)
    if logits.shape[1:] != (1, 1):
        raise UnsupportedError(f"logits of shape {logits.shape}")
    if not lowering.operations or not isinstance(lowering.operations[0], Conv):
        raise UnsupportedError("a network that does not begin with a convolution")
    graph = Graph(image=image, operations=tuple(lowering.operations), logits=logits)
    if not all(isinstance(operation, Conv) for operation in graph.consumers(image)):
        raise UnsupportedError("a residual around the images")  # they have no memory for a gradient
    for operation in graph.operations:
        if isinstance(operation, Conv):
            operation.input.halo = max(operation.input.halo, operation.geometry.padding)
    return graph


class _Lowering:
    """Collects the operations of a network."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.reused_values: list[Value] = []  # read again later, so no stage may be fused into them

    def add(self, module: nn.Module, value: Value) -> Value:
        """Appends the operations that `module` applies to `value`; returns the output."""
        if isinstance(module, nn.Sequential):
            for child in module:
                value = self.add(child, value)
            return value
        if isinstance(module, modules.SharedRepeat):
            for _ in range(module.times):
                value = self.add(module.body, value)
            return value
        if isinstance(module, modules.Residual):
            self.reused_values.append(value)
            left = self.add(module.branch, value)
            self.reused_values.append(left)
            right = self.add(module.shortcut, value)
            output = Value(left.shape)
            self.operations.append(Add(left=left, right=right, output=output))
            return output
        simple: dict[type[nn.Module], Callable[[Any, Value], Value]] = {
            nn.Conv2d: self._conv,
            nn.Linear: self._linear,
            modules.GlobalAvgPool: self._mean,
            nn.Flatten: self._flatten,
            nn.Identity: lambda module, value: value,
        }
        return simple.get(type(module), self._pointwise)(module, value)

    def _linear(self, module: nn.Linear, value: Value) -> Value:
        return self._add_conv(module, value, Geometry(1, 0, 1, module.bias is not None))

    def _mean(self, module: modules.GlobalAvgPool, value: Value) -> Value:
        output = Value((value.shape[0], 1, 1))
        self.operations.append(Mean(input=value, output=output))
        return output

    def _conv(self, module: nn.Conv2d, value: Value) -> Value:
        size, padding = module.kernel_size, module.padding
        plain = (
            module.stride == (1, 1)
            and module.dilation == (1, 1)
            and size[0] == size[1]
            and isinstance(padding, tuple)
            and padding[0] == padding[1] < size[0]
        )
        if not plain:
            raise UnsupportedError(str(module))
        geometry = Geometry(size[0], int(padding[0]), module.groups, module.bias is not None)
        return self._add_conv(module, value, geometry)

    def _add_conv(self, module: nn.Conv2d | nn.Linear, value: Value, geometry: Geometry) -> Value:
        channels, height, width = value.shape
        grown = 2 * geometry.padding - geometry.kernel_size + 1
        output = Value((len(module.weight), height + grown, width + grown))
        # torch raises an error here; machine code would read beyond its memory.
        if module.weight.shape[1] * geometry.groups != channels or min(output.shape) < 1:
            raise ValueError(f"{module} cannot take a map of {value.shape}")
        parameters = dict(module.named_parameters())
        self.operations.append(
            Conv(
                input=value,
                output=output,
                weight=parameters["weight"],
                bias=parameters.get("bias"),
                geometry=geometry,
            )
        )
        return output

    def _flatten(self, module: nn.Flatten, value: Value) -> Value:
        channels, height, width = value.shape
        if (height, width) == (1, 1):
            return value
        # The order of the numbers is the same; a pointwise chain without stages copies them to a buffer without a halo.
        output = Value((channels * height * width, 1, 1))
        self.operations.append(Pointwise(input=value, output=output))
        return output

    def _pointwise(self, module: nn.Module, value: Value) -> Value:
        """Adds a stage or pool to the last operation if that is possible, otherwise to a new one."""
        stage = _stage(module)
        last = self.operations[-1] if self.operations else None
        fits = (
            isinstance(last, Pointwise)
            and last.output is value
            and value not in self.reused_values
            and last.output.shape[1:] == last.input.shape[1:]
            and last.pool.size == 1
            and not (isinstance(stage, Norm) and last.norm)
        )
        if not fits:
            last = Pointwise(input=value, output=Value(value.shape))
            self.operations.append(last)
        assert isinstance(last, Pointwise)
        if isinstance(stage, Pool):
            channels, height, width = value.shape
            last.pool = stage
            last.output.shape = (channels, height // stage.size, width // stage.size)
            return last.output
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            if module.num_features != value.shape[0]:
                raise ValueError(f"{module} cannot take a map of {value.shape}")
            last.norm = module
        last.stages.append(stage)
        return last.output


def _stage(module: nn.Module) -> Stage | Pool:
    """Returns what a module does in a pointwise chain; raises `UnsupportedError` if there is no kernel for it."""
    if (function := activation_name(module)) is not None:
        return Activation(function)
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        return Norm()
    if isinstance(module, nn.Dropout | nn.Dropout2d):
        return Dropout(module.p, isinstance(module, nn.Dropout2d))
    if isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
        size = _common_side(module.kernel_size)
        if size is not None and _common_side(module.stride) == size and _common_side(module.padding) == 0:
            return Pool("max" if isinstance(module, nn.MaxPool2d) else "avg", size)
    raise UnsupportedError(str(module))


def _common_side(sides: int | Sequence[int]) -> int | None:
    """Returns the common value of all sides, or None if they differ."""
    if isinstance(sides, int):
        return sides
    return sides[0] if len(set(sides)) == 1 else None
