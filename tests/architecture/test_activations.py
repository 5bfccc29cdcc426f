"""One table says which activations there are; what has code for each of them has it for all."""

import pytest
from torch import nn

from nas.architecture.activations import activation_name
from nas.architecture.layers import ACTIVATIONS, Activation
from nas.exporters.c.kernels import KERNELS
from nas.training.native import functions


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_module_is_known_by_its_name(name):
    assert activation_name(Activation(function=name).module((1, 2, 2)).build()) == name


def test_other_modules_are_none():
    assert [activation_name(module) for module in (nn.Identity(), nn.Conv2d(1, 1, 1), nn.Tanh())] == [None] * 3


def test_the_engine_for_processors_has_code_for_each():
    assert functions.ACTIVATIONS.keys() == ACTIVATIONS.keys()


def test_c_has_code_for_each():
    assert set(ACTIVATIONS) <= set(KERNELS)
