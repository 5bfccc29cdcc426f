"""Parameters of an int8 program in float: batch norms folded, and the scaling of pixels, too."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nas.exporters.c.parameters import folded_parameters
from nas.inference.lowering import INPUT
from nas.inference.program import Convolution, Program


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Int8Parameters:
    """A convolution's parameters before quantisation, float32.

    Attributes:
        weight: Weights, (out channels, in channels / groups, size, size).
        bias: Biases, (out channels,).
        zeros: For a step that reads the pixels: the pixel that is subtracted in each channel, and which padding stands
            for, (in channels,).
    """

    weight: Tensor
    bias: Tensor
    zeros: Tensor


def int8_parameters(
    program: Program, weights: Mapping[str, Tensor], *, mean: Sequence[float], std: Sequence[float]
) -> dict[str, Int8Parameters]:
    """Returns the parameters of each convolution of an int8 program by name.

    Args:
        program: From `int8_program`.
        weights: State dict of the network's `architecture.build()`.
        mean: Mean of each channel, of pixels scaled to 0..1.
        std: Standard deviation of each channel, of pixels scaled to 0..1.

    Raises:
        ValueError: `mean` or `std` does not have one number per channel, or a weight is not finite.
    """
    found = {}
    folded = folded_parameters(program, weights, mean=mean, std=std)
    for name, step in program.affines.items():
        assert isinstance(step, Convolution)
        channels, size, groups = step.in_shape[0], step.window.size, step.groups
        weight = folded[name].weight.reshape(step.channels, channels // groups, size, size)
        bias = folded[name].bias
        zeros = torch.zeros(channels, dtype=torch.float64)
        if not step.inputs and name != INPUT:
            scales = 1 / (255 * torch.tensor(std, dtype=torch.float64))
            weight = weight * by_weight(scales, step)
            zeros = 255 * torch.tensor(mean, dtype=torch.float64)
        found[name] = Int8Parameters(
            weight=weight.float(),
            bias=(torch.zeros(step.channels) if bias is None else bias).float(),
            zeros=zeros.float(),
        )
        for tensor in (found[name].weight, found[name].bias):
            if not tensor.isfinite().all():
                bad = float(tensor[~tensor.isfinite()][0])
                raise ValueError(f"a weight is {bad}, expected a finite number")
    return found


def by_weight(numbers: Tensor, step: Convolution) -> Tensor:
    """Returns the numbers of the input channels, (in channels,), as (out channels, in channels / groups, 1, 1)."""
    by_group = numbers.reshape(step.groups, -1)
    return by_group.repeat_interleave(step.channels // step.groups, 0)[:, :, None, None]
