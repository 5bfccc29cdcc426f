"""Measures on training images which integers the values of a network need in int8.

Two changes lower the error of rounding: channels get similar ranges (`equalise.py`), and an activation function's
arguments get the range that changes its results least.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from nas.architecture.architecture import Architecture
from nas.exporters.c.equalise import equalised
from nas.exporters.c.float_program import FUNCTIONS, run_float
from nas.exporters.c.int8_numbers import HIGH, WIDE, Encoding
from nas.exporters.c.int8_parameters import Int8Parameters, int8_parameters
from nas.inference.int8 import int8_program
from nas.inference.lowering import lower
from nas.inference.program import Activation, Convolution, Pool, Program

MAX_RESCALED = 2**30
"""Largest rescaled sum: int32 must hold it. Only values that are nearly constant on training images come near it."""
LOGIT_HEADROOM = 2
"""Largest logit that can be stored, relative to the largest of the calibration images."""
BATCH = 100
SAMPLES_A_BATCH = 2000
NUM_FEW_IMAGES = 500
"""Images of which all values are kept at the same time, to measure channels and mean errors."""
RANGE_SHARES = tuple(1 - 0.05 * i for i in range(20))
"""Shares of the lower end of a range that are tried before an activation function; of the upper end the first six."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Calibration:
    """A network before its numbers are rounded.

    Attributes:
        program: Its int8 program.
        parameters: Parameters of its convolutions in float, by name.
        encodings: Encoding of each value by its index.
        few: Some of the training images, uint8 (N, channels, height, width).
    """

    program: Program
    parameters: Mapping[str, Int8Parameters]
    encodings: Mapping[int, Encoding]
    few: Tensor

    def weight_scales(self) -> dict[str, np.ndarray]:
        """Returns the scale of each output channel's weights, (out channels,), by the parameters' name.

        A scale is larger than the weights need where a bias would not fit into int32 otherwise: for inputs so small
        that the bias alone counts. Channels without weights have scale 1.
        """
        scales = {}
        for name, affine in self.parameters.items():
            largest = affine.weight.double().abs().amax((1, 2, 3)).numpy()
            scales[name] = np.where(largest > 0, largest / HIGH, 1.0)
        for step in self.program.steps:
            if isinstance(step, Convolution) and step.inputs:
                bias = self.parameters[step.parameters].bias.double().abs().numpy()
                least = bias / self.encodings[step.inputs[0].index].scale / MAX_RESCALED
                scales[step.parameters] = np.maximum(scales[step.parameters], least)
        return scales


def calibrate(
    architecture: Architecture,
    weights: Mapping[str, Tensor],
    pixels: Tensor,
    *,
    mean: Sequence[float],
    std: Sequence[float],
) -> Calibration:
    """Returns what int8 needs to know of a trained network.

    Args:
        architecture: Architecture of the network.
        weights: State dict of `architecture.build()`.
        pixels: Training images, uint8 (N, channels, height, width), whose ranges decide the scales.
        mean: Mean of each channel, of pixels scaled to 0..1.
        std: Standard deviation of each channel, of pixels scaled to 0..1.

    Raises:
        ArchitectureError: A kind of layer has no inference step.
        ValueError: `mean` or `std` does not have one number per channel, or a weight is not finite.
    """
    program = int8_program(lower(architecture))
    few = pixels[:: 1 + len(pixels) // NUM_FEW_IMAGES]
    parameters = equalised(program, int8_parameters(program, weights, mean=mean, std=std), few)
    return Calibration(
        program=program, parameters=parameters, encodings=_encodings(program, parameters, pixels), few=few
    )


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
