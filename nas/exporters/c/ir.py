"""Inference as a list of steps: operation, inputs, parameters."""

from abc import ABC
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from nas.architecture.layers import Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """What one step writes and others read: float32 numbers of one example, the last axis fastest.

    Values of one `index` are the same numbers in the same place, read in the same order as another `shape`.
    """

    index: int
    shape: Shape


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Parameters:
    """An affine map per output channel: `weight` (channels, …) and, unless it is all 0, `bias` (channels,)."""

    weight: Tensor
    bias: Tensor | None

    def then(self, scale: "Parameters") -> "Parameters":
        """This map and then channels scaled and shifted, in one."""
        assert scale.bias is not None
        bias = scale.bias if self.bias is None else self.bias * scale.weight + scale.bias
        return Parameters(weight=self.weight * scale.weight.reshape(-1, *[1] * (self.weight.dim() - 1)), bias=bias)

    def rounded(self) -> "Parameters":
        """The same in float32."""
        return Parameters(weight=self.weight.float(), bias=None if self.bias is None else self.bias.float())


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Where a sliding window stands: `padding` is what lies above and to the left of the map."""

    size: int
    stride: int
    padding: int
    dilation: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Step(ABC):
    """One operation. `layers`: the modules it stands for, as in the state dict's keys, and their classes."""

    is_elementwise: ClassVar[bool] = False  # its output may take the place of an input of the same size
    layers: tuple[str, ...]
    inputs: tuple[Value, ...]
    output: Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Affine(Step):
    """One with parameters, of which `parameters` is the name; shared ones bear one name."""

    parameters: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalise(Affine):
    """Pixels of 0 to 255, not a value, to numbers scaled and shifted per channel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Convolution(Affine):
    """2-d convolution, weight (out, in / groups, size, size)."""

    window: Window
    groups: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear(Affine):
    """Fully connected, weight (out, in)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale(Affine):
    """Each channel scaled and shifted: a batch norm that could not be folded."""

    is_elementwise = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation(Step):
    """A function of each number."""

    is_elementwise = True
    function: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool(Step):
    """The largest number of each window, padding left out, or the mean, padding counted as 0."""

    kind: Literal["max", "average"]
    window: Window


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean(Step):
    """The mean of each channel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate(Step):
    """Each channel of the first input times the second's number for it."""

    is_elementwise = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Add(Step):
    """The sum of two values."""

    is_elementwise = True


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Inference:
    """Steps in the order in which they run, their parameters by name (float32), and what comes out in the end."""

    steps: tuple[Step, ...]
    parameters: dict[str, Parameters]
    output: Value

    @property
    def parameter_bytes(self) -> int:
        """Bytes of all parameters, those of the normalisation included; shared ones count once."""
        tensors = [t for p in self.parameters.values() for t in (p.weight, p.bias) if t is not None]
        return sum(4 * tensor.numel() for tensor in tensors)
