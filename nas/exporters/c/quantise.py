"""Quantises a trained network to int8: integers for every step of its int8 program.

A real number x is stored as the integer x / scale + zero. Weights have a scale for each output channel and zero 0;
every value between steps has one scale and one zero, from its minimum and maximum on training images. Jacob et al.,
"Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", 2018.

Three changes lower the error: channels get similar ranges (`equalise.py`), an activation function's arguments get the
range that changes its results least, and biases take back the mean error of rounding.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from nas.architecture.architecture import Architecture
from nas.architecture.layers import num_elements
from nas.exporters.c.equalise import equalised
from nas.exporters.c.float_program import FUNCTIONS, run_float
from nas.exporters.c.int8_parameters import Int8Parameters, int8_parameters
from nas.inference.int8 import int8_program
from nas.inference.lowering import lower
from nas.inference.program import (
    Activation,
    Add,
    Convolution,
    Gate,
    Mean,
    Pool,
    Program,
    Step,
    Widen,
)

LOW, HIGH = -128, 127
MAX_RESCALED = 2**30
"""Largest rescaled sum: int32 must hold it. Only values that are nearly constant on training images come near it."""
WIDE = 32767  # largest int16; the lowest logit is -WIDE, too
LOGIT_HEADROOM = 2
"""Largest logit that can be stored, relative to the largest of the calibration images."""
MULTIPLIER_BITS = 31
MAX_SHIFT = 62
BATCH = 100
SAMPLES_A_BATCH = 2000
NUM_FEW_IMAGES = 500
"""Images of which all values are kept at the same time, to measure channels and mean errors."""
RANGE_SHARES = tuple(1 - 0.05 * i for i in range(20))
"""Shares of the lower end of a range that are tried before an activation function; of the upper end the first six."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """How integers stand for real numbers: `scale * (integer - zero)`."""

    scale: float
    zero: int

    @classmethod
    def of_range(cls, low: float, high: float) -> "Encoding":
        """Returns the int8 encoding of the numbers from `low` to `high`, and of 0, which is exact."""
        low, high = min(low, 0.0), max(high, 0.0)
        scale = (high - low) / (HIGH - LOW) or 1.0  # all numbers are 0
        return cls(scale, int(np.clip(round(LOW - low / scale), LOW, HIGH)))

    def encode(self, numbers: np.ndarray) -> np.ndarray:
        """Returns the closest integers, int8."""
        return np.clip(np.round(numbers / self.scale) + self.zero, LOW, HIGH).astype(np.int8)

    def decode(self, integers: np.ndarray) -> np.ndarray:
        """Returns the real numbers that the integers stand for."""
        decoded: np.ndarray = self.scale * (integers.astype(np.float64) - self.zero)
        return decoded


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Int8Weights:
    """Weights of a convolution: real numbers are `scales * integers`.

    Attributes:
        integers: int8 (out channels, in channels / groups, size, size).
        scales: float64 (out channels,).
    """

    integers: np.ndarray
    scales: np.ndarray

    @classmethod
    def of(cls, weight: Tensor, scales: np.ndarray) -> "Int8Weights":
        """Returns the closest integers of float32 weights."""
        integers = np.round(weight.numpy() / scales[:, None, None, None]).astype(np.int8)
        return cls(integers=integers, scales=scales)

    def decode(self) -> Tensor:
        """Returns the real numbers, float32."""
        return torch.from_numpy(self.integers * self.scales[:, None, None, None]).float()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rescaling:
    """Turns int32 sums into integers of another scale: `(sum * multiplier + 2^(shift - 1)) >> shift`.

    Attributes:
        multiplier: int32, of each channel or of each input.
        shift: int8, 1 to 62, likewise.
    """

    multiplier: np.ndarray
    shift: np.ndarray

    @classmethod
    def by(cls, factors: Iterable[float]) -> "Rescaling":
        """Returns the rescaling that multiplies by the factors, each of at least 0, to 31 bits."""
        pairs = [_multiplier_and_shift(factor) for factor in factors]
        multiplier, shift = zip(*pairs, strict=True)
        return cls(multiplier=np.array(multiplier, np.int32), shift=np.array(shift, np.int8))

    @classmethod
    def by_common_shift(cls, factors: Sequence[float]) -> "Rescaling":
        """Returns the rescaling with one shift for all factors, so that rescaled numbers can be added before it."""
        _, shift = _multiplier_and_shift(max(factors))
        multiplier = [round(math.ldexp(factor, shift)) for factor in factors]
        return cls(multiplier=np.array(multiplier, np.int32), shift=np.full(len(factors), shift, np.int8))

    def as_int64(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns multipliers and shifts in the type of the products."""
        return self.multiplier.astype(np.int64), self.shift.astype(np.int64)


def _multiplier_and_shift(factor: float) -> tuple[int, int]:
    fraction, exponent = math.frexp(factor)  # factor = fraction * 2^exponent, fraction in [0.5, 1)
    multiplier, shift = round(math.ldexp(fraction, MULTIPLIER_BITS)), MULTIPLIER_BITS - exponent
    if multiplier == 1 << MULTIPLIER_BITS:
        multiplier, shift = multiplier >> 1, shift - 1
    if shift > MAX_SHIFT:
        return 0, MAX_SHIFT  # below 2^-32: a sum of 32 bits becomes 0
    if shift < 1:
        raise ValueError(f"a rescaling factor is {factor:.3g}, expected below {2 ** (MULTIPLIER_BITS - 1)}")
    return multiplier, shift


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Int8Step:
    """A step with its integers.

    Attributes:
        step: The step.
        zeros: Zero of each input; of a step that reads the pixels, of each channel.
        zero: Zero of the output.
        rescaling: From sums to outputs; None for steps without sums.
        bias: int32 (channels,), added to the sums of a convolution.
        table: Outputs for the inputs -128 to 127, of an activation or `Widen`.
    """

    step: Step
    zeros: tuple[int, ...]
    zero: int
    rescaling: Rescaling | None = None
    bias: np.ndarray | None = None
    table: np.ndarray | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Int8Network:
    """A quantised network.

    Attributes:
        program: Its int8 program.
        steps: The program's steps with their integers.
        weights: int8 (out channels, in channels / groups, size, size), by the parameters' name.
        encodings: Encoding of each value by its index.
    """

    program: Program
    steps: tuple[Int8Step, ...]
    weights: Mapping[str, np.ndarray]
    encodings: Mapping[int, Encoding]

    @property
    def logit_scale(self) -> float:
        """Real number that one unit of a logit stands for."""
        return self.encodings[self.program.output.index].scale


def quantise(
    architecture: Architecture,
    weights: Mapping[str, Tensor],
    pixels: Tensor,
    *,
    mean: Sequence[float],
    std: Sequence[float],
) -> Int8Network:
    """Returns the network in int8, with int16 logits.

    Args:
        architecture: Architecture of the network.
        weights: State dict of `architecture.build()`.
        pixels: Training images, uint8 (N, channels, height, width), whose ranges decide the scales.
        mean: Mean of each channel, of pixels scaled to 0..1.
        std: Standard deviation of each channel, of pixels scaled to 0..1.

    Raises:
        ArchitectureError: A kind of layer has no inference step.
        ValueError: `mean` or `std` does not have one number per channel, or a weight is not finite or too large.
    """
    program = int8_program(lower(architecture))
    parameters = int8_parameters(program, weights, mean=mean, std=std)
    few = pixels[:: 1 + len(pixels) // NUM_FEW_IMAGES]
    parameters = equalised(program, parameters, few)
    encodings = _encodings(program, parameters, pixels)
    scales = _weight_scales(program, parameters, encodings)
    int8_weights = {name: Int8Weights.of(affine.weight, scales[name]) for name, affine in parameters.items()}
    rounded = {name: replace(affine, weight=int8_weights[name].decode()) for name, affine in parameters.items()}
    errors = _mean_errors(program, parameters, rounded, encodings, few)
    steps = [_int8_step(step, encodings, parameters, int8_weights, errors) for step in program.steps]
    integers = {name: each.integers for name, each in int8_weights.items()}
    return Int8Network(program=program, steps=tuple(steps), weights=integers, encodings=encodings)


def _encodings(program: Program, parameters: Mapping[str, Int8Parameters], pixels: Tensor) -> dict[int, Encoding]:
    """Returns the encoding of every value; a maximum keeps that of its input, logits are symmetric int16."""
    reads = Counter(value.index for step in program.steps for value in step.inputs)
    functions = {
        step.inputs[0].index: step.function
        for step in program.steps
        if isinstance(step, Activation) and reads[step.inputs[0].index] == 1
    }
    ranges: dict[int, tuple[float, float]] = {}
    samples: dict[int, list[np.ndarray]] = defaultdict(list)
    with torch.inference_mode():
        for batch in torch.split(pixels, BATCH):
            for step, out in run_float(program, parameters, batch):
                index = step.output.index
                low, high = ranges.get(index, (math.inf, -math.inf))
                ranges[index] = min(low, float(out.min())), max(high, float(out.max()))
                if index in functions:
                    flat = out.flatten()
                    samples[index].append(flat[:: 1 + len(flat) // SAMPLES_A_BATCH].double().numpy())
    encodings: dict[int, Encoding] = {}
    for step in program.steps:
        index = step.output.index
        if index == program.output.index:
            largest = max(map(abs, ranges[index])) or 1.0
            encodings[index] = Encoding(LOGIT_HEADROOM * largest / WIDE, 0)
        elif isinstance(step, Pool) and step.kind == "max":
            encodings[index] = encodings[step.inputs[0].index]
        elif index in functions:
            encodings[index] = _encoding_before(functions[index], np.concatenate(samples[index]), *ranges[index])
        else:
            encodings[index] = Encoding.of_range(*ranges[index])
        if isinstance(step, Convolution):
            scale = encodings[step.inputs[0].index].scale if step.inputs else 1.0
            finest = _largest_sum(parameters[step.parameters], scale) / MAX_RESCALED
            encodings[index] = replace(encodings[index], scale=max(encodings[index].scale, finest))
    return encodings


def _largest_sum(affine: Int8Parameters, input_scale: float) -> float:
    """Returns the largest absolute sum of a convolution, as a real number, that int8 inputs of a scale can reach."""
    weights: Tensor = affine.weight.double().abs().sum((1, 2, 3)) * 255 * input_scale
    return float((weights + affine.bias.double().abs()).max())


def _encoding_before(function: str, numbers: np.ndarray, low: float, high: float) -> Encoding:
    """Returns the encoding of the arguments of an activation function that changes its results least.

    Many functions are nearly constant for negative arguments, which then need no fine steps: of ranges inside `low` to
    `high`, the one with the smallest mean squared error of the function on `numbers` is chosen.
    """
    apply, exact = FUNCTIONS[function], FUNCTIONS[function](torch.from_numpy(numbers)).numpy()

    def error(encoding: Encoding) -> float:
        rounded = encoding.decode(encoding.encode(numbers))
        return float(np.square(apply(torch.from_numpy(rounded)).numpy() - exact).mean())

    tried = [Encoding.of_range(low * a, high * b) for a in RANGE_SHARES for b in RANGE_SHARES[:6]]
    return min(tried, key=error)


def _mean_errors(
    program: Program,
    exact: Mapping[str, Int8Parameters],
    rounded: Mapping[str, Int8Parameters],
    encodings: Mapping[int, Encoding],
    pixels: Tensor,
) -> dict[int, np.ndarray]:
    """Returns by how much rounding shifts the mean of each channel of a convolution, which its bias must take back.

    Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019, section 4.2; here the
    means are those of training images. Each convolution is corrected before the next is measured.
    """
    means: dict[int, Tensor] = {}
    errors: dict[int, np.ndarray] = {}

    def measure(step: Step, sums: Tensor) -> Tensor:
        means[step.output.index] = sums.mean((0, 2, 3))
        return sums

    def correct(step: Step, sums: Tensor) -> Tensor:
        error = sums.mean((0, 2, 3)) - means[step.output.index]
        errors[step.output.index] = error.double().numpy()
        return sums - error[:, None, None]

    def rounding(step: Step, out: Tensor) -> Tensor:
        if step.output.index == program.output.index:
            return out
        scale, zero = encodings[step.output.index].scale, encodings[step.output.index].zero
        return ((out / scale).round() + zero).clamp(LOW, HIGH).sub(zero).mul(scale)

    with torch.inference_mode():
        for _ in run_float(program, exact, pixels, on_sum=measure):
            pass
        for _ in run_float(program, rounded, pixels, on_sum=correct, on_value=rounding):
            pass
    return errors


def _weight_scales(
    program: Program, parameters: Mapping[str, Int8Parameters], encodings: Mapping[int, Encoding]
) -> dict[str, np.ndarray]:
    """Returns the scale of each output channel's weights, (out channels,), by the parameters' name.

    A scale is larger than the weights need where a bias would not fit into int32 otherwise: for inputs so small that
    the bias alone counts. Channels without weights have scale 1.
    """
    scales = {}
    for name, affine in parameters.items():
        largest = affine.weight.double().abs().amax((1, 2, 3)).numpy()
        scales[name] = np.where(largest > 0, largest / HIGH, 1.0)
    for step in program.steps:
        if isinstance(step, Convolution) and step.inputs:
            bias = parameters[step.parameters].bias.double().abs().numpy()
            least = bias / encodings[step.inputs[0].index].scale / MAX_RESCALED
            scales[step.parameters] = np.maximum(scales[step.parameters], least)
    return scales


def _int8_step(
    step: Step,
    encodings: Mapping[int, Encoding],
    parameters: Mapping[str, Int8Parameters],
    int8_weights: Mapping[str, Int8Weights],
    errors: Mapping[int, np.ndarray],
) -> Int8Step:
    inputs, output = [encodings[value.index] for value in step.inputs], encodings[step.output.index]
    zeros = tuple(encoding.zero for encoding in inputs)
    match step:
        case Convolution():
            affine, weight = parameters[step.parameters], int8_weights[step.parameters]
            bias, input_scale = affine.bias.double().numpy() - errors[step.output.index], 1.0
            if inputs:
                input_scale = inputs[0].scale
            else:
                zeros = tuple(int(x) for x in affine.zeros.round())
                bias = bias + _shift_of_zeros(step, affine)
            units = input_scale * weight.scales
            return Int8Step(
                step=step,
                zeros=zeros,
                zero=output.zero,
                bias=_int32(bias / units, weight.integers),
                rescaling=Rescaling.by(units / output.scale),
            )
        case Mean() | Pool(kind="average"):
            size = step.window.size**2 if isinstance(step, Pool) else num_elements(step.inputs[0].shape[1:])
            rescaling = Rescaling.by([inputs[0].scale / output.scale / size])
        case Gate():
            rescaling = Rescaling.by([inputs[0].scale * inputs[1].scale / output.scale])
        case Add():
            rescaling = Rescaling.by_common_shift([encoding.scale / output.scale for encoding in inputs])
        case Activation():
            x = torch.from_numpy(inputs[0].decode(np.arange(LOW, HIGH + 1)))
            return Int8Step(
                step=step, zeros=zeros, zero=output.zero, table=output.encode(FUNCTIONS[step.function](x).numpy())
            )
        case Widen():
            logits = np.round(inputs[0].decode(np.arange(LOW, HIGH + 1)) / output.scale)
            return Int8Step(step=step, zeros=zeros, zero=0, table=logits.astype(np.int16))
        case _:
            return Int8Step(step=step, zeros=zeros, zero=output.zero)
    return Int8Step(step=step, zeros=zeros, zero=output.zero, rescaling=rescaling)


def _shift_of_zeros(step: Convolution, affine: Int8Parameters) -> np.ndarray:
    """Returns what the bias must add because integers are subtracted from the pixels instead of `affine.zeros`."""
    by_group = (affine.zeros.round() - affine.zeros).double().reshape(step.groups, -1)
    shifts = by_group.repeat_interleave(step.channels // step.groups, 0)  # (out channels, in channels / groups)
    moved: np.ndarray = (affine.weight.double().sum((2, 3)) * shifts).sum(1).numpy()
    return moved


def _int32(bias: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Returns biases as int32; raises `ValueError` if the sums of a channel could leave that range."""
    largest = np.abs(bias) + 255.0 * np.abs(weight.astype(np.float64)).sum((1, 2, 3))
    if largest.max() >= 2**31:
        raise ValueError(f"a sum may reach {largest.max():.3g} in int8, expected below 2^31: a bias is too large")
    return np.round(bias).astype(np.int32)
