"""Folded parameters compute the same as the layers that they replace."""

import pytest
import torch

from nas.architecture.architecture import Architecture
from nas.architecture.layers import BatchNorm, Conv
from nas.exporters.c.parameters import folded_parameters
from nas.inference.lowering import lower


def scattered(*layers, input_shape=(2, 6, 6), seed=0):
    """A network with random weights and norms; its folded parameters and its weights."""
    architecture = Architecture(input_shape=input_shape, layers=layers)
    generator = torch.Generator().manual_seed(seed)
    weights = {
        name: torch.rand(tensor.shape, generator=generator) + 0.5 if tensor.dtype.is_floating_point else tensor
        for name, tensor in architecture.build().state_dict().items()
    }
    channels = input_shape[0]
    return folded_parameters(lower(architecture), weights, mean=(0.2,) * channels, std=(0.4,) * channels), weights


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_norm_is_folded_into_convolution_in_double_precision(bias):
    parameters, weights = scattered(Conv(out_channels=2, kernel_size=3, bias=bias), BatchNorm())
    assert set(parameters) == {"input", "0"}
    weight, shift, mean, var = (
        weights[f"1.{name}"].double() for name in ("weight", "bias", "running_mean", "running_var")
    )
    scale = weight / (var + 1e-5).sqrt()
    folded = parameters["0"]
    torch.testing.assert_close(folded.weight, weights["0.weight"].double() * scale[:, None, None, None])
    before = weights["0.bias"].double() if bias else torch.zeros(2, dtype=torch.float64)
    torch.testing.assert_close(folded.bias, (before - mean) * scale + shift)


def test_convolution_without_bias_or_norm_has_none():
    assert scattered(Conv(out_channels=2, kernel_size=3, bias=False))[0]["0"].bias is None


def test_folding_does_not_change_weights():
    architecture = Architecture(input_shape=(2, 6, 6), layers=(Conv(out_channels=2, kernel_size=3), BatchNorm()))
    module = architecture.build()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    folded_parameters(lower(architecture), module.state_dict(), mean=(0.2, 0.2), std=(0.4, 0.4))
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_epsilon_is_that_of_torch():
    from nas.exporters.c.parameters import EPSILON

    assert EPSILON == torch.nn.BatchNorm2d(1).eps == torch.nn.BatchNorm1d(1).eps
