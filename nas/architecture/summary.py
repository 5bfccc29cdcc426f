"""Cost, blocks and layer rows of a network, computed once for all displays."""

from dataclasses import dataclass

from nas.architecture.architecture import Architecture
from nas.architecture.blocks import Block, blocks
from nas.architecture.cost import Cost, LayerRow, cost_of, layer_table


@dataclass(frozen=True, slots=True, kw_only=True)
class SummaryRow:
    """A row of the layer table.

    block: the name of the block that begins with this layer, empty where none does. receptive_field: what the layer's
    output sees, in input pixels; None in the head, which has no feature map.
    """

    layer: LayerRow
    block: str
    receptive_field: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSummary:
    """A network as pictures, model cards and reports show it."""

    cost: Cost
    blocks: tuple[Block, ...]
    rows: tuple[SummaryRow, ...]


def summarise(architecture: Architecture) -> NetworkSummary:
    """The summary of a network; raises `ShapeError` where a layer does not fit."""
    parts = blocks(architecture)
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
