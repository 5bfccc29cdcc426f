"""Gives the channels between two convolutions similar ranges, so that one scale fits all of them.

A channel that the first convolution writes and only the second reads may be divided by a number, if the second's
weights are multiplied by it: the network computes the same. ReLU and pools between them keep the factor. Nagel et al.,
"Data-Free Quantization Through Weight Equalization and Bias Correction", 2019, section 4.1; here the ranges are those
of values on training images.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from nas.exporters.c.float_program import run_float
from nas.exporters.c.int8_parameters import Int8Parameters, by_weight
from nas.inference.program import Affine, Convolution, Pool, Program, Step

LARGEST_FACTOR = 16.0
"""Channels that are nearly constant would get huge factors, which the second convolution's weights cannot represent."""


def equalised(program: Program, parameters: Mapping[str, Int8Parameters], pixels: Tensor) -> dict[str, Int8Parameters]:
    """Returns parameters with which the program computes the same, and channels have similar ranges.

    Args:
        program: From `int8_program`.
        parameters: From `int8_parameters`.
        pixels: Training images, uint8 (N, channels, height, width).
    """
    found = dict(parameters)
    pairs = _pairs(program)
    largest: dict[int, Tensor] = {}
    with torch.inference_mode():
        for step, out in run_float(program, parameters, pixels):
            if step.output.index in pairs:
                largest[step.output.index] = out.abs().amax((0, 2, 3))
    for index, (first, second) in pairs.items():
        ranges = largest[index]
        factors = (ranges / ranges.max().clamp(min=1e-30)).clamp(min=1 / LARGEST_FACTOR)
        before, after = found[first.parameters], found[second.parameters]
        found[first.parameters] = replace(
            before, weight=before.weight / factors[:, None, None, None], bias=before.bias / factors
        )
        found[second.parameters] = replace(after, weight=after.weight * by_weight(factors, second))
    return found


def _pairs(program: Program) -> dict[int, tuple[Convolution, Convolution]]:
    """Returns pairs of convolutions, the second of which alone reads the first, by the index of the first's output."""
    uses = Counter(step.parameters for step in program.steps if isinstance(step, Affine))
    readers: dict[int, list[Step]] = {}
    for step in program.steps:
        for value in step.inputs:
            readers.setdefault(value.index, []).append(step)
    pairs = {}
    for step in program.steps:
        if isinstance(step, Convolution) and uses[step.parameters] == 1 and len(step.output.shape) == 3:
            following = readers.get(step.output.index, [])
            while len(following) == 1 and isinstance(following[0], Pool):
                following = readers.get(following[0].output.index, [])
            match following:
                case [Convolution() as second] if uses[second.parameters] == 1 and second.in_shape[0] == step.channels:
                    pairs[step.output.index] = step, second
    return pairs
