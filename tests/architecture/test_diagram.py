"""Diagrams of architectures: they show the blocks, are deterministic, and hold no active content."""

import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given, settings
from support.architectures import architectures
from support.effort import examples

from nas.architecture.architecture import Architecture
from nas.architecture.blocks import split_into_blocks
from nas.architecture.composites import DepthwiseSeparable, Repeat, Residual
from nas.architecture.cost import cost_of
from nas.architecture.diagram import architecture_svg, layer_lines
from nas.architecture.layers import Activation, AvgPool, BatchNorm, Conv, Dropout, Linear, MaxPool, SqueezeExcite
from nas.errors import ShapeError


def texts(svg):
    return [element.text for element in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_picture_shows_blocks_shapes_params_and_receptive_fields():
    architecture = Architecture.load("mnist-7825")
    svg = architecture_svg(architecture, title="Trial 7 <of> $many$ & more")
    shown = texts(svg)
    assert "Trial 7 <of> $many$ & more" in shown
    assert "7,825 parameters, 1,302,433 MACs, receptive field 32" in shown
    for part in split_into_blocks(architecture):
        assert part.name in shown
        assert "x".join(map(str, part.output_shape)) in shown
        assert f"{part.params:,}" in shown
        assert str(part.receptive_field) in shown
        assert set(layer_lines(part.layers)) <= set(shown)
    assert architecture_svg(architecture, title="Trial 7 <of> $many$ & more") == svg
    assert len(svg) < 30_000


@settings(max_examples=examples(30))
@given(architectures())
def test_any_picture_shows_params_and_holds_no_scripts_or_links(architecture):
    svg = architecture_svg(architecture)
    assert f"{cost_of(architecture).params:,} parameters, " in " ".join(texts(svg))
    names = {element.tag.rpartition("}")[2] for element in ET.fromstring(svg).iter()}
    assert not names & {"script", "image", "foreignObject", "a"}
    assert not re.search(rb"""(?:href|src)=["'](?!#)|url\((?!#)|\son\w+=""", svg)


def test_layer_lines_group_units_and_indent_composites():
    conv = Conv(out_channels=8, kernel_size=3, padding=1)
    unit = (conv, BatchNorm(), Activation())
    shared = Repeat(layers=(conv, Activation(function="leaky_relu")), times=2, shared=True)
    layers = (
        *(*unit, *unit, Dropout(rate=0.05, per="channel")),
        *(MaxPool(kernel_size=2), MaxPool(kernel_size=3, stride=2)),
        Residual(layers=(*unit, SqueezeExcite(), shared), projection=True),
        DepthwiseSeparable(out_channels=5, kernel_size=5, stride=2, dilation=2),
        Conv(out_channels=4, kernel_size=1, groups=2),
        *(AvgPool(kernel_size=2), Linear(out_features=10)),
    )
    assert layer_lines(layers) == [
        "conv 3x3 → 8, batch norm, relu",
        "conv 3x3 → 8, batch norm, relu, dropout 0.05 of channels",
        "max pool 2x2",
        "max pool 3x3 stride 2",
        "residual, 1x1 projection:",
        "    conv 3x3 → 8, batch norm, relu",
        "    squeeze-excite 1/4",
        "    2 times, shared weights:",
        "        conv 3x3 → 8, leaky relu",
        "separable conv 5x5 → 5 stride 2 dilation 2",
        "conv 1x1 → 4 groups 2",
        "avg pool 2x2",
        "linear → 10",
    ]
    assert layer_lines(unit * 3) == ["3 x conv 3x3 → 8, batch norm, relu"]


def test_picture_of_misfitting_network_raises_shape_error():
    with pytest.raises(ShapeError):
        architecture_svg(Architecture(input_shape=(1, 8, 8), layers=(Linear(out_features=2),)))
