"""Splits an architecture into blocks (layers at one resolution) and a head."""

from collections.abc import Iterator
from dataclasses import dataclass

from nas.architecture.architecture import Architecture
from nas.architecture.cost import cost_of
from nas.architecture.layers import Layer, Shape, measure_sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Consecutive layers of an architecture.

    Attributes:
        name: "block1", "block2", … or "head".
        start: index of the first layer in the architecture.
        layers: the layers of the block.
        input_shape: shape of the input for one example.
        output_shape: shape of the output for one example.
        params: trainable parameters of the block.
        macs: multiply-accumulates of the block for one example.
        receptive_field: side in input pixels of the region that one unit of the block's output sees. The head has that
            of the last feature map.
    """

    name: str
    start: int
    layers: tuple[Layer, ...]
    input_shape: Shape
    output_shape: Shape
    params: int
    macs: int
    receptive_field: int


def split_into_blocks(architecture: Architecture) -> list[Block]:
    """Returns the blocks of the architecture and its head; every layer belongs to exactly one of them.

    A block ends after a pool with a stride above 1 and the dropout that follows it. A layer that has parameters and a
    stride above 1 begins a block. The head begins at the first layer that ends the feature map. Raises `ShapeError` if
    a layer does not fit.
    """
    found: list[Block] = []
    shape, extent, jump = architecture.input_shape, 1, 1
    total = cost_of(architecture)
    for start, layers in _parts(architecture):
        m = measure_sequence(layers, shape)
        is_head = layers[0].ends_features
        extent += (m.extent - 1) * jump
        jump *= m.stride
        found.append(
            Block(
                name="head" if is_head else f"block{len(found) + 1}",
                start=start,
                layers=layers,
                input_shape=shape,
                output_shape=m.output_shape,
                params=m.params,
                macs=m.macs,
                receptive_field=total.receptive_field if is_head else extent,
            )
        )
        shape = m.output_shape
    return found


def _parts(architecture: Architecture) -> Iterator[tuple[int, tuple[Layer, ...]]]:
    """Yields the layers of each block and of the head, with the index of the first one."""
    part: list[Layer] = []
    shape, start = architecture.input_shape, 0
    has_ended = in_head = False  # whether the block has had its pool; whether the layers are those of the head
    for index, layer in enumerate(architecture.layers):
        m = layer.measure(shape)
        has_stride = m.stride > 1
        begins = layer.ends_features or (has_ended and layer.kind != "dropout") or (has_stride and m.params > 0)
        if part and begins and not in_head:
            yield start, tuple(part)
            part, start, has_ended = [], index, False
        in_head = in_head or layer.ends_features
        has_ended = has_ended or (has_stride and m.params == 0)
        part.append(layer)
        shape = m.output_shape
    if part:
        yield start, tuple(part)
