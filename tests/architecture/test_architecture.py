import dataclasses
import json
import math
import os
import subprocess
import sys
from random import Random

import pytest
import torch
from hypothesis import given, settings
from support.architectures import architectures, draw_architecture
from support.effort import examples
from support.paths import ROOT
from torch import nn

from nas.architecture.architecture import Architecture
from nas.architecture.composites import KINDS, Repeat, Residual
from nas.architecture.layers import (
    Activation,
    BatchNorm,
    Conv,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Linear,
    MaxPool,
    SqueezeExcite,
)
from nas.errors import ArchitectureError, ShapeError

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")

EXAMPLE = Architecture(
    input_shape=(1, 8, 8),
    layers=(
        Conv(out_channels=4, kernel_size=3, padding="same", bias=False),
        BatchNorm(),
        Activation(),
        Residual(layers=(Repeat(layers=(Conv(out_channels=4, kernel_size=3, padding=1),), times=2, shared=True),)),
        MaxPool(kernel_size=2),
        SqueezeExcite(reduction=2),
        Dropout(rate=0.1),
        GlobalAvgPool(),
        Flatten(),
        Linear(out_features=10),
    ),
)
TEXT = """{
  "version": 1,
  "input_shape": [1, 8, 8],
  "layers": [
    {"kind": "conv", "out_channels": 4, "kernel_size": 3, "padding": 1, "bias": false},
    {"kind": "batch_norm"},
    {"kind": "activation"},
    {"kind": "residual", "layers": [{"kind": "repeat", "layers": [\
{"kind": "conv", "out_channels": 4, "kernel_size": 3, "padding": 1}], "times": 2, "shared": true}]},
    {"kind": "max_pool", "kernel_size": 2, "stride": 2},
    {"kind": "squeeze_excite", "reduction": 2},
    {"kind": "dropout", "rate": 0.1},
    {"kind": "global_avg_pool"},
    {"kind": "flatten"},
    {"kind": "linear", "out_features": 10}
  ]
}
"""
FINGERPRINT = "f21e2cc50f1269bf"


def file_of(*layers, **others):
    return {"version": 1, "input_shape": [1, 8, 8], "layers": list(layers), **others}


def error_of(data):
    with pytest.raises(ArchitectureError) as caught:
        Architecture.from_json(data)
    return str(caught.value)


# JSON roundtrip


def test_dumps_writes_expected_text_and_from_json_reads_it():
    assert EXAMPLE.dumps() == TEXT
    assert Architecture.from_json(json.loads(TEXT)) == EXAMPLE


def test_random_architectures_roundtrip_through_json_and_text():
    for seed in range(1000):
        architecture = draw_architecture(Random(f"json {seed}"))
        assert Architecture.from_json(architecture.to_json()) == architecture
        back = Architecture.from_json(json.loads(architecture.dumps()))
        assert back == architecture
        assert hash(back) == hash(architecture)
        assert back.fingerprint() == architecture.fingerprint()
        assert back.dumps() == architecture.dumps()


@settings(max_examples=examples(100))
@given(architectures())
def test_any_architecture_roundtrips_through_json_and_text(architecture):
    assert Architecture.from_json(json.loads(json.dumps(architecture.to_json()))) == architecture
    assert Architecture.from_json(json.loads(architecture.dumps())) == architecture


def test_load_reads_output_of_dumps(tmp_path):
    path = tmp_path / "example.json"
    path.write_text(EXAMPLE.dumps())
    assert Architecture.load(path) == Architecture.load(str(path)) == EXAMPLE


# Fingerprint


def test_fingerprint_is_constant_across_processes():
    code = (
        "import json, sys; from nas.architecture.architecture import Architecture;"
        "print(Architecture.from_json(json.load(sys.stdin)).fingerprint())"
    )
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", code],
            input=TEXT,
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == FINGERPRINT
    assert EXAMPLE.fingerprint() == FINGERPRINT


def test_distinct_architectures_have_distinct_fingerprints():
    drawn = {draw_architecture(Random(f"fingerprint {seed}")) for seed in range(2000)}
    assert len(drawn) > 1500
    assert len({architecture.fingerprint() for architecture in drawn}) == len(drawn)


def test_all_spellings_of_zero_dropout_share_one_fingerprint():
    alike = [Architecture.from_json(file_of({"kind": "dropout", "rate": rate})) for rate in (0, 0.0, -0.0)]
    assert alike[0] == alike[1] == alike[2]
    assert len({architecture.fingerprint() for architecture in alike}) == 1


# Building


def test_build_uses_default_torch_initialisation():
    architecture = Architecture(input_shape=(3, 8, 8), layers=(Conv(out_channels=5, kernel_size=3),))
    torch.manual_seed(7)
    alone = nn.Conv2d(3, 5, 3)
    torch.manual_seed(7)
    built = architecture.build()
    assert torch.equal(built[0].weight, alone.weight)
    assert torch.equal(built[0].bias, alone.bias)


def test_build_initialises_layers_in_order():
    torch.manual_seed(7)
    alone = [nn.Conv2d(1, 4, 3, bias=False), nn.Conv2d(4, 4, 3), nn.Linear(4, 2), nn.Linear(2, 4), nn.Linear(4, 10)]
    torch.manual_seed(7)
    built = [module for module in EXAMPLE.build().modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert [type(module) for module in built] == [type(module) for module in alone]
    assert all(torch.equal(a.weight, b.weight) for a, b in zip(alone, built, strict=True))


def test_each_build_initialises_new_weights():
    torch.manual_seed(7)
    first, second = EXAMPLE.build(), EXAMPLE.build()
    assert not torch.equal(first[0].weight, second[0].weight)


def test_repeated_layers_have_separate_weights():
    body = (Conv(out_channels=1, kernel_size=1),)
    built = Architecture(input_shape=(1, 2, 2), layers=(Repeat(layers=body, times=3),)).build()
    assert len({id(p) for p in built.parameters()}) == 6


def test_architecture_and_layers_are_immutable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        EXAMPLE.layers = ()
    with pytest.raises(dataclasses.FrozenInstanceError):
        EXAMPLE.layers[0].out_channels = 8


# Error texts


def test_shape_error_names_layer_position():
    conv = Conv(out_channels=1, kernel_size=5)
    inner = Residual(layers=(Activation(), conv))
    architecture = Architecture(input_shape=(1, 4, 4), layers=(Activation(), Activation(), BatchNorm(), inner))
    text = "layers[3].layers[1]: conv: input shape is (1, 4, 4), expected at least 5x5 (its window)"
    with pytest.raises(ShapeError) as caught:
        architecture.output_shape  # noqa: B018
    assert str(caught.value) == text
    with pytest.raises(ShapeError) as caught:
        architecture.build()
    assert str(caught.value) == text


RELU = {"kind": "activation"}
REPEAT = {"kind": "repeat", "times": 2}
CONV = {"kind": "conv", "out_channels": 1, "kernel_size": 3}
ALL_KINDS = ", ".join(KINDS)
NEEDED = "an object with input_shape, layers, version"
A_SHAPE = "[channels, height, width], each an integer from 1 to 1e12"
A_LIST = "a list of at least one layer"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (None, f"None found, expected {NEEDED}"),
        ([], f"[] found, expected {NEEDED}"),
        ("conv", f"'conv' found, expected {NEEDED}"),
        ({}, "input_shape, layers, version are missing"),
        ({"version": 1, "layers": []}, "input_shape is missing"),
        (
            file_of(RELU, name="x", author="y"),
            "unknown keys 'author', 'name', expected one of input_shape, layers, version",
        ),
        *(
            (file_of(RELU, version=version), f"version is {version!r}, expected 1")
            for version in (2, 0, True, 1.0, "1", None, [])
        ),
        *(
            (file_of(RELU, input_shape=shape), f"input_shape is {shape!r}, expected {A_SHAPE}")
            for shape in ([1, 28], [0, 28, 28], [1, 28.0, 28], [True, 28, 28], "1x28", None, {}, [1, 2, 3, 4])
        ),
        *((file_of(layers=bad), f"layers is {bad!r}, expected {A_LIST}") for bad in ([], {}, None, "conv", 3)),
        (file_of(RELU, 5), "layers[1]: 5 found, expected an object with kind"),
        (file_of({"out_channels": 3}), "layers[0]: kind is missing"),
        (file_of({"kind": "convolution"}), f"layers[0]: kind is 'convolution', expected one of {ALL_KINDS}"),
        (file_of({"kind": ["conv"]}), f"layers[0]: kind is ['conv'], expected one of {ALL_KINDS}"),
        (file_of({"kind": "conv", "kernel_size": 3}), "layers[0]: out_channels is missing"),
        (file_of({"kind": "conv"}), "layers[0]: kernel_size, out_channels are missing"),
        (
            file_of({"kind": "linear", "out_features": 3, "units": 3}),
            "layers[0]: unknown key 'units', expected one of bias, kind, out_features",
        ),
        (file_of({**RELU, "layers": []}), "layers[0]: unknown key 'layers', expected function or kind"),
        (
            file_of({**CONV, "kernel_size": True}),
            "layers[0]: conv: kernel_size is True, expected an integer from 1 to 1e12",
        ),
        (
            file_of({"kind": "dropout", "rate": math.nan}),
            "layers[0]: dropout: rate is nan, expected a number of at least 0 and below 1",
        ),
        (
            file_of(RELU, {"kind": "residual", "layers": [RELU, {"kind": "elu"}]}),
            f"layers[1].layers[1]: kind is 'elu', expected one of {ALL_KINDS}",
        ),
        (
            file_of(RELU, {"kind": "residual", "layers": [{**REPEAT, "layers": []}]}),
            f"layers[1].layers[0].layers is [], expected {A_LIST}",
        ),
        (
            file_of(
                RELU,
                {"kind": "residual", "layers": [{"kind": "repeat", "times": 2, "layers": [RELU, CONV | {"x": 1}]}]},
            ),
            "layers[1].layers[0].layers[1]: unknown key 'x', expected one of "
            "bias, dilation, groups, kernel_size, kind, out_channels, padding, stride",
        ),
        (
            file_of({**REPEAT, "layers": [{"kind": "flatten"}]}),
            "layers[0]: repeat: flatten found in layers, expected layers that return a feature map",
        ),
        (
            file_of(CONV, CONV, CONV, {"kind": "residual", "layers": [RELU, CONV]}, input_shape=[1, 8, 9]),
            "layers[3].layers[1]: conv: input shape is (1, 2, 3), expected at least 3x3 (its window)",
        ),
        (
            file_of({"kind": "linear", "out_features": 10}),
            "layers[0]: linear: input shape is (1, 8, 8), expected (features,); put a flatten layer before it",
        ),
    ],
)
def test_invalid_file_error_names_position_and_expected_value(data, text):
    assert error_of(data) == f"architecture: {text}"


def test_error_abbreviates_long_value():
    text = error_of(file_of(layers={f"key {number}": number for number in range(100)}))
    assert (
        text
        == f"architecture: layers is {{'key 0': 0, 'key 1': 1, 'key 10': 10, 'key 11': 11, ...}}, expected {A_LIST}"
    )
    assert error_of("x" * 500).startswith("architecture: 'xxxxxxxxxxxx...xxxxxxxxxxxxx' found, expected ")


def nest(levels, kind="residual", **others):
    layer = RELU
    for _ in range(levels):
        layer = {"kind": kind, "layers": [layer], **others}
    return layer


@pytest.mark.parametrize("levels", [20, 300, 5000])
def test_nesting_deeper_than_20_lists_raises(levels):
    position = "layers[0]." * 20 + "layers"
    text = f"architecture: {position}: nested too deep, expected at most 20 nested lists of layers"
    assert error_of(file_of(nest(levels))) == text


@pytest.mark.parametrize(
    "layer", [nest(19), nest(19, projection=True), nest(19, "repeat", times=1, shared=True), nest(9, "repeat", times=2)]
)
def test_deepest_allowed_nesting_builds_and_runs(layer):
    architecture = Architecture.from_json(file_of(layer))
    assert architecture.build()(torch.rand(1, 1, 8, 8)).shape == (1, 1, 8, 8)


def test_error_abbreviates_deeply_nested_lists():
    deep = []
    for _ in range(5000):
        deep = [deep]
    assert error_of(deep) == f"architecture: [[[[[[[...]]]]]]] found, expected {NEEDED}"
    assert error_of(file_of(deep)) == "architecture: layers[0]: [[[[[[[...]]]]]]] found, expected an object with kind"
    assert error_of(file_of({**CONV, "stride": deep})).startswith(
        "architecture: layers[0]: conv: stride is [[[[[[[...]"
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"version": 1,', "not JSON (Expecting property name enclosed in double quotes: line 1 column 15 (char 14))"),
        (b"", "not JSON (Expecting value: line 1 column 1 (char 0))"),
        (b"\xff", "not JSON ('utf-8' codec can't decode byte 0xff in position 0: invalid start byte)"),
        (b"[]", f"[] found, expected {NEEDED}"),
        (b"[NaN]", f"[nan] found, expected {NEEDED}"),
    ],
)
def test_damaged_file_error_names_path_and_reason(tmp_path, content, reason):
    path = tmp_path / "damaged.json"
    path.write_bytes(content)
    with pytest.raises(ArchitectureError) as caught:
        Architecture.load(path)
    assert str(caught.value) == f"{path}: {reason}"


def test_file_beyond_recursion_limit_error_names_path(tmp_path):
    path = tmp_path / "deep.json"
    path.write_text("[" * 100_000)
    with pytest.raises(ArchitectureError) as caught:
        Architecture.load(path)
    assert str(caught.value).startswith(f"{path}: not JSON (maximum recursion depth exceeded")


def test_missing_file_or_directory_error_names_path(tmp_path):
    with pytest.raises(ArchitectureError) as caught:
        Architecture.load(tmp_path / "none.json")
    assert str(caught.value) == f"{tmp_path / 'none.json'}: No such file or directory"
    with pytest.raises(ArchitectureError) as caught:
        Architecture.load(tmp_path)
    assert str(caught.value) == f"{tmp_path / 'architecture.json'}: No such file or directory"
