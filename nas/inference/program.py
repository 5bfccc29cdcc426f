"""Program: inference of a network as a list of steps on values, without weights and without torch."""

from abc import ABC
from dataclasses import dataclass
from typing import ClassVar, Literal

from nas.architecture.layers import Shape, num_elements


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """Output of a step, for one example: row-major.

    Values with the same `index` share memory and contents and differ only in `shape`, as after flatten.
    """

    index: int
    shape: Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Geometry of a square sliding window; `padding` counts rows above and columns left of the feature map."""

    size: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Step(ABC):
    """One operation.

    Attributes:
        layers: Modules that the step replaces, by state dict prefix and class.
        inputs: Values that the step reads.
        output: Value that the step writes.
        relu: Whether negative results become 0.
    """

    is_elementwise: ClassVar[bool] = False  # whether the output may overwrite an input of the same size
    layers: tuple[str, ...]
    inputs: tuple[Value, ...]
    output: Value
    relu: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Affine(Step):
    """Step with parameters. Without inputs it reads the pixels, which are an argument in C and not a `Value`.

    Attributes:
        parameters: Name of the parameters, the state dict prefix of their module; steps that share parameters have the
            same name.
        norms: State dict prefixes of the batch norms that are folded into the parameters, in order.
        bias: Whether a bias is added, the module's own or one from a folded norm.
    """

    parameters: str
    norms: tuple[str, ...] = ()
    bias: bool = True

    @property
    def channels(self) -> int:
        """Number of outputs that have weights of their own."""
        return self.output.shape[0]

    @property
    def weights_per_channel(self) -> int:
        """Number of weights of each output channel."""
        return 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalise(Affine):
    """Normalises pixels 0..255 by a scale and shift per channel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Convolution(Affine):
    """2-d convolution; weight (out channels, in channels / groups, size, size)."""

    window: Window
    groups: int
    in_shape: Shape

    @property
    def weights_per_channel(self) -> int:
        return self.in_shape[0] // self.groups * self.window.size**2


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear(Affine):
    """Fully connected layer; weight (out features, in features)."""

    @property
    def weights_per_channel(self) -> int:
        return num_elements(self.inputs[0].shape)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Widen(Step):
    """Copies int8 logits to the caller's int16 array; only in int8 programs that do not end in a rescaled sum."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """Inference of one network.

    Attributes:
        input_shape: Shape of an image, (channels, height, width).
        steps: Steps in execution order.
        output: Value with the logits.
    """

    input_shape: Shape
    steps: tuple[Step, ...]
    output: Value

    @property
    def affines(self) -> dict[str, Affine]:
        """The first step with each set of parameters, by the parameters' name."""
        first: dict[str, Affine] = {}
        for step in self.steps:
            if isinstance(step, Affine):
                first.setdefault(step.parameters, step)
        return first

    @property
    def parameter_bytes(self) -> int:
        """Bytes of all parameters in float32, including those of the normalisation; shared parameters count once."""
        return sum(4 * step.channels * (step.weights_per_channel + step.bias) for step in self.affines.values())
