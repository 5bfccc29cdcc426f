"""Reads the parameters of a program from a trained network's weights, with batch norms folded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nas.inference.lowering import INPUT
from nas.inference.program import Program

EPSILON = 1e-5  # added to the variance by torch's batch norms


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


def folded_parameters(
    program: Program, weights: Mapping[str, Tensor], *, mean: Sequence[float], std: Sequence[float]
) -> dict[str, Parameters]:
    """Returns the parameters of each affine step by name, in float64.

    Args:
        program: Inference of the network.
        weights: State dict of the network's `architecture.build()`.
        mean: Mean of each channel, of pixels scaled to 0..1.
        std: Standard deviation of each channel, of pixels scaled to 0..1.

    Raises:
        ValueError: `mean` or `std` does not have one number per channel.
    """
    channels = program.input_shape[0]
    if len(mean) != channels or len(std) != channels:
        raise ValueError(f"{len(mean)} means and {len(std)} standard deviations for {channels} channels")
    doubles = {name: tensor.detach().cpu().double() for name, tensor in weights.items()}
    means, stds = (torch.tensor(numbers, dtype=torch.float64) for numbers in (mean, std))
    found = {}
    for name, step in program.affines.items():
        if name == INPUT:
            parameters = Parameters(weight=1 / (255 * stds), bias=-means / stds)
        elif f"{name}.running_mean" in weights:
            parameters = _norm(doubles, name)
        else:
            parameters = Parameters(weight=doubles[f"{name}.weight"], bias=doubles.get(f"{name}.bias"))
        for norm in step.norms:
            parameters = parameters.followed_by(_norm(doubles, norm))
        found[name] = parameters
    return found


def _norm(weights: Mapping[str, Tensor], name: str) -> Parameters:
    """Returns the scale and shift of a batch norm with its running statistics."""
    scale = weights[f"{name}.weight"] / (weights[f"{name}.running_var"] + EPSILON).sqrt()
    return Parameters(weight=scale, bias=weights[f"{name}.bias"] - weights[f"{name}.running_mean"] * scale)
