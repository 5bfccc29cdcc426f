"""Estimates the instructions of int8 inference on a Cortex-M, from the architecture alone.

The loops of the C kernels execute the same instructions in every round, so a network's instructions are a sum of counts
of rounds, each times a number that depends on the compiler and the core. `scripts/bench/instructions.py` measures these
numbers on emulated cores.
"""

from collections import Counter
from collections.abc import Iterator, Mapping

from nas.architecture.layers import num_elements
from nas.inference.program import Activation, Add, Convolution, Gate, Mean, Pool, Program, Step, Widen, Window

COEFFICIENTS: Mapping[str, Mapping[str, float]] = {
    "cortex-m0": {
        "add": 111.75,
        "convolve border columns": 357.79,
        "convolve outputs": 93.67,
        "convolve sources": 75.77,
        "convolve taps": 12.18,
        "look up": 6.59,
        "mix outputs": 144.95,
        "mix sources": 17.12,
    },
    "cortex-m4": {
        "add": 19.83,
        "convolve border columns": 200.0,
        "convolve outputs": 57.85,
        "convolve sources": 45.38,
        "convolve taps": 7.33,
        "look up": 2.87,
        "mix outputs": 38.39,
        "mix sources": 9.89,
    },
}
"""Instructions of a round of each loop, with arm-none-eabi-gcc 12.2.1 -O2; loops that are not named take none.

Fitted to 77 random networks; 33 others are off by 2.1 % on a Cortex-M0 and 3.8 % on a Cortex-M4 (median), at most 8.7
and 14.9 %.
"""

MAX_COUNTED = 10_000
"""Largest number of taps along one axis that are looked at one by one."""


def instructions(program: Program, core: str) -> int:
    """Returns the estimated instructions of `predict` for one image on a core of `COEFFICIENTS`.

    `program` is from `int8_program`.
    """
    coefficients = COEFFICIENTS[core]
    return round(sum(coefficients.get(name, 0) * count for name, count in loop_counts(program).items()))


def loop_counts(program: Program) -> Counter[str]:
    """Returns how many rounds of each loop the kernels run, by kernel and loop."""
    counts: Counter[str] = Counter()
    for step in program.steps:
        for name, count in _rounds(step):
            counts[name] += count
    return counts


def _rounds(step: Step) -> Iterator[tuple[str, int]]:
    """Yields each loop of the step's kernel, by kernel and loop, and its number of rounds."""
    outputs = num_elements(step.output.shape)
    match step:
        case Convolution() if step.inputs and step.window == Window(size=1) and step.groups == 1:
            pairs = (step.channels + 1) // 2 * (outputs // step.channels)
            yield "mix outputs", pairs
            yield "mix sources", pairs * step.in_shape[0]
        case Convolution():
            shape = step.output.shape if len(step.output.shape) == 3 else (step.channels, *step.in_shape[1:])
            sources = step.in_shape[0] // step.groups
            rows, _ = _taps(step.in_shape[1], shape[1], step.window)
            columns, border_columns = _taps(step.in_shape[2], shape[2], step.window)
            yield "convolve outputs", outputs
            yield "convolve border columns", step.channels * shape[1] * border_columns
            yield "convolve sources", outputs * sources
            yield "convolve taps", step.channels * sources * rows * columns
        case Pool():
            rows, _ = _taps(step.inputs[0].shape[1], step.output.shape[1], step.window)
            columns, _ = _taps(step.inputs[0].shape[2], step.output.shape[2], step.window)
            yield "pool taps", step.output.shape[0] * rows * columns
        case Mean():
            yield "pool taps", num_elements(step.inputs[0].shape)
        case Activation() | Widen():
            yield "look up", outputs
        case Add() | Gate():
            yield "add", outputs


def _taps(side: int, outputs: int, window: Window) -> tuple[int, int]:
    """Returns the taps inside the map along one axis, summed over all outputs, and the outputs that miss some taps.

    The border of windows or maps that no microcontroller could hold is not counted: that would take too long.
    """
    if outputs * window.size > MAX_COUNTED:
        return outputs * window.size, 0
    inside = [
        sum(0 <= output * window.stride - window.padding + tap * window.dilation < side for tap in range(window.size))
        for output in range(outputs)
    ]
    return sum(inside), sum(number < window.size for number in inside)
