import math
from importlib.util import module_from_spec, spec_from_file_location
from random import Random

import pytest
import torch
from support.architectures import draw_architecture, draw_layer

from nas.architecture import modules
from nas.architecture.composites import KINDS
from nas.architecture.layers import (
    ACTIVATIONS,
    Activation,
    AvgPool,
    BatchNorm,
    Conv,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Linear,
    MaxPool,
    Measure,
    ModuleCall,
    SqueezeExcite,
    measure_sequence,
)
from nas.errors import ArchitectureError, ShapeError

pytestmark = [
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths"),
    pytest.mark.usefixtures("one_thread"),
]


# Computed by hand: output shape, params, macs, buffer bytes, peak elements, extent, stride.
MEASURES = [
    (Conv(out_channels=4, kernel_size=3), (2, 7, 5), ((4, 5, 3), 76, 1080, 0, 130, 3, 1)),
    (Conv(out_channels=4, kernel_size=3, bias=False), (2, 7, 5), ((4, 5, 3), 72, 1080, 0, 130, 3, 1)),
    (Conv(out_channels=4, kernel_size=3, groups=2), (2, 7, 5), ((4, 5, 3), 40, 540, 0, 130, 3, 1)),
    (Conv(out_channels=4, kernel_size=3, stride=2, padding=1), (2, 7, 5), ((4, 4, 3), 76, 864, 0, 118, 3, 2)),
    (Conv(out_channels=4, kernel_size=3, dilation=2, padding=2), (2, 7, 5), ((4, 7, 5), 76, 2520, 0, 210, 5, 1)),
    (Conv(out_channels=1, kernel_size=2, padding="same"), (1, 4, 4), ((1, 4, 4), 5, 64, 0, 32, 2, 1)),
    (BatchNorm(), (3, 4, 5), ((3, 4, 5), 6, 0, 32, 120, 1, 1)),
    (BatchNorm(), (7,), ((7,), 14, 0, 64, 14, 1, 1)),
    (Activation(function="gelu"), (3, 4, 5), ((3, 4, 5), 0, 0, 0, 120, 1, 1)),
    (Dropout(rate=0.5), (6,), ((6,), 0, 0, 0, 12, 1, 1)),
    (Dropout(rate=0.5, per="channel"), (3, 2, 2), ((3, 2, 2), 0, 0, 0, 24, 1, 1)),
    (MaxPool(kernel_size=2), (3, 7, 6), ((3, 3, 3), 0, 0, 0, 153, 2, 2)),
    (MaxPool(kernel_size=3, stride=1, padding=1), (3, 7, 6), ((3, 7, 6), 0, 0, 0, 252, 3, 1)),
    (AvgPool(kernel_size=3, stride=2), (3, 7, 6), ((3, 3, 2), 0, 0, 0, 144, 3, 2)),
    (GlobalAvgPool(), (3, 7, 6), ((3, 1, 1), 0, 0, 0, 129, 7, 1)),
    (Flatten(), (3, 7, 6), ((126,), 0, 0, 0, 252, 7, 1)),
    (Linear(out_features=10), (6,), ((10,), 70, 60, 0, 16, 1, 1)),
    (Linear(out_features=10, bias=False), (6,), ((10,), 60, 60, 0, 16, 1, 1)),
    (SqueezeExcite(), (8, 3, 5), ((8, 3, 5), 42, 32, 0, 248, 5, 1)),
    (SqueezeExcite(reduction=100), (3, 2, 2), ((3, 2, 2), 10, 6, 0, 27, 2, 1)),
]


@pytest.mark.parametrize(("layer", "shape", "expected"), MEASURES, ids=lambda value: str(value)[:60])
def test_measure_equals_hand_computed_values(layer, shape, expected):
    assert layer.measure(shape) == Measure(*expected)


def test_chain_sums_costs_and_keeps_largest_peak():
    row = (Conv(out_channels=2, kernel_size=3, stride=2), BatchNorm(), MaxPool(kernel_size=2))
    # 1x9x9 -> 2x4x4 -> 2x4x4 -> 2x2x2. At the convolution: 81 + 32 elements. At the norm, with the input kept alive:
    # 32 + 32 + 81. Windows: 3, then 2 with stride 2.
    assert measure_sequence(row, (1, 9, 9)) == Measure((2, 2, 2), 24, 288, 24, 113, 5, 4, held_peak_elements=145)


@pytest.mark.parametrize("kind", ["conv", "max_pool", "avg_pool"])
def test_window_output_shapes_and_errors_match_torch(kind):
    rng = Random(kind)
    outcomes = []
    while len(outcomes) < 400:
        try:
            layer = draw_layer(rng, kind, (rng.randint(1, 4),))
        except ArchitectureError:
            continue
        shape = (rng.randint(1, 4), rng.randint(1, 7), rng.randint(1, 7))
        try:
            by_torch = tuple(layer.module_call(shape).build()(torch.zeros(1, *shape)).shape[1:])
        except (RuntimeError, ValueError):
            by_torch = None
        try:
            ours = layer.measure(shape).output_shape
        except ShapeError:
            ours = None
        assert ours == by_torch, (layer, shape)
        outcomes.append(ours)
    assert 40 < outcomes.count(None) < 360


def test_equivalent_padding_and_stride_are_normalised():
    assert Conv(out_channels=1, kernel_size=3, padding="same") == Conv(out_channels=1, kernel_size=3, padding=1)
    assert Conv(out_channels=1, kernel_size=3, padding="same", dilation=4).padding == 4
    assert Conv(out_channels=1, kernel_size=2, padding="same", dilation=2).padding == 1
    assert Conv(out_channels=1, kernel_size=3, padding="valid") == Conv(out_channels=1, kernel_size=3)
    assert Conv(out_channels=1, kernel_size=2, padding="same").padding == "same"
    assert MaxPool(kernel_size=3) == MaxPool(kernel_size=3, stride=3)


def test_every_activation_preserves_shape():
    x = torch.linspace(-2, 2, 9)
    for name in ACTIVATIONS:
        assert Activation(function=name).module_call((9,)).build()(x).shape == x.shape


COUNT = "an integer from 1 to 1e12"
PADDING = '"same", "valid" or an integer from 0 to 1e12'
CONV = {"out_channels": 1, "kernel_size": 1}
POOL = {"kernel_size": 3}
HALF = "an integer from 0 to half of kernel_size"
FUNCTIONS = "one of relu, leaky_relu, gelu, silu, hardswish"
COUNTS = (0, -1, True, 1.0, "3", None, [3])
BAD_VALUES = [
    *(
        ("conv", CONV, field, COUNTS, COUNT)
        for field in ("out_channels", "kernel_size", "stride", "dilation", "groups")
    ),
    ("conv", CONV, "padding", (-1, False, 1.0, "full", None, []), PADDING),
    ("conv", CONV, "bias", (0, 1, None, "true"), "true or false"),
    ("conv", CONV | {"padding": "same"}, "stride", (2,), '1 with padding "same"'),
    ("conv", CONV | {"out_channels": 6}, "groups", (4,), "a divisor of out_channels (6)"),
    *(("depthwise_separable", CONV, field, COUNTS, COUNT) for field in ("out_channels", "kernel_size", "stride")),
    ("depthwise_separable", CONV, "padding", ("full", None), PADDING),
    ("activation", {}, "function", ("elu", None, 1, [], {}), FUNCTIONS),
    (
        "dropout",
        {},
        "rate",
        (-0.1, 1, 1.5, math.nan, math.inf, True, "0.1", None),
        "a number of at least 0 and below 1",
    ),
    ("dropout", {"rate": 0.1}, "per", ("map", [], None), "element or channel"),
    ("max_pool", POOL, "kernel_size", COUNTS, COUNT),
    ("max_pool", POOL, "stride", (0, True, "2", []), COUNT),
    ("avg_pool", POOL, "padding", (-1, 2, True, None, "1"), HALF),
    ("linear", {}, "out_features", COUNTS, COUNT),
    ("linear", {"out_features": 10}, "bias", (None, 1), "true or false"),
    ("squeeze_excite", {}, "reduction", COUNTS, COUNT),
]


@pytest.mark.parametrize(("kind", "others", "field", "values", "expected"), BAD_VALUES)
def test_invalid_value_error_names_value_and_expected(kind, others, field, values, expected):
    for value in values:
        with pytest.raises(ArchitectureError) as caught:
            KINDS[kind](**{**others, field: value})
        assert str(caught.value) == f"{kind}: {field} is {value!r}, expected {expected}"


@pytest.mark.parametrize(
    ("layer", "shape", "text"),
    [
        (
            Conv(out_channels=1, kernel_size=1),
            (10,),
            "conv: input shape is (10,), expected (channels, height, width)",
        ),
        (
            Conv(out_channels=1, kernel_size=3, dilation=3, padding=1),
            (1, 9, 4),
            "conv: input shape is (1, 9, 4), padded to 11x6, expected at least 7x7 (its window)",
        ),
        (
            Conv(out_channels=4, kernel_size=1, groups=4),
            (6, 9, 9),
            "conv: groups is 4, expected a divisor of the channels of input shape (6, 9, 9)",
        ),
        (MaxPool(kernel_size=4), (8, 3, 3), "max_pool: input shape is (8, 3, 3), expected at least 4x4 (its window)"),
        (AvgPool(kernel_size=2), (8,), "avg_pool: input shape is (8,), expected (channels, height, width)"),
        (
            Dropout(rate=0.1, per="channel"),
            (8,),
            "dropout per channel: input shape is (8,), expected (channels, height, width)",
        ),
        (GlobalAvgPool(), (8,), "global_avg_pool: input shape is (8,), expected (channels, height, width)"),
        (Flatten(), (8,), "flatten: input shape is (8,), expected (channels, height, width)"),
        (SqueezeExcite(), (8,), "squeeze_excite: input shape is (8,), expected (channels, height, width)"),
        (
            Linear(out_features=2),
            (8, 1, 1),
            "linear: input shape is (8, 1, 1), expected (features,); put a flatten layer before it",
        ),
    ],
    ids=lambda value: str(value)[:50],
)
def test_shape_error_names_input_shape_and_requirement(layer, shape, text):
    with pytest.raises(ShapeError) as caught:
        layer.measure(shape)
    assert str(caught.value) == text


def test_error_abbreviates_long_value():
    with pytest.raises(ArchitectureError) as caught:
        Linear(out_features="x" * 1000)
    assert str(caught.value) == f"linear: out_features is 'xxxxxxxxxxxx...xxxxxxxxxxxxx', expected {COUNT}"


def test_zero_dropout_rates_have_one_repr():
    assert [repr(Dropout(rate=rate).rate) for rate in (0, 0.0, -0.0)] == ["0.0", "0.0", "0.0"]


def test_call_source_equals_expected_python():
    shape = (4, 6, 6)
    written = {
        "nn.Conv2d(4, 8, 3)": Conv(out_channels=8, kernel_size=3),
        "nn.Conv2d(4, 8, 2, padding='same', groups=4, bias=False)": Conv(
            out_channels=8, kernel_size=2, padding="same", groups=4, bias=False
        ),
        "nn.MaxPool2d(3, stride=2, padding=1)": MaxPool(kernel_size=3, stride=2, padding=1),
        "nn.AvgPool2d(2)": AvgPool(kernel_size=2),
        "nn.BatchNorm2d(4)": BatchNorm(),
        "nn.Dropout2d(0.25)": Dropout(rate=0.25, per="channel"),
        "GlobalAvgPool()": GlobalAvgPool(),
        "SqueezeExcite(4, 2)": SqueezeExcite(reduction=2),
    }
    assert {layer.module_call(shape).source(): layer for layer in written.values()} == written
    assert Linear(out_features=2, bias=False).module_call((5,)).source() == "nn.Linear(5, 2, bias=False)"
    assert BatchNorm().module_call((5,)).source() == "nn.BatchNorm1d(5)"


def test_executed_call_source_equals_built_module(tmp_path):
    architectures = [draw_architecture(Random(f"source {seed}")) for seed in range(80)]
    sources = []
    for architecture in architectures:
        calls, shape = [], architecture.input_shape
        for layer in architecture.layers:
            calls.append(layer.module_call(shape))
            shape = layer.measure(shape).output_shape
        sources.append(ModuleCall("nn.Sequential", tuple(calls)).source())
    assert all("\n" not in source for source in sources)
    path = tmp_path / "written.py"
    names = ", ".join(
        name for name, found in vars(modules).items() if getattr(found, "__module__", "") == modules.__name__
    )
    head = f"from torch import nn\nfrom nas.architecture.modules import {names}\n"
    path.write_text(head + "NETWORKS = [\n" + "".join(f"    {source},\n" for source in sources) + "]\n")
    spec = spec_from_file_location("written", path)
    written = module_from_spec(spec)
    spec.loader.exec_module(written)

    for architecture, network in zip(architectures, written.NETWORKS, strict=True):
        built = architecture.build().eval()
        assert list(network.state_dict()) == list(built.state_dict())
        network.load_state_dict(built.state_dict())  # strict: also checks shapes
        x = torch.rand(2, *architecture.input_shape)
        with torch.no_grad():
            assert torch.equal(network.eval()(x), built(x))
