"""Generates `network.h` and `network.c` for a trained network: plain C99 without dynamic memory."""

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from nas.architecture.architecture import Architecture
from nas.architecture.layers import num_elements
from nas.exporters.c.kernels import KERNELS, MATHEMATICAL, kernel_sources
from nas.exporters.c.literals import c_array, c_comment
from nas.exporters.c.parameters import Parameters, folded_parameters
from nas.exporters.c.source import (
    Interface,
    array_name,
    class_names,
    scratch_pointer,
    shape_literal,
    statement,
    window_literal,
)
from nas.inference.lowering import lower
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
)


def c_files(
    architecture: Architecture,
    weights: Mapping[str, Tensor],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    classes: Sequence[str],
    facts: Sequence[str],
) -> dict[str, str]:
    """Returns the texts of `network.h` and `network.c` by file name: ASCII, equal for equal arguments.

    Args:
        architecture: Architecture of the network.
        weights: State dict of `architecture.build()`.
        mean: Mean of each channel, of pixels scaled to 0..1.
        std: Standard deviation of each channel, of pixels scaled to 0..1.
        classes: Class names in the order of the logits.
        facts: Lines for the comment at the top of both files.

    Raises:
        ValueError: `mean`, `std` or `classes` does not fit the network, or a weight is not finite.
        ArchitectureError: The kind of a layer is not in `lowering.C_KINDS`.
    """
    program = lower(architecture)
    parameters = folded_parameters(program, weights, mean=mean, std=std)
    if len(classes) != num_elements(program.output.shape):
        raise ValueError(f"{len(classes)} classes for {num_elements(program.output.shape)} logits")
    plan = plan_memory(program)
    interface = Interface(
        name="network",
        input_shape=architecture.input_shape,
        num_classes=len(classes),
        logit_type="float",
        logit_text="",
        constants=[
            ("PARAMETER_BYTES", str(program.parameter_bytes), "constants, float32, in flash"),
            ("SCRATCH_BYTES", str(4 * plan.length), "static, in RAM"),
        ],
    )
    about = c_comment(facts)
    return {
        "network.h": interface.header(about),
        "network.c": _source(program, parameters, plan, interface, classes, about),
    }


def _source(
    program: Program,
    parameters: Mapping[str, Parameters],
    plan: MemoryPlan,
    interface: Interface,
    classes: Sequence[str],
    about: str,
) -> str:
    calls = [_call(step, plan) for step in program.steps]
    kernels = {name for name, *_ in calls} | {"index_of_largest"}
    includes = ['#include "network.h"', *["", "#include <math.h>"] * any(name in MATHEMATICAL for name in kernels)]
    return "\n".join(
        [
            f"{about}\n",
            "\n".join(includes) + "\n",
            class_names(classes),
            *_array_definitions(parameters),
            "/* Intermediate results. They share memory: a result may overwrite one that no later step needs. */\n"
            f"static float scratch[{plan.length}];\n",
            *kernel_sources(kernels, KERNELS),
            f"{interface.function}\n{{",
            *(line for step, call in zip(program.steps, calls, strict=True) for line in statement(step, call)),
            "    for (int i = 0; i < NETWORK_CLASSES; i++) {",
            f"        logits[i] = scratch[{plan.offsets[program.output.index]} + i];",
            "    }",
            "    return index_of_largest(logits, NETWORK_CLASSES);",
            "}\n",
        ]
    )


def _array_definitions(parameters: Mapping[str, Parameters]) -> Iterator[str]:
    for name, affine in parameters.items():
        yield c_array(array_name("weight", name), affine.weight.float())
        if affine.bias is not None:
            yield c_array(array_name("bias", name), affine.bias.float())


def _call(step: Step, plan: MemoryPlan) -> tuple[str, ...]:  # noqa: PLR0911  # one return per kind of step
    """Returns the kernel's name and groups of its arguments."""
    inputs, output = (
        [scratch_pointer(value, plan.offsets) for value in step.inputs],
        scratch_pointer(step.output, plan.offsets),
    )
    shape = step.output.shape
    places = ", ".join([*inputs, output])
    planes = f"{shape[0]}, {num_elements(shape) // shape[0]}"
    match step:
        case Normalise():
            return "normalise", f"pixels, {output}, {planes}", _parameter_arguments(step)
        case Convolution():
            options = f"{window_literal(step.window)}, {step.groups}, {_parameter_arguments(step)}"
            return (
                "convolve",
                f"{inputs[0]}, {shape_literal(step.inputs[0].shape)}, {output}, {shape_literal(step.output.shape)}",
                options,
            )
        case Linear():
            sizes = f"{inputs[0]}, {num_elements(step.inputs[0].shape)}, {output}, {num_elements(shape)}"
            return "linear", sizes, _parameter_arguments(step)
        case Scale():
            return "scale_channels", f"{places}, {planes}", _parameter_arguments(step)
        case Activation():
            return step.function, f"{places}, {num_elements(shape)}"
        case Pool():
            maps = f"{inputs[0]}, {shape_literal(step.inputs[0].shape)}, {output}, {shape_literal(step.output.shape)}"
            return f"{step.kind}_pool", maps, window_literal(step.window)
        case Mean():
            return "channel_means", f"{places}, {shape[0]}, {num_elements(step.inputs[0].shape) // shape[0]}"
        case Gate():
            return "gate_channels", f"{places}, {planes}"
        case Add():
            return "add", f"{places}, {num_elements(shape)}"
    raise AssertionError(f"no kernel for {step}")


def _parameter_arguments(step: Affine) -> str:
    return f"{array_name('weight', step.parameters)}, {array_name('bias', step.parameters) if step.bias else '0'}"
