"""What lowers the error of quantisation changes nothing but the rounding."""

from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.architectures import draw_architecture
from support.c_networks import normalisation, random_images, random_weights
from support.effort import seeds

from nas.architecture.architecture import Architecture
from nas.architecture.composites import Residual
from nas.architecture.layers import Activation, Conv
from nas.exporters.c.calibration import calibrate
from nas.exporters.c.equalise import LARGEST_FACTOR, equalised
from nas.exporters.c.float_program import run_float
from nas.exporters.c.int8_numbers import Encoding, Rescaling
from nas.exporters.c.int8_parameters import int8_parameters
from nas.exporters.c.int8_reference import run_int8
from nas.exporters.c.quantise import quantise
from nas.inference.int8 import int8_program
from nas.inference.lowering import C_KINDS, lower
from nas.inference.program import Convolution

pytestmark = pytest.mark.usefixtures("one_thread")


def float_logits(program, parameters, images):
    return list(run_float(program, parameters, images))[-1][1].flatten(1)


def network(architecture, seed=0):
    channels = architecture.input_shape[0]
    program, weights = int8_program(lower(architecture)), random_weights(architecture, seed)
    return program, weights, int8_parameters(program, weights, **normalisation(channels))


@pytest.mark.parametrize("seed", seeds(30))
def test_equalised_parameters_compute_the_same(seed):
    architecture = draw_architecture(Random(seed), kinds=C_KINDS)
    program, _, parameters = network(architecture, seed)
    images = random_images(architecture.input_shape)
    expected = float_logits(program, parameters, images)
    found = float_logits(program, equalised(program, parameters, images), images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_equalised_channels_have_similar_ranges():
    """Of a depthwise and a 1x1 convolution, which have neither norm nor activation between them."""
    architecture = Architecture.load("nas-2386-b")
    program, weights, _ = network(architecture)
    depthwise = next(step for step in program.steps if isinstance(step, Convolution) and step.groups > 1)
    weights = {**weights, f"{depthwise.parameters}.weight": weights[f"{depthwise.parameters}.weight"].clone()}
    weights[f"{depthwise.parameters}.weight"][0] *= 8
    parameters = int8_parameters(program, weights, **normalisation(1))
    images = random_images((1, 28, 28))

    def ranges(given):
        outputs = {step.output.index: out for step, out in run_float(program, given, images)}
        return outputs[depthwise.output.index].abs().amax((0, 2, 3))

    before, after = ranges(parameters), ranges(equalised(program, parameters, images))
    assert before.max() / before.min() > 3
    spread = float(before.max() / before.min())
    assert after.max() / after.min() < 1.01 * max(1, spread / LARGEST_FACTOR)


def test_biases_take_back_the_mean_error():
    """After a linear layer, the mean of each logit over the calibration images is that of the network in float."""
    architecture, images = Architecture.load("mnist-7825"), random_images((1, 28, 28), 200)
    program, weights, parameters = network(architecture)
    expected = float_logits(program, parameters, images).numpy()
    quantised = quantise(calibrate(architecture, weights, images, **normalisation(1)))
    found = run_int8(quantised, images.numpy()) * quantised.logit_scale
    bias, noise = np.abs((found - expected).mean(0)).max(), np.sqrt(((found - expected) ** 2).mean())
    assert bias < 0.15 * noise


@given(
    low=st.floats(-1e6, 1e6, allow_subnormal=False),
    high=st.floats(-1e6, 1e6, allow_subnormal=False),
    share=st.floats(0, 1),
)
def test_encoding_of_a_range_rounds_to_half_a_step_and_keeps_zero(low, high, share):
    encoding = Encoding.of_range(min(low, high), max(low, high))
    number = np.array([min(low, high) + share * abs(high - low), 0.0])
    decoded = encoding.decode(encoding.encode(number))
    assert abs(decoded[0] - number[0]) <= 1.0001 * encoding.scale  # half a step, and the zero's rounding
    assert decoded[1] == 0


@given(factor=st.floats(1e-9, 1e6), number=st.integers(-(2**20), 2**20))
def test_rescaling_multiplies_by_the_factor(factor, number):
    rescaling = Rescaling.by([factor])
    multiplier, shift = int(rescaling.multiplier[0]), int(rescaling.shift[0])
    assert 0 <= multiplier < 2**31
    assert 1 <= shift <= 62
    exact = number * factor
    assert abs((number * multiplier + (1 << (shift - 1)) >> shift) - exact) <= 0.5 + abs(exact) * 2**-30 + 1e-9


def test_rescaling_with_too_large_a_factor_raises():
    with pytest.raises(ValueError, match=r"^a rescaling factor is 1\.07e\+09, expected below 1073741824$"):
        Rescaling.by([2.0**30])
    assert Rescaling.by([1e-12]).multiplier[0] == 0


def test_value_with_two_readers_keeps_its_whole_range():
    """The range before an activation function is narrowed only if no other step reads the value."""
    body = (Activation(function="silu"), Conv(out_channels=4, kernel_size=1))
    layers = (Conv(out_channels=4, kernel_size=3, padding="same"), Residual(layers=body))
    architecture = Architecture(input_shape=(1, 8, 8), layers=layers)
    program, weights, _ = network(architecture)
    weights = {**weights, "0.weight": 30 * weights["0.weight"]}  # so that silu is flat for most negative values
    parameters = int8_parameters(program, weights, **normalisation(1))
    images = random_images((1, 8, 8), 40)
    first = program.steps[0].output.index
    low = min(float(out.min()) for step, out in run_float(program, parameters, images) if step.output.index == first)
    encoding = quantise(calibrate(architecture, weights, images, **normalisation(1))).encodings[first]
    assert encoding.scale * (-128 - encoding.zero) == pytest.approx(low, abs=encoding.scale)


def test_nearly_constant_values_do_not_overflow():
    """A layer that is almost 0 on the calibration images, and large on others."""
    layers = (Conv(out_channels=2, kernel_size=1), Activation(), Conv(out_channels=2, kernel_size=1))
    architecture = Architecture(input_shape=(1, 4, 4), layers=layers)
    weights = random_weights(architecture, 0)
    weights["0.weight"], weights["0.bias"] = torch.ones(2, 1, 1, 1), torch.full((2,), 0.1 / 0.3 + 1e-12)
    black, white = torch.zeros(4, 1, 4, 4, dtype=torch.uint8), np.full((1, 1, 4, 4), 255, np.uint8)
    quantised = quantise(calibrate(architecture, weights, black, **normalisation(1)))
    first = quantised.steps[0]
    sums = 255 * np.abs(quantised.weights["0"].astype(np.int64)).sum() + np.abs(first.bias.astype(np.int64)).max()
    assert (sums * first.rescaling.multiplier.astype(object) >> int(first.rescaling.shift[0])).max() < 2**31
    assert run_int8(quantised, white).shape == (1, 32)


def test_bias_far_larger_than_its_inputs_is_kept():
    """A layer whose inputs are almost 0 on the calibration images: its bias alone counts."""
    layers = (Conv(out_channels=2, kernel_size=1, bias=False), Conv(out_channels=3, kernel_size=1))
    architecture = Architecture(input_shape=(1, 4, 4), layers=layers)
    weights = random_weights(architecture, 0)
    weights["0.weight"] = torch.full((2, 1, 1, 1), 1e-13)
    weights["1.bias"] = torch.tensor([1.0, -2.0, 0.5])
    images = random_images((1, 4, 4), 8)
    quantised = quantise(calibrate(architecture, weights, images, **normalisation(1)))
    logits = run_int8(quantised, images.numpy()).reshape(8, 3, 16) * quantised.logit_scale
    np.testing.assert_allclose(logits.mean((0, 2)), [1.0, -2.0, 0.5], atol=0.01)


def test_weights_that_are_not_finite_raise():
    architecture = Architecture(input_shape=(1, 4, 4), layers=(Conv(out_channels=2, kernel_size=1),))
    weights = {**random_weights(architecture, 0), "0.bias": torch.tensor([float("inf"), 0.0])}
    with pytest.raises(ValueError, match=r"^a weight is inf, expected a finite number$"):
        calibrate(architecture, weights, random_images((1, 4, 4), 4), **normalisation(1))
