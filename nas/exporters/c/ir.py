"""Intermediate representation of inference: a list of steps with inputs, output and parameters."""

from abc import ABC
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from nas.architecture.layers import Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """Output of a step, for one example: float32, row-major.

    Values with the same `index` share memory and contents and differ only in `shape`, as after flatten.
    """

    index: int
    shape: Shape


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Parameters:
    """Affine map of each output channel: `weight` (channels, …) and `bias` (channels,), None for no bias."""

    weight: Tensor
    bias: Tensor | None

    def followed_by(self, scale: "Parameters") -> "Parameters":
        """Returns one map that equals this map followed by `scale`, which scales and shifts each channel."""
        assert scale.bias is not None
        bias = scale.bias if self.bias is None else self.bias * scale.weight + scale.bias
        return Parameters(weight=self.weight * scale.weight.reshape(-1, *[1] * (self.weight.dim() - 1)), bias=bias)

    def rounded(self) -> "Parameters":
        """Returns the parameters in float32."""
        return Parameters(weight=self.weight.float(), bias=None if self.bias is None else self.bias.float())


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Geometry of a square sliding window; `padding` counts rows above and columns left of the feature map."""

    size: int
    stride: int
    padding: int
    dilation: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Step(ABC):
    """One operation; `layers` names its modules by state dict prefix and class."""

    is_elementwise: ClassVar[bool] = False  # whether the output may overwrite an input of the same size
    layers: tuple[str, ...]
    inputs: tuple[Value, ...]
    output: Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Affine(Step):
    """Step with parameters; `parameters` is their name, and steps that share parameters have the same name."""

    parameters: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalise(Affine):
    """Normalises pixels 0..255 by a scale and shift per channel; pixels are an argument in C, not a `Value`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Convolution(Affine):
    """2-d convolution; weight (out channels, in channels / groups, size, size)."""

    window: Window
    groups: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear(Affine):
    """Fully connected layer; weight (out features, in features)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale(Affine):
    """Scales and shifts each channel: a batch norm that could not be folded."""

    is_elementwise = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation(Step):
    """Applies an activation function to each element."""

    is_elementwise = True
    function: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool(Step):
    """Max pooling, which ignores padding, or average pooling, which counts padding as 0."""

    kind: Literal["max", "average"]
    window: Window


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean(Step):
    """Mean of each channel (global average pooling)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate(Step):
    """Multiplies each channel of the first input by that channel's element of the second input."""

    is_elementwise = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Add(Step):
    """Sum of two values."""

    is_elementwise = True


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Inference:
    """Inference of one network.

    Attributes:
        steps: Steps in execution order.
        parameters: Parameters by name, float32.
        output: Value with the logits.
    """

    steps: tuple[Step, ...]
    parameters: dict[str, Parameters]
    output: Value

    @property
    def parameter_bytes(self) -> int:
        """Bytes of all parameters, including those of the normalisation; shared parameters count once."""
        tensors = [t for p in self.parameters.values() for t in (p.weight, p.bias) if t is not None]
        return sum(4 * tensor.numel() for tensor in tensors)
