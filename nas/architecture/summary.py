"""Computes the cost, blocks and layer rows of a network once for everything that displays it."""

from dataclasses import dataclass

from nas.architecture.architecture import Architecture
from nas.architecture.blocks import Block, split_into_blocks
from nas.architecture.cost import Cost, LayerRow, cost_of, layer_table


@dataclass(frozen=True, slots=True, kw_only=True)
class SummaryRow:
    """A row of the layer table with its block.

    Attributes:
        layer: the row of the layer.
        block: name of the block that begins with this layer; empty if none does.
        receptive_field: receptive field of the layer's output in input pixels; None in the head, which has no feature
            map.
    """

    layer: LayerRow
    block: str
    receptive_field: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSummary:
    """Cost, blocks and layer rows of a network, for diagrams, model cards and reports."""

    cost: Cost
    blocks: tuple[Block, ...]
    rows: tuple[SummaryRow, ...]


def summarise(architecture: Architecture) -> NetworkSummary:
    """Returns the summary of a network; raises `ShapeError` if a layer does not fit."""
    parts = split_into_blocks(architecture)
    starts = {str(part.start): part.name for part in parts}
    head = next((part.start for part in parts if part.name == "head"), len(architecture.layers))
    rows = [
        SummaryRow(
            layer=layer,
            block=starts.get(layer.position, ""),
            receptive_field=layer.receptive_field if int(layer.position.partition(".")[0]) < head else None,
        )
        for layer in layer_table(architecture)
    ]
    return NetworkSummary(cost=cost_of(architecture), blocks=tuple(parts), rows=tuple(rows))
