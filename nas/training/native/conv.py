"""Convolution kernels for one block at a time: outputs, gradients of inputs, gradients of weights.

A tile of outputs stays in registers while all its inputs are read. With four channels by six columns, 24 fused
multiply-adds need ten loads, so arithmetic is the bottleneck for any channel counts.
"""

from collections.abc import Callable
from dataclasses import dataclass

from llvmlite import ir

from nas.training.native.emit import POINTER, Emitter, Index, Machine
from nas.training.native.graph import Geometry
from nas.training.native.layout import Layout, tiles


@dataclass(frozen=True, slots=True, kw_only=True)
class Correlation:
    """A cross-correlation with stride 1: the forward pass or the input gradient of a convolution.

    Attributes:
        strides: floats from the weights of one output channel to the next, and of one input channel to the next.
        mirrored: the kernel is flipped along both axes.
        accumulate: the sums are added to the output instead of replacing it.
    """

    groups: int
    kernel_size: int
    padding: int
    input: Layout
    output: Layout
    strides: tuple[int, int]
    mirrored: bool = False
    has_bias: bool = False
    accumulate: bool = False


def forward(
    module: ir.Module, machine: Machine, name: str, geometry: Geometry, input_: Layout, output: Layout
) -> ir.Function:
    """Writes f(input, weights, bias or null, output)."""
    correlation = Correlation(
        groups=geometry.groups,
        kernel_size=geometry.kernel_size,
        padding=geometry.padding,
        input=input_,
        output=output,
        strides=_weight_strides(geometry, input_.channels),
        has_bias=geometry.has_bias,
    )
    return _correlate(module, machine, name, correlation)


def input_gradient(
    module: ir.Module,
    machine: Machine,
    name: str,
    geometry: Geometry,
    gradient: Layout,
    output: Layout,
    *,
    accumulate: bool,
) -> ir.Function:
    """Writes f(gradient of the outputs, weights, null, gradient of the inputs).

    It is a correlation with the kernels mirrored and the axes of input and output channels swapped.
    """
    to_output, to_input = _weight_strides(geometry, output.channels)
    correlation = Correlation(
        groups=geometry.groups,
        kernel_size=geometry.kernel_size,
        padding=geometry.kernel_size - 1 - geometry.padding,
        input=gradient,
        output=output,
        strides=(to_input, to_output),
        mirrored=True,
        accumulate=accumulate,
    )
    return _correlate(module, machine, name, correlation)


def _weight_strides(geometry: Geometry, ins: int) -> tuple[int, int]:
    """Returns `Correlation.strides` of a forward pass with `ins` input channels."""
    taps = geometry.kernel_size**2
    return ins // geometry.groups * taps, taps


def _correlate(module: ir.Module, machine: Machine, name: str, correlation: Correlation) -> ir.Function:
    e = Emitter(module, machine, name, [POINTER] * 4)
    source, weights, bias, target = e.args
    input_, output, groups = correlation.input, correlation.output, correlation.groups
    kernel_size, padding, mirrored = correlation.kernel_size, correlation.padding, correlation.mirrored
    ins, outs = input_.channels // groups, output.channels // groups
    to_output, to_input = correlation.strides
    taps = kernel_size**2
    # Pixel loads count twice: every tile of channels reads the map again, and a large map exceeds the L1 cache.
    most_columns, most_channels = _tile_shape(
        machine.registers * 3 // 4, output.width, outs, lambda columns, channels: 1 / columns + 2 / channels
    )

    def tile(channel: Index, group: Index, y: Index, x: Index, num_channels: int, num_columns: int) -> None:
        first = e.affine((group, outs), (channel, 1))
        sums = []
        for i in range(num_channels):
            for j in range(num_columns):
                if correlation.accumulate:
                    start = e.load(target, output.index(e, e.affine((first, 1), (i, 1)), y, e.affine((x, 1), (j, 1))))
                elif correlation.has_bias:
                    start = e.load_splat(bias, e.affine((first, 1), (i, 1)))
                else:
                    start = e.const(0)
                sums.append(e.variable(e.vector, start))
        with e.loop(ins) as c, e.loop(kernel_size) as ky:
            row = e.affine((y, 1), (ky, 1), (-padding, 1))
            from_ = input_.index(e, e.affine((group, ins), (c, 1)), row, e.affine((x, 1), (-padding, 1)))
            columns = [
                e.load(source, e.affine((from_, 1), (j * machine.lanes, 1)))
                for j in range(num_columns + kernel_size - 1)
            ]
            where = e.affine((group, outs * ins * taps), (channel, to_output), (c, to_input))
            across = e.affine((where, 1), (ky, -kernel_size if mirrored else kernel_size))
            for kx in range(kernel_size):
                for i in range(num_channels):
                    tap = taps - 1 - kx if mirrored else kx
                    weight = e.load_splat(weights, e.affine((across, 1), (i * to_output + tap, 1)))
                    for j in range(num_columns):
                        e.add_product(sums[i * num_columns + j], columns[j + kx], weight)
        for i in range(num_channels):
            for j in range(num_columns):
                place = output.index(e, e.affine((first, 1), (i, 1)), y, e.affine((x, 1), (j, 1)))
                e.store(e.load_variable(sums[i * num_columns + j]), target, place)

    with e.loop(groups) as group:
        for num_channels, first_channel, channel_tiles in tiles(outs, most_channels):
            with e.loop(channel_tiles) as t, e.loop(output.height) as y:
                channel = e.affine((t, num_channels), (first_channel, 1))
                for num_columns, first_column, column_tiles in tiles(output.width, most_columns):
                    with e.loop(column_tiles) as u:
                        x = e.affine((u, num_columns), (first_column, 1))
                        tile(channel, group, y, x, num_channels, num_columns)
    return e.finish()


def _tile_shape(room: int, first: int, second: int, loads: Callable[[int, int], float]) -> tuple[int, int]:
    """Returns the sides of a tile of at most `room` sums in a range of `first` by `second`: few loads, little code.

    `loads` gives the number of loads for each product. A cycle has room for two loads and two products, so arithmetic
    is the bottleneck below about 0.75 loads for each product. Among tiles below it, the one with the least code wins.
    """
    shapes = [(a, b) for a in range(1, first + 1) for b in range(1, second + 1) if a * b <= room]

    def cost(shape: tuple[int, int]) -> tuple[float, ...]:
        a, b = shape
        return max(loads(a, b), 0.75), _num_sizes(first, a) * _num_sizes(second, b), loads(a, b)

    return min(shapes, key=cost)


def _num_sizes(total: int, most: int) -> int:
    """Returns the number of different tile sizes; the code is written once for each."""
    return len(list(tiles(total, most)))


def weight_gradient(
    module: ir.Module, machine: Machine, name: str, geometry: Geometry, input_: Layout, gradient: Layout
) -> ir.Function:
    """Writes f(input, gradient of the outputs, gradient of the weights, gradient of the bias or null).

    It adds to the last two.
    """
    e = Emitter(module, machine, name, [POINTER] * 4)
    source, output_gradient, weights, bias = e.args
    size, groups = geometry.kernel_size, geometry.groups
    ins, outs = input_.channels // groups, gradient.channels // groups
    room = machine.registers - 4
    rows = size if size**2 <= room else max(1, room // size)  # of the convolution kernel at a time
    num_taps = rows * size
    each = max(1, room // num_taps)  # a single row may exceed the room
    most_outs, most_ins = _tile_shape(each, outs, ins, lambda o, i: 1 / (num_taps * i) + 1 / o)

    def tile(group: Index, o: Index, i: Index, top: Index, num_rows: int, num_outs: int, num_ins: int) -> None:
        taps = [(a, ky, kx) for a in range(num_ins) for ky in range(num_rows) for kx in range(size)]
        sums = [e.variable(e.vector, e.const(0)) for _ in range(num_outs * len(taps))]
        with e.loop(gradient.height) as y, e.loop(gradient.width) as x:
            above = [
                e.load(output_gradient, gradient.index(e, e.affine((group, outs), (o, 1), (b, 1)), y, x))
                for b in range(num_outs)
            ]
            for t, (a, ky, kx) in enumerate(taps):
                row = e.affine((y, 1), (top, 1), (ky - geometry.padding, 1))
                column = e.affine((x, 1), (kx - geometry.padding, 1))
                pixel = e.load(source, input_.index(e, e.affine((group, ins), (i, 1), (a, 1)), row, column))
                for b in range(num_outs):
                    e.add_product(sums[b * len(taps) + t], pixel, above[b])
        for b in range(num_outs):
            for t, (a, ky, kx) in enumerate(taps):
                out_channel = e.affine((group, outs), (o, 1), (b, 1))
                in_channel = e.affine((i, 1), (a, 1))
                place = e.affine((out_channel, ins * size**2), (in_channel, size**2), (top, size), (ky * size + kx, 1))
                e.add_scalar(e.sum_lanes(e.load_variable(sums[b * len(taps) + t])), weights, place)

    with e.loop(groups) as group:
        for num_outs, first_out, out_tiles in tiles(outs, most_outs):
            with e.loop(out_tiles) as t:
                o = e.affine((t, num_outs), (first_out, 1))
                for num_ins, first_in, in_tiles in tiles(ins, most_ins):
                    with e.loop(in_tiles) as u:
                        i = e.affine((u, num_ins), (first_in, 1))
                        for num_rows, first_row, row_tiles in tiles(size, rows):
                            with e.loop(row_tiles) as v:
                                top = e.affine((v, num_rows), (first_row, 1))
                                tile(group, o, i, top, num_rows, num_outs, num_ins)
    if geometry.has_bias:
        with e.loop(gradient.channels) as c:
            total = e.variable(e.vector, e.const(0))
            with e.loop(gradient.height) as y, e.loop(gradient.width) as x:
                e.add_to(total, e.load(output_gradient, gradient.index(e, c, y, x)))
            e.add_scalar(e.sum_lanes(e.load_variable(total)), bias, c)
    return e.finish()
