"""Estimates the instructions of int8 inference on a Cortex-M, from the architecture alone.

The loops of the C kernels execute the same instructions in every round, so a network's instructions are a sum of counts
of rounds, each times a number that depends on the compiler and the core. `scripts/bench/instructions.py` measures these
numbers on emulated cores.
"""

from collections import Counter
from collections.abc import Iterator, Mapping

from nas.architecture.layers import Shape, num_elements
from nas.inference.program import Activation, Add, Convolution, Gate, Mean, Pool, Program, Step, Widen, Window

COEFFICIENTS: Mapping[str, Mapping[str, float]] = {}


def instructions(program: Program, core: str) -> int:
    """Returns the estimated instructions of `predict` for one image on a core of `COEFFICIENTS`.

    `program` is from `int8_program`. How far the estimates are off is in results/exports.md.
    """
    coefficients = COEFFICIENTS[core]
    return round(sum(coefficients[name] * count for name, count in loop_counts(program).items()))


def loop_counts(program: Program) -> Counter[str]:
    """Returns how many rounds of each loop the kernels run, by kernel and loop."""
    counts: Counter[str] = Counter(network=1)
    for step in program.steps:
        for name, count in _rounds(step):
            counts[name] += count
    return counts


def _rounds(step: Step) -> Iterator[tuple[str, int]]:
    outputs = num_elements(step.output.shape)
    match step:
        case Convolution() if step.inputs and step.window == Window(size=1) and step.groups == 1:
            pairs = (step.channels + 1) // 2 * (outputs // step.channels)
            yield "mix outputs", pairs
            yield "mix sources", pairs * step.in_shape[0]
        case Convolution():
            shape = step.output.shape if len(step.output.shape) == 3 else (step.channels, *step.in_shape[1:])
            sources = step.in_shape[0] // step.groups
            rows, border_rows = _taps(step.in_shape[1], shape[1], step.window)
            columns, border_columns = _taps(step.in_shape[2], shape[2], step.window)
            yield "convolve outputs", outputs
            yield "convolve border rows", step.channels * border_rows
            yield "convolve border columns", step.channels * shape[1] * border_columns
            yield "convolve sources", outputs * sources
            yield "convolve rows", step.channels * shape[2] * sources * rows
            yield "convolve taps", step.channels * sources * rows * columns
        case Pool():
            rows, _ = _taps(step.inputs[0].shape[1], step.output.shape[1], step.window)
            columns, _ = _taps(step.inputs[0].shape[2], step.output.shape[2], step.window)
            channels = step.output.shape[0]
            yield f"{step.kind} outputs", outputs
            yield f"{step.kind} rows", channels * step.output.shape[2] * rows
            yield f"{step.kind} taps", channels * rows * columns
        case Mean():
            shape_in: Shape = step.inputs[0].shape
            yield "average outputs", outputs
            yield "average rows", shape_in[0] * shape_in[1]
            yield "average taps", num_elements(shape_in)
        case Activation() | Widen():
            yield "look up", outputs
        case Add() | Gate():
            yield "add", outputs


def _taps(side: int, outputs: int, window: Window) -> tuple[int, int]:
    """Returns the taps inside the map along one axis, summed over all outputs, and the outputs that miss some taps."""
    inside = [
        sum(0 <= output * window.stride - window.padding + tap * window.dilation < side for tap in range(window.size))
        for output in range(outputs)
    ]
    return sum(inside), sum(number < window.size for number in inside)
