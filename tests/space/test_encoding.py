"""`encode_architecture` returns the values that reproduce a network, or names what lies outside the space."""

from dataclasses import replace

import pytest
from support.draws import architecture_or_none, draws
from support.paths import ROOT
from support.published import PUBLISHED

from nas.architecture.architecture import Architecture
from nas.architecture.composites import Repeat, Residual
from nas.architecture.layers import (
    Activation,
    AvgPool,
    BatchNorm,
    Conv,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Linear,
    MaxPool,
)
from nas.errors import ArchitectureError, ShapeError
from nas.space.domains import FloatRange
from nas.space.encoding import encode_architecture
from nas.space.network_parts import HEADS, ORDERS
from nas.space.search_space import SearchSpace

NUM_DRAWS = 300

AMBIGUOUS = SearchSpace.from_toml(
    # Nearly every layer can be read in several ways: 1x1 kernels, few widths, maps that shrink to a height of 1.
    {
        "input_shape": [4, 4, 7],
        "num_classes": 4,
        "network": {
            "num_blocks": {"low": 1, "high": 3},
            "order": list(ORDERS),
            "pool": ["max", "avg"],
            "head": list(HEADS),
            "residual": [False, True],
        },
        "block": {
            "num_convs": {"low": 1, "high": 3},
            "kernel_size": [1, 2],
            "padding": ["same", "valid"],
            "convolution": ["full", "separable"],
            "shared_repeats": {"low": 0, "high": 2},
            "transition": ["none", "before_pool", "after_pool"],
            "transition_channels": [4, 5],
            "dropout": [0.0, 0.1],
        },
        "conv": {"channels": [4, 5]},
    }
)
SPACES = {
    **{name: SearchSpace.load(name) for name in ("colour", "grey", "mnist", "mnist_wide")},
    "ambiguous": AMBIGUOUS,
}


# Networks inside the space


@pytest.mark.parametrize("name", SPACES)
def test_values_of_drawn_network_reproduce_it(name):
    space = SPACES[name]
    fillings = draws(space, NUM_DRAWS, seed=1)
    networks = [architecture_or_none(space, values) for values in draws(space, NUM_DRAWS)]
    possible = [(network, filling) for network, filling in zip(networks, fillings, strict=True) if network]
    assert len(possible) > NUM_DRAWS / 4
    for network, filling in possible:
        values = encode_architecture(space, network)
        for key, value in values.items():
            assert space.domains[key].accepts(value), key
            assert type(value) is type(filling[key]), key
        for ignored in (filling, *draws(space, 3, seed=2)):
            assert space.architecture({**ignored, **values}) == network


def test_values_omit_unused_parameters():
    space = SPACES["mnist_wide"]
    drawn = {**draws(space, 1)[0], "num_blocks": 2, "head": "gap", "residual": True}
    for block in (1, 2, 3):
        drawn |= {f"block{block}.num_convs": 2, f"block{block}.padding": "valid", f"block{block}.kernel_size": 3}
        drawn |= {f"block{block}.shared_repeats": 0, f"block{block}.transition": "none"}
    own = ("num_convs", "kernel_size", "padding", "convolution", "shared_repeats", "dropout", "conv1.channels")
    network = {"num_blocks", "activation", "order", "pool", "head"}
    first = {f"block1.{key}" for key in (*own, "conv2.channels", "transition")}
    assert encode_architecture(space, space.architecture(drawn)).keys() == network | first | {
        f"block2.{key}" for key in own
    }


@pytest.mark.parametrize(("name", "space"), [("7825", "mnist"), ("7825", "mnist_wide"), ("6136", "mnist_wide")])
def test_values_of_published_networks_equal_expected_values(name, space):
    values = encode_architecture(SPACES[space], Architecture.load(f"mnist-{name}"))
    expected = PUBLISHED[f"mnist-{name}"]
    last = f"block{expected['num_blocks']}.transition"
    unread = {key for key in expected if key.startswith(last)} | ({"residual"} if name == "6136" else set())
    assert values == {key: value for key, value in expected.items() if key not in unread}


@pytest.mark.parametrize(
    ("name", "space", "error"),
    [
        ("6136", "mnist", "block2.num_convs is 4, expected an integer from 1 to 3"),
        ("18962", "mnist", "layer 7: dropout(rate=0.05) found, expected max_pool(kernel_size=2, stride=2)"),
        (
            "26756",
            "mnist",
            "layer 21: conv(out_channels=40, kernel_size=3, bias=False) found, expected dropout(rate=0.05)",
        ),
        ("3928", "mnist_wide", "layer 12: dropout(rate=0.05) found, expected max_pool(kernel_size=2, stride=2)"),
        (
            "88584",
            "mnist_wide",
            "layer 1: conv(out_channels=8, kernel_size=3, bias=False) found, "
            "expected conv(out_channels=8, kernel_size=3)",
        ),
        (
            "6136",
            "grey",
            "num_blocks is 2, expected one of 3, 4, 5; block1.padding is valid, expected same; "
            "block2.num_convs is 4, expected an integer from 1 to 3",
        ),
        ("7825", "colour", "input_shape is (1, 28, 28), expected (3, 32, 32)"),
    ],
)
def test_error_names_why_published_network_is_outside_space(name, space, error):
    assert error_of(SPACES[space], Architecture.load(f"mnist-{name}")) == error


def test_published_folder_holds_expected_networks():
    names = {path.stem for path in (ROOT / "search_spaces" / "published").glob("*.json")}
    assert names == {f"mnist-{number}" for number in (3928, 6136, 7825, 18962, 26756, 88584)}


# Layers that the space cannot produce

NORM, RELU, POOL = BatchNorm(), Activation(function="relu"), MaxPool(kernel_size=2)
HEAD = GlobalAvgPool(), Conv(out_channels=4, kernel_size=1, bias=False), Flatten()
BASE = {"input_shape": [2, 9, 9], "num_classes": 4}


def conv(width, **changes):
    return Conv(**{"out_channels": width, "kernel_size": 3, "padding": 1, "bias": False, **changes})


def unit(width, *others, **changes):
    return conv(width, **changes), *(others or (NORM, RELU))


def error_of(space, architecture):
    with pytest.raises(ArchitectureError) as caught:
        encode_architecture(space, architecture)
    return str(caught.value)


def small_space(network=None, block=None, width=None, **base):
    network = {"num_blocks": [1, 2, 3], **(network or {})}
    block = {"num_convs": [1, 2], "transition": ["none", "before_pool", "after_pool"], **(block or {})}
    data = {**BASE, "network": network, "block": block, "conv": {"channels": width or {"low": 4, "high": 24}}, **base}
    return SearchSpace.from_toml(data)


def network(*layers):
    return Architecture(input_shape=(2, 9, 9), layers=layers)


def repeat(width, **changes):
    return Repeat(**{"layers": (conv(width), RELU), "times": 2, "shared": True, **changes})


POOL_TEXT = "max_pool(kernel_size=2, stride=2)"
CONV_TEXT = "conv(out_channels={}, kernel_size=3, padding=1, bias=False)"
A_HEAD = "expected a head (gap_conv, gap_linear, conv_gap, valid_conv, block_gap, gap)"


@pytest.mark.parametrize(
    ("layers", "error"),
    [
        ((POOL, *unit(6), *HEAD), f"layer 1: {POOL_TEXT} found, expected a convolution"),
        ((*unit(6), POOL, POOL, *unit(6), *HEAD), f"layer 5: {POOL_TEXT} found, expected a convolution"),
        ((*unit(6), POOL, *HEAD), "layer 5: global_avg_pool found, expected a convolution"),
        (HEAD, "layer 1: global_avg_pool found, expected a convolution"),
        ((NORM, *unit(6), *HEAD), f"layer 1: batch_norm found, expected {CONV_TEXT.format(6)}"),
        ((conv(6), *HEAD), "layer 2: global_avg_pool found, expected batch_norm"),
        ((*unit(6), conv(7), NORM, *HEAD), "layer 6: global_avg_pool found, expected activation(function=relu)"),
        (
            (*unit(6), *unit(7, NORM, Activation(function="silu")), *HEAD),
            "layer 6: activation(function=silu) found, expected activation(function=relu)",
        ),
        (
            (*unit(6), *unit(7, kernel_size=5, padding=2), *HEAD),
            "layer 4: conv(out_channels=7, kernel_size=5, padding=2, bias=False) found, "
            f"expected {CONV_TEXT.format(7)}",
        ),
        (
            unit(6, stride=2) + HEAD,
            "layer 1: conv(out_channels=6, kernel_size=3, stride=2, padding=1, bias=False) found, "
            f"expected {CONV_TEXT.format(6)}",
        ),
        (
            (*unit(6), *unit(7, NORM, RELU, Dropout(rate=0.1)), *HEAD),
            "layer 7: dropout(rate=0.1) found, expected global_avg_pool",
        ),
        (
            (*unit(6, NORM, RELU, Dropout(rate=0.1, per="channel")), *HEAD),
            "layer 4: dropout(rate=0.1, per=channel) found, expected dropout(rate=0.1)",
        ),
        (
            (*unit(6), MaxPool(kernel_size=3), *unit(7), *HEAD),
            f"layer 4: max_pool(kernel_size=3, stride=3) found, expected {POOL_TEXT}",
        ),
        (
            (*unit(6), POOL, *unit(7), AvgPool(kernel_size=2), *unit(8), *HEAD),
            f"layer 8: avg_pool(kernel_size=2, stride=2) found, expected {POOL_TEXT}",
        ),
        (
            (*unit(6), repeat(6, shared=False), NORM, *HEAD),
            "layer 4: repeat(times=2) found, expected repeat(times=2, shared=True)",
        ),
        (
            (*unit(6), repeat(6, layers=(conv(6), NORM, RELU)), NORM, *HEAD),
            "layer 4.2: batch_norm found, expected activation(function=relu)",
        ),
        (
            (repeat(2), NORM, *HEAD),
            "layer 1: repeat(times=2, shared=True) found, expected a convolution",
        ),
        (
            (Residual(layers=unit(2), projection=True), *HEAD),
            "layer 1: residual(projection=True) found, expected residual(projection=False)",
        ),
        (
            (Residual(layers=(*unit(6), Dropout(rate=0.1), NORM), projection=True), *HEAD),
            "layer 1.5: batch_norm found, expected nothing",
        ),
        (
            (Residual(layers=unit(6), projection=True), POOL, *unit(6), *HEAD),
            f"layer 3: {CONV_TEXT.format(6)} found, expected residual(projection=False)",
        ),
        (
            (*unit(6), GlobalAvgPool(), Flatten(), Linear(out_features=4, bias=False)),
            "layer 4: global_avg_pool, flatten, linear(out_features=4, bias=False) found, " + A_HEAD,
        ),
        (
            (*unit(6), Conv(out_channels=6, kernel_size=3, padding=1, groups=6, bias=False), NORM, RELU, *HEAD),
            f"layer 4: conv(out_channels=6, kernel_size=3, padding=1, bias=False, groups=6) found, "
            f"expected {CONV_TEXT.format(6)}",
        ),
        ((Flatten(), Linear(out_features=4)), "layer 1: flatten, linear(out_features=4) found, " + A_HEAD),
        (
            (*unit(6), GlobalAvgPool(), Flatten(), Linear(out_features=5)),
            "output_shape is (5,), expected (4,)",
        ),
    ],
)
def test_error_names_first_layer_that_space_cannot_produce(layers, error):
    assert error_of(small_space({"residual": [False, True]}), network(*layers)) == error


def test_misfitting_layers_raise_shape_error():
    with pytest.raises(ShapeError):
        encode_architecture(small_space(), network(*unit(6, kernel_size=11, padding=0), *HEAD))


# Values outside the space


@pytest.mark.parametrize(
    ("space", "layers", "error"),
    [
        (small_space(), unit(32), "block1.conv1.channels is 32, expected an integer from 4 to 24"),
        (
            small_space(width={"low": 4, "high": 8, "step": 2}),
            unit(5),
            "block1.conv1.channels is 5, expected an integer from 4 to 8 in steps of 2",
        ),
        (small_space({"head": ["gap", "conv_gap"]}), unit(6), "head is gap_conv, expected gap or conv_gap"),
        (small_space({"residual": True}), unit(6), "residual is false, expected true"),
        (small_space({"num_blocks": 2}), unit(6), "num_blocks is 1, expected 2"),
        (
            small_space({"num_blocks": {"low": 1, "high": 2}}),
            (*unit(6), POOL, *unit(6), POOL, *unit(30)),
            "num_blocks is 3, expected an integer from 1 to 2",
        ),
        (small_space(), (*unit(6), *unit(7), *unit(30)), "block1.num_convs is 3, expected 1 or 2"),
        (
            small_space(block={"dropout": {"low": 0.0, "high": 0.2, "step": 0.05}}),
            unit(6, NORM, RELU, Dropout(rate=0.07)),
            "block1.dropout is 0.07, expected a number from 0.0 to 0.2 in steps of 0.05",
        ),
        (
            small_space(block={"dropout": {"low": 0.0, "high": 0.2}}),
            unit(6, NORM, RELU, Dropout(rate=0.1234)),
            "block1.dropout is 0.1234, expected a number from 0.0 to 0.2 with 3 significant digits",
        ),
        (
            small_space({"activation": ["gelu", "silu"], "order": "act_norm"}),
            (*unit(3), *unit(25)),
            "activation is relu, expected gelu or silu; order is norm_act, expected act_norm; "
            "block1.conv1.channels is 3, expected an integer from 4 to 24; "
            "block1.conv2.channels is 25, expected an integer from 4 to 24",
        ),
        (
            small_space(block={"transition_channels": [4, 8]}),
            (*unit(6), *unit(5, kernel_size=1, padding=0), POOL, *unit(6)),
            "block1.transition_channels is 5, expected 4 or 8",
        ),
        (small_space(), (*unit(6), repeat(6), NORM), "block1.shared_repeats is 2, expected 0"),
    ],
)
def test_error_names_every_value_outside_space(space, layers, error):
    assert error_of(space, network(*layers, *HEAD)) == error


def test_fixed_values_are_omitted_or_named_in_error():
    space = small_space(block={"kernel_size": 3, "dropout": 0.1})
    dropped = NORM, RELU, Dropout(rate=0.1)
    values = encode_architecture(space, network(*unit(6, *dropped), *HEAD))
    assert values == {"num_blocks": 1, "block1.num_convs": 1, "block1.conv1.channels": 6}
    large = network(*unit(6, NORM, RELU, kernel_size=5, padding=2), *HEAD)
    assert error_of(space, large) == "block1.kernel_size is 5, expected 3; block1.dropout is 0.0, expected 0.1"


# Layers that can be read in several ways


@pytest.mark.parametrize(
    ("block", "layers", "expected"),
    [
        ({"shared_repeats": [0, 1]}, (*unit(6), *unit(6)), {"num_convs": 2, "shared_repeats": 0}),
        ({"shared_repeats": 1, "num_convs": [1, 2]}, (*unit(6), *unit(6)), {"num_convs": 1}),
        ({"shared_repeats": [0, 1]}, (*unit(7), *unit(6), *unit(6)), {"num_convs": 2, "shared_repeats": 1}),
        (
            {"kernel_size": [1, 3]},
            (*unit(6, kernel_size=1, padding=0), *unit(8, kernel_size=1, padding=0), POOL, *unit(6)),
            {"num_convs": 2, "transition": "none"},
        ),
        (
            {"kernel_size": [1, 3], "num_convs": [1, 3]},
            (*unit(6, kernel_size=1, padding=0), *unit(8, kernel_size=1, padding=0), POOL, *unit(6)),
            {"num_convs": 1, "transition": "before_pool"},
        ),
        (
            {"kernel_size": [1, 3], "num_convs": 1},
            (*unit(6), POOL, *unit(8, kernel_size=1, padding=0), *unit(6, kernel_size=1, padding=0)),
            {"transition": "after_pool"},
        ),
        (
            {"kernel_size": [1, 3], "padding": ["valid", "same"]},
            unit(6, kernel_size=1, padding=0),
            {"padding": "same", "kernel_size": 1},
        ),
        ({"kernel_size": 1, "padding": "valid"}, unit(6, kernel_size=1, padding=0), {}),
    ],
)
def test_ambiguous_layers_are_read_as_values_inside_space(block, layers, expected):
    space = small_space(block={"transition_channels": 8, **block})
    values = encode_architecture(space, network(*layers, *HEAD))
    found = {key.removeprefix("block1."): value for key, value in values.items() if key.startswith("block1.")}
    assert {key: found[key] for key in expected} == expected
    for drawn in draws(space, 5):
        assert space.architecture({**drawn, **values}) == network(*layers, *HEAD)


def test_unpadded_block_needs_no_residual_in_residual_space():
    space = small_space({"residual": True}, {"padding": ["same", "valid"], "kernel_size": [1, 3]})
    layers = (*unit(6, kernel_size=1, padding=0), POOL, Residual(layers=unit(6)), *HEAD)
    values = encode_architecture(space, network(*layers))
    assert (values["block1.padding"], values["block2.padding"]) == ("valid", "same")


def test_valid_conv_head_equals_conv_gap_layers_on_map_of_height_1():
    row = replace(small_space({"head": "valid_conv"}), input_shape=(2, 1, 9))
    classify = Conv(out_channels=4, kernel_size=1, bias=False)
    layers = (*unit(6), classify, GlobalAvgPool(), Flatten())
    architecture = Architecture(input_shape=(2, 1, 9), layers=layers)
    assert row.architecture({**draws(row, 1)[0], **encode_architecture(row, architecture)}) == architecture
    assert error_of(small_space({"head": "valid_conv"}), network(*layers)) == "head is conv_gap, expected valid_conv"


def test_dropout_rate_matches_step_despite_rounding():
    space = small_space(block={"dropout": {"low": 0.0, "high": 0.2, "step": 0.05}})
    assert isinstance(space.domains["block1.dropout"], FloatRange)
    values = encode_architecture(space, network(*unit(6, NORM, RELU, Dropout(rate=0.15)), *HEAD))
    assert values["block1.dropout"] == 0.15
