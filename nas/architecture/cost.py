"""Cost of a network in integers, computed without torch in microseconds."""

from collections.abc import Mapping
from dataclasses import dataclass

from nas.architecture.architecture import Architecture
from nas.architecture.layers import Layer, Shape
from nas.errors import ShapeError

FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class Cost:
    """The metrics that constraints may limit.

    params: trainable parameters.
    macs: multiply-accumulates of convolutions and linear layers, one example.
    receptive_field: side, in input pixels, of what one unit of the last feature map before global pooling or
        flattening sees; not clipped at the border.
    peak_activation_bytes: the largest inputs + outputs alive at once over the layers, one example, float32.
    weight_bytes: parameters and buffers as an exported file stores them.
    """

    params: int
    macs: int
    receptive_field: int
    peak_activation_bytes: int
    weight_bytes: int


METRICS: tuple[str, ...] = tuple(Cost.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class MetricLabel:
    """A metric in words.

    short: alone, as the head of a column, and in a title. unit: what it counts, empty where `short` says that.
    noun: behind a number in a sentence: "7,825 parameters", "28 pixels of receptive field".
    """

    short: str
    unit: str
    noun: str

    @property
    def axis(self) -> str:
        """As an axis has it: what, and in which unit."""
        return f"{self.short}, {self.unit}" if self.unit else self.short


METRIC_LABELS: Mapping[str, MetricLabel] = {
    "params": MetricLabel("parameters", "", "parameters"),
    "macs": MetricLabel("MACs", "one example", "multiply-accumulates an image"),
    "receptive_field": MetricLabel("receptive field", "input pixels", "pixels of receptive field"),
    "peak_activation_bytes": MetricLabel("peak activation", "bytes", "bytes of activations at the peak"),
    "weight_bytes": MetricLabel("weights", "bytes", "bytes of weights"),
}
"""Every metric of `Cost` in words; tables, figures, reports and model cards take theirs from here."""


def cost_of(architecture: Architecture) -> Cost:
    """The network's cost; raises `ShapeError` where a layer does not fit.

    Receptive field arithmetic: `rf += (kernel - 1) * dilation * jump; jump *= stride`
    (Araujo et al., "Computing Receptive Fields of Convolutional Neural Networks", 2019).
    """
    shape = architecture.input_shape
    params = macs = buffer_bytes = peak = receptive_field = 0
    extent = jump = 1
    for index, layer in enumerate(architecture.layers):
        try:
            m = layer.measure(shape)
        except ShapeError as error:
            raise error.inside(f"layers[{index}]") from None
        if layer.ends_features and not receptive_field:
            receptive_field = extent
        shape = m.output_shape
        params += m.params
        macs += m.macs
        buffer_bytes += m.buffer_bytes
        peak = max(peak, m.peak_elements)
        extent += (m.extent - 1) * jump
        jump *= m.stride
    return Cost(params, macs, receptive_field or extent, peak * FLOAT_BYTES, params * FLOAT_BYTES + buffer_bytes)


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One line of a layer table. `depth` is 0 for the architecture's own layers, whose params and macs add up."""

    position: str
    kind: str
    module: str
    output_shape: Shape
    params: int
    macs: int
    receptive_field: int
    depth: int


def layer_table(architecture: Architecture) -> list[LayerRow]:
    """A row a layer, each composite's layers (once, however often repeated) below it.

    The receptive field is that of the layer's output; a global pool counts as a window as large as its map.
    """
    architecture.output_shape  # noqa: B018  # raises with the position where a layer does not fit
    rows: list[LayerRow] = []

    def add(layers: tuple[Layer, ...], shape: Shape, extent: int, jump: int, prefix: str, depth: int) -> None:
        for index, layer in enumerate(layers):
            m = layer.measure(shape)
            grown = extent + (m.extent - 1) * jump
            position = f"{prefix}{index}"
            text = layer.title() if layer.children() else layer.module(shape).source()
            rows.append(LayerRow(position, layer.kind, text, m.output_shape, m.params, m.macs, grown, depth))
            add(layer.children(), shape, extent, jump, f"{position}.", depth + 1)
            shape, extent, jump = m.output_shape, grown, jump * m.stride

    add(architecture.layers, architecture.input_shape, 1, 1, "", 0)
    return rows
