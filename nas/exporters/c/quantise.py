"""Quantises a trained network to int8: integers for every step of its int8 program.

A real number x is stored as the integer x / scale + zero. Weights have a scale for each output channel and zero 0;
every value between steps has one scale and one zero, from its minimum and maximum on training images. Jacob et al.,
"Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", 2018.

The error of rounding is lowered before (`calibration.py`), here by biases that take back its mean, and on request by
training (`finetune.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from nas.architecture.layers import num_elements
from nas.exporters.c.calibration import Calibration
from nas.exporters.c.float_program import FUNCTIONS, run_float
from nas.exporters.c.int8_numbers import HIGH, LOW, Encoding, Int8Weights, Rescaling
from nas.exporters.c.int8_parameters import Int8Parameters
from nas.inference.program import Activation, Add, Convolution, Gate, Mean, Pool, Program, Step, Widen


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


def quantise(calibration: Calibration, *, is_bias_corrected: bool = True) -> Int8Network:
    """Returns the network in int8, with int16 logits.

    Args:
        calibration: From `calibrate`.
        is_bias_corrected: Whether biases take back the mean error of rounding. A network that was trained with rounding
            has learned to live with it.

    Raises:
        ValueError: A weight is too large.
    """
    program, parameters = calibration.program, calibration.parameters
    scales = calibration.weight_scales()
    int8_weights = {name: Int8Weights.of(affine.weight, scales[name]) for name, affine in parameters.items()}
    errors = _mean_errors(calibration, int8_weights) if is_bias_corrected else {}
    steps = [_int8_step(step, calibration.encodings, parameters, int8_weights, errors) for step in program.steps]
    integers = {name: each.integers for name, each in int8_weights.items()}
    return Int8Network(program=program, steps=tuple(steps), weights=integers, encodings=calibration.encodings)


def _mean_errors(calibration: Calibration, int8_weights: Mapping[str, Int8Weights]) -> dict[int, np.ndarray]:
    """Returns by how much rounding shifts the mean of each channel of a convolution, which its bias must take back.

    Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019, section 4.2; here the
    means are those of training images. Each convolution is corrected before the next is measured.
    """
    program, exact, encodings = calibration.program, calibration.parameters, calibration.encodings
    rounded = {name: replace(affine, weight=int8_weights[name].decode()) for name, affine in exact.items()}
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
        for _ in run_float(program, exact, calibration.few, on_sum=measure):
            pass
        for _ in run_float(program, rounded, calibration.few, on_sum=correct, on_value=rounding):
            pass
    return errors


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
            bias, input_scale = affine.bias.double().numpy() - errors.get(step.output.index, 0.0), 1.0
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
