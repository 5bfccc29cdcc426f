"""Shows an architecture: as SVG with a row for each block, and as a table with a row for each layer."""

import base64
import io
import textwrap
from collections.abc import Sequence
from itertools import groupby
from math import prod, sqrt
from typing import TYPE_CHECKING, Any

from nas.architecture.architecture import Architecture
from nas.architecture.blocks import Block
from nas.architecture.composites import DepthwiseSeparable, Repeat, Residual
from nas.architecture.cost import METRIC_LABELS, Cost, cost_of, layer_table
from nas.architecture.layers import (
    Activation,
    AvgPool,
    BatchNorm,
    Conv,
    Convolution,
    Dropout,
    Flatten,
    Layer,
    Linear,
    MaxPool,
    Shape,
    SqueezeExcite,
    shape_text,
)
from nas.architecture.summary import summarise
from nas.text import html_lines, table_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

# All lengths are in inches, from the left and from the top.
WIDTH = 8.0
MARGIN, GAP, LINE = 0.15, 0.2, 0.205
GLYPH, GLYPH_SIDE = 0.75, 0.85  # centre of the rectangles that show output shapes, and their largest side
NAME, SHAPE, PARAMS, FIELD = 1.5, 5.3, 6.45, 7.8  # left edge of the names, right edges of the other columns

LONGEST = 74  # characters per line
INK, FADED, EDGE = "#1a1a1a", "#5c5c5c", "#b8b8b8"
# From the palette in reports/figures.py.
FILLS = {"input": "#ffffff", "block": "#56b4e9", "head": "#e69f00"}


def architecture_svg(architecture: Architecture, *, title: str = "") -> bytes:
    """Returns an SVG of the architecture, with the same bytes in every call, no scripts and no external references.

    A rectangle next to each block shows its output shape. Its height grows with the square root of the feature map's
    side, its width with the square root of the number of channels. Raises `ShapeError` if a layer does not fit.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    summary = summarise(architecture)
    parts = summary.blocks
    texts = [[line for text in layer_lines(part.layers) for line in _wrap_line(text)] for part in parts]
    heights = [max(GLYPH_SIDE, LINE * (len(lines) + 1)) + GAP for lines in texts]
    top = MARGIN + LINE * (3.3 if title else 2.3)
    height = top + GLYPH_SIDE + GAP + sum(heights) + MARGIN
    drawing = _Drawing(Figure(figsize=(WIDTH, height), facecolor="white"), height)
    drawing.heading(summary.cost, title, top)
    shapes = [architecture.input_shape, *(part.output_shape for part in parts)]
    drawing.scale(shapes)
    y = top + GLYPH_SIDE + GAP
    drawing.row("input", architecture.input_shape, top, y)
    for part, lines, room in zip(parts, texts, heights, strict=True):
        drawing.row(part.name, part.output_shape, y, y + room)
        drawing.block(part, lines, y)
        y += room
    content = io.BytesIO()
    # With fonttype "none" text remains text: the file is a tenth of the size, and its text can be searched.
    with rc_context({"svg.hashsalt": "nas", "svg.fonttype": "none"}):
        drawing.figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
    return content.getvalue()


def svg_data_url(architecture: Architecture) -> str:
    """Returns the picture as a data URL for an img element, in which SVG cannot run scripts."""
    return f"data:image/svg+xml;base64,{base64.b64encode(architecture_svg(architecture)).decode()}"


def architecture_html(architecture: Architecture) -> str:
    """Returns the picture and the cost as HTML, for notebooks; raises `ShapeError` if a layer does not fit."""
    picture = f'<img src="{svg_data_url(architecture)}" alt="The blocks of the network" style="background: white">'
    return picture + html_lines([", ".join(cost_of(architecture).lines())])


def architecture_table(architecture: Architecture) -> "Table":
    """Returns a table of layers with output shape, parameters, MACs and receptive field; nested layers are indented."""
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("layer", no_wrap=True)
    for name in ("output shape", *(METRIC_LABELS[metric].short for metric in ("params", "macs", "receptive_field"))):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_row("input", shape_text(architecture.input_shape), "", "", "1")
    for row in layer_table(architecture):
        numbers = f"{row.params:,}" if row.params else "", f"{row.macs:,}" if row.macs else ""
        shape = shape_text(row.output_shape)
        style = "dim" if row.depth else None
        table.add_row(f"{'  ' * row.depth}{row.module}", shape, *numbers, str(row.receptive_field), style=style)
    return table


def architecture_text(architecture: Architecture) -> str:
    """Returns the table of layers and the cost as lines of text; raises `ShapeError` if a layer does not fit."""
    return "\n".join([table_text(architecture_table(architecture)), "", *cost_of(architecture).lines()])


class _Drawing:
    """A figure with coordinates in inches from its upper left corner."""

    def __init__(self, figure: "Figure", height: float) -> None:
        self.figure = figure
        self.axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(height, 0))
        self.axes.set_axis_off()

    def text(self, x: float, y: float, text: str, *, size: float = 10, color: str = INK, **how: Any) -> None:
        self.axes.text(x, y, text, fontsize=size, color=color, va="center", parse_math=False, **how)

    def heading(self, cost: Cost, title: str, top: float) -> None:
        """Draws the title, the total cost and the column names above `top`."""
        if title:
            self.text(MARGIN, MARGIN + LINE / 2, title, size=12, weight="bold")
        total = f"{cost.params:,} parameters, {cost.macs:,} MACs, receptive field {cost.receptive_field}"
        self.text(MARGIN, top - 1.7 * LINE, total, color=FADED)
        for x, name in ((SHAPE, "output"), (PARAMS, "parameters"), (FIELD, "receptive field")):
            self.text(x, top - LINE / 2, name, size=8.5, color=FADED, ha="right")

    def scale(self, shapes: Sequence[Shape]) -> None:
        """Sets the scale of the rectangles: the highest and the widest of the shapes fill `GLYPH_SIDE`."""
        self.highest = max(_sides(shape)[0] for shape in shapes)
        self.widest = max(_sides(shape)[1] for shape in shapes)

    def row(self, name: str, output: Shape, top: float, bottom: float) -> None:
        """Draws a row with a line above it, its name, and its output shape as rectangle and text."""
        from matplotlib.patches import Rectangle

        self.axes.plot([MARGIN, WIDTH - MARGIN], [top, top], color=EDGE, linewidth=0.6)
        rows, channels = _sides(output)
        width = max(0.04, GLYPH_SIDE * channels / self.widest)
        height = max(0.04, GLYPH_SIDE * rows / self.highest)
        corner = (GLYPH - width / 2, (top + bottom - height) / 2)
        fill = FILLS.get(name, FILLS["block"])
        self.axes.add_patch(Rectangle(corner, width, height, facecolor=fill, edgecolor=INK, linewidth=0.8))
        y = top + (GAP + LINE) / 2
        self.text(NAME, y, name, weight="bold")
        self.text(SHAPE, y, shape_text(output), ha="right")

    def block(self, part: Block, lines: Sequence[str], top: float) -> None:
        """Draws the numbers of a block and its layers, line by line."""
        y = top + (GAP + LINE) / 2
        self.text(PARAMS, y, f"{part.params:,}", ha="right")
        self.text(FIELD, y, f"{part.receptive_field:,}", ha="right")
        for number, line in enumerate(lines, start=1):
            indent = len(line) - len(line.lstrip())
            self.text(NAME + 0.04 * indent, y + number * LINE, line.strip(), size=9)


def layer_lines(layers: Sequence[Layer]) -> list[str]:
    """Returns the layers as lines of text.

    Batch norm, activation, dropout and flatten are appended to the line of the layer before them, unless that is a
    composite. The layers of a composite are indented below it. Equal consecutive entries become one, such as
    "2 x conv 3x3 → 8".
    """
    units: list[list[str]] = []
    for layer in layers:
        words = layer_text(layer)
        if layer.children():
            units.append([f"{words}:", *(f"    {line}" for line in layer_lines(layer.children()))])
        elif units and len(units[-1]) == 1 and isinstance(layer, BatchNorm | Activation | Dropout | Flatten):
            units[-1][0] += f", {words}"
        else:
            units.append([words])
    lines: list[str] = []
    for (first, *rest), equal in groupby(units):
        times = len(list(equal))
        lines += [f"{times} x {first}" if times > 1 else first, *rest]
    return lines


def layer_text(layer: Layer) -> str:
    """Returns a description of a layer in words, such as "separable conv 3x3 → 16", without the layers it contains."""
    words = layer.kind.replace("_", " ")
    match layer:
        case Convolution() | MaxPool() | AvgPool():
            words = "separable conv" if isinstance(layer, DepthwiseSeparable) else words
            width = f" → {layer.out_channels}" if isinstance(layer, Convolution) else ""
            words = f"{words} {layer.kernel_size}x{layer.kernel_size}{width}"
            usual = 1 if isinstance(layer, Convolution) else layer.kernel_size
            for name, value, default in (
                ("stride", layer.stride, usual),
                ("dilation", getattr(layer, "dilation", 1), 1),
                ("groups", layer.groups if isinstance(layer, Conv) else 1, 1),
            ):
                words += f" {name} {value}" * (value != default)
        case Linear():
            words = f"linear → {layer.out_features}"
        case Activation():
            words = layer.function.replace("_", " ")
        case Dropout():
            words = f"dropout {layer.rate:.2g}" + " of channels" * (layer.per == "channel")
        case SqueezeExcite():
            words = f"squeeze-excite 1/{layer.reduction}"
        case Residual():
            words = "residual, 1x1 projection" if layer.projection else "residual"
        case Repeat():
            words = f"{layer.times} time{'s' * (layer.times != 1)}" + ", shared weights" * layer.shared
    return words


def _wrap_line(line: str) -> list[str]:
    indent = " " * (len(line) - len(line.lstrip()))
    return textwrap.wrap(line, LONGEST, initial_indent=indent, subsequent_indent=f"{indent}    ") or [line]


def _sides(shape: Shape) -> tuple[float, float]:
    """Returns the height and width of an output's rectangle, unscaled; a vector is as high as a 1x1 feature map."""
    return sqrt(sqrt(prod(shape[1:]))), sqrt(shape[0])
