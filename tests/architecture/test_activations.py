"""`ACTIVATIONS` lists all activations; the native engine and the C exporter support each of them."""

import pytest
from torch import nn

from nas.architecture.activations import activation_name
from nas.architecture.layers import ACTIVATIONS, Activation
from nas.exporters.c.kernels import KERNELS
from nas.training.native import functions


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_name_identifies_each_module(name):
    assert activation_name(Activation(function=name).module_call((1, 2, 2)).build()) == name


def test_activation_name_of_other_modules_is_none():
    assert [activation_name(module) for module in (nn.Identity(), nn.Conv2d(1, 1, 1), nn.Tanh())] == [None] * 3


def test_native_engine_supports_every_activation():
    assert functions.ACTIVATIONS.keys() == ACTIVATIONS.keys()


def test_c_exporter_supports_every_activation():
    assert set(ACTIVATIONS) <= set(KERNELS)
