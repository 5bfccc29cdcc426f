"""Turns a program into the steps of int8 inference, from the architecture alone.

An int8 step adds products of int8 numbers in int32 and rescales the sum to int8. So every affine step becomes a
convolution, ReLU a lower bound of the rescaled sum, and the normalisation of pixels a part of the first weights.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from nas.architecture.layers import Shape, num_elements
from nas.inference.memory_plan import MemoryPlan, plan_memory
from nas.inference.program import (
    Activation,
    Add,
    Affine,
    Convolution,
    Gate,
    Linear,
    Mean,
    Normalise,
    Pool,
    Program,
    Scale,
    Step,
    Value,
    Widen,
    Window,
)

FACTOR_BYTES = 5
"""Bytes of a rescaling factor: a multiplier of 32 bits and a shift of 8."""
BIAS_BYTES = 4
TABLE_LENGTH = 256
"""Entries of a lookup table: one for each int8 value."""


def int8_program(program: Program) -> Program:
    """Returns the int8 steps of a program in float32.

    All affine steps are convolutions; those without inputs read the pixels. The last step writes the logits to an array
    of the caller: it is a convolution, an average, or `Widen`.
    """
    steps = [_as_convolution(step) for step in program.steps]
    steps = list(_with_folded_pixels(steps))
    steps = list(_with_fused_relus(steps, program.output))
    output = program.output
    last = steps[-1]
    if not (isinstance(last, Convolution | Mean) or (isinstance(last, Pool) and last.kind == "average")):
        output = Value(index=1 + max(step.output.index for step in steps), shape=output.shape)
        steps.append(Widen(layers=("logits",), inputs=(program.output,), output=output))
    return Program(input_shape=program.input_shape, steps=tuple(steps), output=output)


def plan_int8_memory(program: Program) -> MemoryPlan:
    """Returns the places of all values of an int8 program in bytes; the logits have none."""
    return plan_memory(program, output_in_arena=False)


def int8_weight_bytes(program: Program) -> int:
    """Returns the bytes of all constants of an int8 program; shared weights count once, their rescaling does not."""
    weights = sum(step.channels * step.weights_per_channel for step in program.affines.values())
    return weights + sum(_constant_bytes(step) for step in program.steps)


def _constant_bytes(step: Step) -> int:
    """Returns the bytes of a step's own constants, without weights."""
    match step:
        case Convolution():
            pixel_zeros = 0 if step.inputs else step.in_shape[0]
            return step.channels * (BIAS_BYTES + FACTOR_BYTES) + pixel_zeros
        case Activation():
            return TABLE_LENGTH
        case Widen():
            return 2 * TABLE_LENGTH
        case Add():
            return 2 * FACTOR_BYTES
        case Pool(kind="max"):
            return 0
        case _:
            return FACTOR_BYTES


def _as_convolution(step: Step) -> Step:
    """Returns an affine step as a convolution that computes the same; other steps as they are."""
    match step:
        case Linear():
            shape: Shape = (step.weights_per_channel, 1, 1)
            return _convolution(step, shape, groups=1)
        case Scale() | Normalise():
            channels, plane = step.channels, num_elements(step.output.shape) // step.channels
            shape = step.output.shape if len(step.output.shape) == 3 else (channels, plane, 1)
            return _convolution(step, shape, groups=channels)
        case _:
            return step


def _convolution(step: Affine, in_shape: Shape, *, groups: int) -> Convolution:
    """Returns a 1x1 convolution with the parameters of the step."""
    return Convolution(
        layers=step.layers,
        inputs=step.inputs,
        output=step.output,
        parameters=step.parameters,
        norms=step.norms,
        bias=step.bias,
        window=Window(size=1),
        groups=groups,
        in_shape=in_shape,
    )


def _with_folded_pixels(steps: list[Step]) -> Iterator[Step]:
    """Yields the steps without the first, the normalisation, if it can be folded into the convolution that reads it.

    It cannot be folded if the pixels are flattened first, or if a batch norm is folded into it: the convolution pads
    with the pixel that becomes 0, which may then lie far outside 0..255.
    """
    first, *others = steps
    assert isinstance(first, Convolution)
    readers = [step for step in others if first.output.index in (value.index for value in step.inputs)]
    uses = Counter(step.parameters for step in others if isinstance(step, Affine))
    match readers:
        case [Convolution() as reader] if (
            uses[reader.parameters] == 1 and reader.in_shape == first.in_shape and not first.norms
        ):
            for step in others:
                yield replace(step, layers=(*first.layers, *step.layers), inputs=()) if step is reader else step
        case _:
            yield from steps


def _with_fused_relus(steps: list[Step], output: Value) -> Iterator[Step]:
    """Yields the steps without the ReLUs that can be part of the step before them."""
    reads = Counter(value.index for step in steps for value in step.inputs)
    reads[output.index] += 1
    relus = {step.inputs[0].index: step for step in steps if isinstance(step, Activation) and step.function == "relu"}
    fused = {
        step.output.index
        for step in steps
        if step.output.index in relus
        and reads[step.output.index] == 1
        and (isinstance(step, Convolution | Add | Gate | Mean) or (isinstance(step, Pool) and step.kind == "average"))
    }
    for step in steps:
        if step.output.index in fused:
            relu = relus[step.output.index]
            yield replace(
                step,
                layers=(*step.layers, *relu.layers),
                output=replace(step.output, index=relu.output.index),
                relu=True,
            )
        elif not (isinstance(step, Activation) and step.inputs[0].index in fused):
            yield step
