"""Blocks of an architecture: they hold every layer once, and their costs add up."""

from random import Random

import pytest
from hypothesis import given
from support.architectures import architectures, draw_architecture
from support.effort import seeds

from nas.architecture.architecture import Architecture
from nas.architecture.blocks import split_into_blocks
from nas.architecture.cost import cost_of, layer_table
from nas.architecture.layers import Activation, Conv, Dropout, Flatten, GlobalAvgPool, Linear, MaxPool
from nas.architecture.summary import summarise
from nas.errors import ShapeError


@given(architectures())
def test_blocks_hold_every_layer_once_and_costs_add_up(architecture):
    parts = split_into_blocks(architecture)
    assert tuple(layer for part in parts for layer in part.layers) == architecture.layers
    assert [part.start for part in parts] == [sum(len(p.layers) for p in parts[:i]) for i in range(len(parts))]
    cost = cost_of(architecture)
    assert sum(part.params for part in parts) == cost.params
    assert sum(part.macs for part in parts) == cost.macs
    assert parts[-1].receptive_field == cost.receptive_field
    assert [part.input_shape for part in parts] == [architecture.input_shape, *(p.output_shape for p in parts[:-1])]
    assert parts[-1].output_shape == architecture.output_shape
    assert len({part.name for part in parts}) == len(parts)


@given(architectures())
def test_summary_rows_match_layer_table_blocks_and_receptive_field(architecture):
    rows = summarise(architecture).rows
    assert [row.layer for row in rows] == layer_table(architecture)
    assert {row.layer.position: row.block for row in rows if row.block} == {
        str(part.start): part.name for part in split_into_blocks(architecture)
    }
    seen = [(row.layer.receptive_field, row.receptive_field) for row in rows if not row.layer.depth]
    features = [field for _, field in seen if field is not None]
    assert [field for _, field in seen] == [*features, *[None] * (len(seen) - len(features))]
    assert features == [own for own, _ in seen][: len(features)]
    assert (features or [1])[-1] == cost_of(architecture).receptive_field


@pytest.mark.parametrize("seed", seeds(20))
def test_only_head_ends_feature_map(seed):
    for part in split_into_blocks(draw_architecture(Random(seed))):
        assert part.layers[0].ends_features == (part.name == "head")
        assert not any(layer.ends_features for layer in part.layers) or part.name == "head"


def test_pools_end_blocks_and_strided_convolutions_begin_them():
    def conv(stride=1):
        return Conv(out_channels=4, kernel_size=3, padding=1, stride=stride)

    layers = (
        *(conv(), MaxPool(kernel_size=2), Dropout(rate=0.1)),
        *(conv(), Activation()),
        *(conv(stride=2), Activation(), conv()),
        *(GlobalAvgPool(), Flatten(), Linear(out_features=10)),
    )
    parts = split_into_blocks(Architecture(input_shape=(1, 28, 28), layers=layers))
    assert [(part.name, len(part.layers)) for part in parts] == [
        ("block1", 3),
        ("block2", 2),
        ("block3", 3),
        ("head", 3),
    ]
    assert [part.output_shape for part in parts] == [(4, 14, 14), (4, 14, 14), (4, 7, 7), (10,)]
    assert [part.receptive_field for part in parts] == [4, 8, 20, 20]


def test_blocks_raise_shape_error_naming_misfit_layer():
    with pytest.raises(ShapeError, match=r"^layers\[1\]: "):
        split_into_blocks(
            Architecture(input_shape=(1, 8, 8), layers=(Conv(out_channels=2, kernel_size=3), Linear(out_features=2)))
        )
