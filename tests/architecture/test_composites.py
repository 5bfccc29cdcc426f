from random import Random

import pytest
import torch
from support.architectures import draw_layers
from torch import nn

from nas.architecture.composites import KINDS, DepthwiseSeparable, Repeat, Residual, sequential_call
from nas.architecture.layers import (
    Activation,
    BatchNorm,
    Conv,
    Flatten,
    GlobalAvgPool,
    Linear,
    MaxPool,
    Measure,
    measure_sequence,
)
from nas.errors import ArchitectureError, ShapeError

CONV = Conv(out_channels=2, kernel_size=3, padding=1)
ON_MAPS = tuple(kind for kind, layer in KINDS.items() if kind != "linear" and not layer.ends_features)


def test_depthwise_separable_equals_hand_computed_measure_and_modules():
    layer = DepthwiseSeparable(out_channels=5, kernel_size=3, stride=2, padding=1)
    # 2x6x6 -> 2x3x3 -> 5x3x3: 72 + 18 elements, then 18 + 45; with the input kept alive 72 + 18 + 45.
    assert layer.measure((2, 6, 6)) == Measure((5, 3, 3), 20 + 15, 162 + 90, 0, 90, 3, 2, held_peak_elements=135)
    call = layer.module_call((2, 6, 6))
    assert call.source() == "DepthwiseSeparable(2, 5, 3, stride=2, padding=1)"
    depthwise, pointwise = call.build()
    assert str(depthwise) == "Conv2d(2, 2, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1), groups=2)"
    assert str(pointwise) == "Conv2d(2, 5, kernel_size=(1, 1), stride=(1, 1))"


def test_identity_residual_measure_equals_hand_computed_values():
    layer = Residual(layers=(CONV, BatchNorm()))
    # Every tensor is 2x4x4, 32 elements. Alive at the norm: input, convolved, normed; at the sum: branch, input, sum.
    assert layer.measure((2, 4, 4)) == Measure((2, 4, 4), 42, 576, 24, 96, 3, 1, held_peak_elements=96)


def test_projection_residual_measure_equals_hand_computed_values():
    layer = Residual(layers=(Conv(out_channels=3, kernel_size=3, stride=2, padding=1, bias=False),), projection=True)
    # 2x4x4 -> 3x2x2. Branch: 32 + 12; projection: 32 + 12 + 12; sum: 3 * 12, with the input kept alive 32 + 3 * 12.
    assert layer.measure((2, 4, 4)) == Measure((3, 2, 2), 54 + 6, 216 + 24, 0, 56, 3, 2, held_peak_elements=68)


def test_residual_peak_includes_input_during_nested_layers():
    wide = Conv(out_channels=8, kernel_size=1, bias=False)
    narrow = Conv(out_channels=2, kernel_size=1, bias=False)
    flat = Residual(layers=(wide, wide, narrow))
    nested = Residual(layers=(Repeat(layers=(wide,), times=2), narrow))
    # The 2x3x3 input stays alive while a convolution maps 8x3x3 to 8x3x3.
    assert flat.measure((2, 3, 3)).peak_elements == nested.measure((2, 3, 3)).peak_elements == 18 + 72 + 72


def test_repeat_equals_unrolled_layers():
    for seed in range(100):
        rng = Random(f"repeat {seed}")
        shape = (rng.randint(1, 3), 20, 20)
        layers, times = draw_layers(rng, shape, ON_MAPS, rng.randint(1, 3), depth=1), rng.randint(1, 3)
        repeat = Repeat(layers=layers, times=times)
        try:
            written_out = measure_sequence(layers * times, shape)
        except ShapeError:
            with pytest.raises(ShapeError):
                repeat.measure(shape)
        else:
            assert repeat.measure(shape) == written_out
            assert repeat.module_call(shape) == sequential_call(layers * times, shape)


def test_shared_repeat_counts_params_once_and_macs_each_time():
    layer = Repeat(layers=(CONV, BatchNorm()), times=3, shared=True)
    # 38 + 4 parameters and 24 bytes of buffers once, 3 * 576 multiply-accumulates, windows of 3, 5 and 7.
    assert layer.measure((2, 4, 4)) == Measure((2, 4, 4), 42, 1728, 24, 64, 7, 1, held_peak_elements=96)
    assert Repeat(layers=(CONV,), times=1, shared=True).measure((2, 4, 4)) == measure_sequence((CONV,), (2, 4, 4))


def test_shared_repeat_applies_same_weights_each_time():
    built = Repeat(layers=(CONV, Activation()), times=3, shared=True).module_call((2, 4, 4)).build()
    x = torch.rand(1, 2, 4, 4)
    expected = x
    for _ in range(3):
        expected = nn.functional.conv2d(expected, *built.parameters(), padding=1).relu()
    assert torch.equal(built(x), expected)


def test_residual_adds_branch_and_shortcut():
    x = torch.rand(1, 2, 4, 4)
    identity = Residual(layers=(CONV,)).module_call((2, 4, 4)).build()
    assert torch.equal(identity(x), identity.branch(x) + x)
    projected = Residual(layers=(MaxPool(kernel_size=2),), projection=True).module_call((2, 4, 4)).build()
    weight = projected.shortcut.weight
    assert weight.shape == (2, 2, 1, 1)
    expected = nn.functional.max_pool2d(x, 2) + nn.functional.conv2d(x, weight, stride=2)
    assert torch.equal(projected(x), expected)


def test_shared_repeat_accepts_vectors():
    layer = Repeat(layers=(Linear(out_features=4), Activation()), times=2, shared=True)
    assert layer.measure((4,)) == Measure((4,), 20, 32, 0, 8, 1, 1, held_peak_elements=12)


@pytest.mark.parametrize(
    ("layer", "shape", "text"),
    [
        (
            Residual(layers=(Conv(out_channels=4, kernel_size=1),)),
            (2, 4, 4),
            "residual: output shape of the layers is (4, 4, 4), expected (2, 4, 4) as from the identity shortcut",
        ),
        (
            Residual(layers=(Conv(out_channels=4, kernel_size=3),), projection=True),
            (2, 4, 4),
            "residual: output shape of the layers is (4, 2, 2), expected (4, 4, 4) as from the 1x1 projection shortcut",
        ),
        (
            Residual(layers=(CONV, MaxPool(kernel_size=5))),
            (2, 4, 4),
            "layers[1]: max_pool: input shape is (2, 4, 4), expected at least 5x5 (its window)",
        ),
        (
            Residual(layers=(Activation(),)),
            (2,),
            "residual: input shape is (2,), expected (channels, height, width)",
        ),
        (
            Repeat(layers=(Activation(), MaxPool(kernel_size=2)), times=3),
            (2, 4, 4),
            "layers[1]: max_pool: input shape is (2, 1, 1), expected at least 2x2 (its window)",
        ),
        (
            Repeat(layers=(Residual(layers=(MaxPool(kernel_size=9),), projection=True),), times=3),
            (2, 4, 4),
            "layers[0].layers[0]: max_pool: input shape is (2, 4, 4), expected at least 9x9 (its window)",
        ),
        (
            Repeat(layers=(Conv(out_channels=4, kernel_size=1),), times=2, shared=True),
            (2, 4, 4),
            "repeat: output shape of the layers is (4, 4, 4), expected 2 channels as in the input because shared is"
            " true",
        ),
        (
            DepthwiseSeparable(out_channels=4, kernel_size=5),
            (2, 4, 4),
            "depthwise_separable's conv: input shape is (2, 4, 4), expected at least 5x5 (its window)",
        ),
        (
            DepthwiseSeparable(out_channels=4, kernel_size=1),
            (2,),
            "depthwise_separable: input shape is (2,), expected (channels, height, width)",
        ),
    ],
)
def test_shape_error_names_position_and_expected_shape(layer, shape, text):
    with pytest.raises(ShapeError) as caught:
        layer.measure(shape)
    assert str(caught.value) == text


@pytest.mark.parametrize("kind", [Residual, lambda **fields: Repeat(times=1, **fields)], ids=["residual", "repeat"])
@pytest.mark.parametrize(
    ("layers", "text"),
    [
        ((), "layers is (), expected a tuple of at least one layer"),
        (None, "layers is None, expected a tuple of at least one layer"),
        ((1,), "layers is (1,), expected a tuple of at least one layer"),
        ([Flatten()], "layers is [Flatten()], expected a tuple of at least one layer"),
        ((CONV, Flatten()), "flatten found in layers, expected layers that return a feature map"),
        ((GlobalAvgPool(),), "global_avg_pool found in layers, expected layers that return a feature map"),
    ],
)
def test_composites_reject_invalid_layers(kind, layers, text):
    with pytest.raises(ArchitectureError) as caught:
        kind(layers=layers)
    assert str(caught.value).partition(": ")[2] == text


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"times": 0}, "repeat: times is 0, expected an integer from 1 to 1e12"),
        ({"times": True}, "repeat: times is True, expected an integer from 1 to 1e12"),
        ({"times": 1001}, "repeat: times is 1001, expected few enough for at most 1000 layers in total"),
        (
            {"times": 10**30},
            f"repeat: times is {10**30}, expected an integer from 1 to 1e12",
        ),
        ({"times": 2, "shared": 1}, "repeat: shared is 1, expected true or false"),
    ],
)
def test_repeat_error_names_invalid_value(fields, text):
    with pytest.raises(ArchitectureError) as caught:
        Repeat(layers=(CONV,), **fields)
    assert str(caught.value) == text


def test_layer_limit_counts_nested_repeats_unrolled():
    inner = Repeat(layers=(Residual(layers=(CONV, CONV)),), times=10)  # 20 layers
    assert Repeat(layers=(inner,), times=50).times == 50
    with pytest.raises(ArchitectureError) as caught:
        Repeat(layers=(inner,), times=51)
    assert str(caught.value) == "repeat: times is 51, expected few enough for at most 1000 layers in total"


def test_residual_error_names_invalid_value():
    with pytest.raises(ArchitectureError) as caught:
        Residual(layers=(CONV,), projection=None)
    assert str(caught.value) == "residual: projection is None, expected true or false"
