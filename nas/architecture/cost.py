"""Computes the cost of a network as integers, in microseconds and without torch."""

from collections.abc import Mapping
from dataclasses import dataclass

from nas.architecture.architecture import Architecture
from nas.architecture.layers import Layer, Shape
from nas.errors import ShapeError

FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of a network: the metrics that constraints can limit.

    Attributes:
        params: trainable parameters.
        macs: multiply-accumulates of convolutions and linear layers for one example.
        receptive_field: side in input pixels of the region that one unit of the last feature map sees, not clipped at
            the border. The last feature map is the one before global pooling or flattening.
        peak_activation_bytes: largest number of bytes of inputs and outputs alive at once, for one example in float32.
        weight_bytes: bytes of the parameters and buffers in an exported file.
    """

    params: int
    macs: int
    receptive_field: int
    peak_activation_bytes: int
    weight_bytes: int

    def metrics(self) -> dict[str, int]:
        """Returns the metrics that every study stores, by name."""
        return {name: getattr(self, name) for name in METRICS}

    def lines(self) -> list[str]:
        """Returns all metrics as two lines of text."""
        return [
            f"{self.params:,} parameters, {self.macs:,} MACs, receptive field {self.receptive_field} pixels",
            f"{self.weight_bytes:,} bytes of weights, {self.peak_activation_bytes:,} of activations at the peak",
        ]


METRICS: tuple[str, ...] = tuple(Cost.__dataclass_fields__)
"""Names of the metrics of a `Cost`, which every study stores."""


@dataclass(frozen=True, slots=True)
class MetricLabel:
    """Display texts of a metric.

    Attributes:
        short: name in column heads and titles.
        unit: unit on axes; empty if `short` is the unit.
        noun: text after a number in a sentence, as in "7,825 parameters" or "28 pixels of receptive field".
    """

    short: str
    unit: str
    noun: str

    @property
    def axis(self) -> str:
        """Label of an axis: the name and the unit."""
        return f"{self.short}, {self.unit}" if self.unit else self.short


METRIC_LABELS: Mapping[str, MetricLabel] = {
    "params": MetricLabel("parameters", "", "parameters"),
    "macs": MetricLabel("MACs", "one example", "multiply-accumulates an image"),
    "receptive_field": MetricLabel("receptive field", "input pixels", "pixels of receptive field"),
    "peak_activation_bytes": MetricLabel("peak activation", "bytes", "bytes of activations at the peak"),
    "weight_bytes": MetricLabel("weights", "bytes", "bytes of weights"),
    "float_arena_bytes": MetricLabel("scratch memory of C", "bytes", "bytes of scratch memory in C"),
    "int8_arena_bytes": MetricLabel("scratch memory of int8 C", "bytes", "bytes of scratch memory in int8 C"),
    "int8_weight_bytes": MetricLabel("constants of int8 C", "bytes", "bytes of constants in int8 C"),
    "m0_instructions": MetricLabel("instructions on Cortex-M0", "one image", "instructions an image on a Cortex-M0"),
    "m4_instructions": MetricLabel("instructions on Cortex-M4", "one image", "instructions an image on a Cortex-M4"),
}
"""Display texts of every metric that can be limited, for tables, figures, reports and model cards."""


def cost_of(architecture: Architecture) -> Cost:
    """Returns the cost of a network, without building it; raises `ShapeError` if a layer does not fit.

    The receptive field follows `rf += (kernel - 1) * dilation * jump; jump *= stride`
    (Araujo et al., "Computing Receptive Fields of Convolutional Neural Networks", 2019).
    """
    shape = architecture.input_shape
    params = macs = buffer_bytes = peak = receptive_field = 0
    extent = jump = 1
    for index, layer in enumerate(architecture.layers):
        try:
            m = layer.measure(shape)
        except ShapeError as error:
            raise error.with_prefix(f"layers[{index}]") from None
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
    """A row of the layer table.

    Attributes:
        position: index of the layer from 0, after the position of the composite that contains it: "3" or "3.0".
        kind: kind of the layer.
        module: source of the module's constructor call; the title of a composite.
        output_shape: shape of the output for one example.
        params: trainable parameters of the layer.
        macs: multiply-accumulates of the layer for one example.
        receptive_field: side in input pixels of the region that one unit of the layer's output sees.
        depth: number of composites around the layer. Params and macs of the rows of depth 0 add up to the network's.
    """

    position: str
    kind: str
    module: str
    output_shape: Shape
    params: int
    macs: int
    receptive_field: int
    depth: int


def layer_table(architecture: Architecture) -> list[LayerRow]:
    """Returns one row per layer; the layers of a composite follow it, and repeated layers appear once.

    A global pool counts as a window as large as its input. Raises `ShapeError` if a layer does not fit.
    """
    architecture.output_shape  # noqa: B018  # raises with the position of a layer that does not fit
    rows: list[LayerRow] = []

    def add(layers: tuple[Layer, ...], shape: Shape, extent: int, jump: int, prefix: str, depth: int) -> None:
        for index, layer in enumerate(layers):
            m = layer.measure(shape)
            grown = extent + (m.extent - 1) * jump
            position = f"{prefix}{index}"
            text = layer.title() if layer.children() else layer.module_call(shape).source()
            rows.append(LayerRow(position, layer.kind, text, m.output_shape, m.params, m.macs, grown, depth))
            add(layer.children(), shape, extent, jump, f"{position}.", depth + 1)
            shape, extent, jump = m.output_shape, grown, jump * m.stride

    add(architecture.layers, architecture.input_shape, 1, 1, "", 0)
    return rows
