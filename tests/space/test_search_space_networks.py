from dataclasses import replace

import pytest
from support.draws import draws
from support.paths import ROOT
from support.published import COMMON, PUBLISHED, SAME, VALID, blocks

from nas.architecture.architecture import Architecture
from nas.architecture.composites import DepthwiseSeparable, Repeat, Residual
from nas.architecture.cost import cost_of, layer_table
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
from nas.errors import ShapeError
from nas.space.search_space import SearchSpace

FOLDER = ROOT / "search_spaces"


# Published networks


def networks(space, values):
    """Returns twenty networks with the given values; the other parameters are drawn at random."""
    for name, value in values.items():
        assert space.domains[name].accepts(value), name
    return [space.architecture({**drawn, **values}) for drawn in draws(space, 20)]


def without_dropout(architecture):
    return replace(architecture, layers=tuple(x for x in architecture.layers if not isinstance(x, Dropout)))


@pytest.mark.parametrize(
    ("name", "space_name"),
    [("mnist-7825", "mnist"), *((name, "mnist_wide") for name in PUBLISHED)],
)
def test_space_produces_published_network_without_dropout(name, space_name):
    published = without_dropout(Architecture.load(FOLDER / "published" / f"{name}.json"))
    space = SearchSpace.load(space_name)
    for architecture in networks(space, PUBLISHED[name]):
        found = without_dropout(architecture)
        assert found == published
        assert cost_of(found) == cost_of(published)
        assert [(row.kind, row.output_shape, row.params, row.receptive_field) for row in layer_table(found)] == [
            (row.kind, row.output_shape, row.params, row.receptive_field) for row in layer_table(published)
        ]


@pytest.mark.parametrize("name", ["mnist-7825", "mnist-6136"])
def test_space_produces_published_network_with_dropout(name):
    published = Architecture.load(FOLDER / "published" / f"{name}.json")
    assert networks(SearchSpace.load("mnist_wide"), PUBLISHED[name]) == [published] * 20


def test_space_produces_network_with_published_facts_of_mnist_7784():
    values = blocks(
        {**SAME, "widths": [6, 8, 10]},
        {**VALID, "widths": [11, 12, 15]},
        {**SAME, "widths": [18]},
        head="gap_linear",
        **COMMON,
    )
    architecture, *others = networks(SearchSpace.load("mnist"), values)
    assert others == [architecture] * 19
    assert cost_of(architecture).params == 7784
    assert cost_of(architecture).receptive_field == 30
    rows = layer_table(architecture)
    assert rows[-1].receptive_field == 42
    kinds = [row.kind for row in rows]
    assert kinds.count("max_pool") == 2
    assert kinds.count("conv") == 7
    assert [kinds[index + 1] for index, kind in enumerate(kinds) if kind == "conv"] == ["batch_norm"] * 7
    widths = [row.output_shape[0] for row in rows if row.kind == "conv"]
    assert widths == [6, 8, 10, 11, 12, 15, 18]
    assert kinds[-3:] == ["global_avg_pool", "flatten", "linear"]
    assert isinstance(architecture.layers[-3], GlobalAvgPool)
    assert architecture.layers[-1] == Linear(out_features=10, bias=True)
    assert [row.output_shape for row in rows[-4:]] == [(18, 4, 4), (18, 1, 1), (18,), (10,)]
    assert rows[-1].params == 18 * 10 + 10
    assert [row.output_shape[1] for row in rows if row.kind == "conv"] == [28, 28, 28, 12, 10, 8, 4]


# Layers that the parameters produce

CONV = {"kernel_size": 3, "padding": 1, "bias": False}
NORM, RELU, POOL = BatchNorm(), Activation(function="relu"), MaxPool(kernel_size=2)
GAP, FLAT = GlobalAvgPool(), Flatten()
CLASSIFY = Conv(out_channels=4, kernel_size=1, bias=False)


def unit(width, *others, bias=False, **changes):
    return Conv(**{**CONV, "out_channels": width, "bias": bias, **changes}), *(others or (NORM, RELU))


def tail(width, **changes):
    """A unit and the usual head."""
    return *unit(width, **changes), GAP, CLASSIFY, FLAT


@pytest.mark.parametrize(
    ("network", "block", "layers"),
    [
        ({}, {}, tail(6)),
        ({"head": "gap_conv"}, {"num_convs": 2}, (*unit(6), *tail(6))),
        ({"head": "gap_linear"}, {}, (*unit(6), GAP, FLAT, Linear(out_features=4))),
        ({"head": "conv_gap"}, {}, (*unit(6), CLASSIFY, GAP, FLAT)),
        ({"head": "block_gap"}, {}, (*unit(6), Conv(out_channels=4, **CONV), GAP, FLAT)),
        (
            {"head": "block_gap"},
            {"convolution": "separable", "kernel_size": 5, "padding": "valid"},
            (
                *(DepthwiseSeparable(out_channels=6, kernel_size=5, bias=False), NORM, RELU),
                *(DepthwiseSeparable(out_channels=4, kernel_size=5, bias=False), GAP, FLAT),
            ),
        ),
        (
            {"head": "block_gap", "order": "act", "residual": True},
            {"shared_repeats": 2},
            (
                Residual(
                    layers=(
                        *unit(6, RELU, bias=True),
                        Repeat(layers=unit(6, RELU, bias=True), times=2, shared=True),
                    ),
                    projection=True,
                ),
                *(Conv(out_channels=4, **CONV), GAP, FLAT),
            ),
        ),
        ({"head": "gap"}, {"num_convs": 2}, (*unit(6), *unit(4), GAP, FLAT)),
        (
            {"head": "valid_conv"},
            {"padding": "valid"},  # 9x9 becomes 7x7
            (*unit(6, padding=0), Conv(out_channels=4, kernel_size=7, bias=False), FLAT),
        ),
        (
            {"activation": "silu"},
            {"kernel_size": 5},
            (*unit(6, NORM, Activation(function="silu"), kernel_size=5, padding=2), GAP, CLASSIFY, FLAT),
        ),
        ({"order": "act_norm"}, {"dropout": 0.2}, (*unit(6, RELU, NORM, Dropout(rate=0.2)), GAP, CLASSIFY, FLAT)),
        ({"order": "act"}, {}, (*unit(6, RELU, bias=True), GAP, CLASSIFY, FLAT)),
        ({"num_blocks": 2}, {}, (*unit(6), POOL, *tail(6))),
        ({"num_blocks": 2, "pool": "avg"}, {}, (*unit(6), AvgPool(kernel_size=2), *tail(6))),
        (
            {"num_blocks": 2},
            {"transition": "before_pool", "transition_channels": 5, "dropout": 0.1},
            (
                *unit(6, NORM, RELU, Dropout(rate=0.1)),
                *unit(5, kernel_size=1, padding=0),
                POOL,
                *unit(6, NORM, RELU, Dropout(rate=0.1)),
                *(GAP, CLASSIFY, FLAT),
            ),
        ),
        (
            {"num_blocks": 2},
            {"transition": "after_pool", "transition_channels": 5},
            (*unit(6), POOL, *unit(5, kernel_size=1, padding=0), *tail(6)),
        ),
        (
            {},
            {"convolution": "separable"},
            (DepthwiseSeparable(out_channels=6, **CONV), NORM, RELU, GAP, CLASSIFY, FLAT),
        ),
        (
            {},
            {"shared_repeats": 3},
            (
                *unit(6),
                Repeat(layers=(Conv(out_channels=6, **CONV), RELU), times=3, shared=True),
                *(NORM, GAP, CLASSIFY, FLAT),
            ),
        ),
        (
            {"order": "act"},
            {"shared_repeats": 2, "dropout": 0.1},
            (
                *unit(6, RELU, Dropout(rate=0.1), bias=True),
                Repeat(layers=unit(6, RELU, bias=True), times=2, shared=True),
                *(Dropout(rate=0.1), GAP, CLASSIFY, FLAT),
            ),
        ),
        (
            {"residual": True, "num_blocks": 2},
            {},
            (
                Residual(layers=unit(6), projection=True),
                POOL,
                Residual(layers=unit(6), projection=False),
                *(GAP, CLASSIFY, FLAT),
            ),
        ),
        ({"residual": True}, {"padding": "valid"}, tail(6, padding=0)),
    ],
)
def test_parameters_produce_expected_layers(network, block, layers):
    data = {"network": {"num_blocks": 1, **network}, "block": {"num_convs": 1, **block}, "conv": {"channels": 6}}
    space = SearchSpace.from_toml({"input_shape": [2, 9, 9], "num_classes": 4, **data})
    assert space.architecture({}) == Architecture(input_shape=(2, 9, 9), layers=layers)
    assert space.architecture({}).output_shape == (4,)


def test_valid_conv_head_on_oblong_map_adds_global_pool():
    data = {"network": {"num_blocks": 1, "head": "valid_conv"}, "block": {"num_convs": 1}, "conv": {"channels": 6}}
    space = SearchSpace.from_toml({"input_shape": [2, 9, 7], "num_classes": 4, **data})
    head = Conv(out_channels=4, kernel_size=7, bias=False), GAP, FLAT
    assert space.architecture({}) == Architecture(input_shape=(2, 9, 7), layers=(*unit(6), *head))


def test_valid_conv_head_after_misfitting_block_raises_shape_error():
    block = {"num_convs": 1, "padding": "valid", "kernel_size": 5}
    data = {"network": {"num_blocks": 1, "head": "valid_conv"}, "block": block, "conv": {"channels": 6}}
    with pytest.raises(ShapeError):
        SearchSpace.from_toml({"input_shape": [1, 4, 4], **data}).architecture({})
