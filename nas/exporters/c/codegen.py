"""Generates `network.h` and `network.c` for a trained network: plain C99 without dynamic memory."""

import re
from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from nas.architecture.architecture import Architecture
from nas.architecture.layers import Shape, num_elements, shape_text
from nas.exporters.c.ir import (
    Activation,
    Add,
    Affine,
    Convolution,
    Gate,
    Inference,
    Linear,
    Mean,
    Normalise,
    Pool,
    Scale,
    Step,
    Value,
    Window,
)
from nas.exporters.c.kernels import MATHEMATICAL, kernel_sources
from nas.exporters.c.literals import c_array, c_comment, c_string
from nas.exporters.c.lowering import lower
from nas.exporters.c.memory_plan import MemoryPlan, plan_memory

LINE = 110
FUNCTION = """\
int predict(const unsigned char pixels[NETWORK_CHANNELS * NETWORK_HEIGHT * NETWORK_WIDTH],
            float logits[NETWORK_CLASSES])"""


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
        NotImplementedError: The kind of a layer is not in `lowering.C_KINDS`.
    """
    inference = lower(architecture, weights, mean=mean, std=std)
    if len(classes) != num_elements(inference.output.shape):
        raise ValueError(f"{len(classes)} classes for {num_elements(inference.output.shape)} logits")
    plan = plan_memory(inference)
    about = c_comment(facts)
    return {
        "network.h": _header(architecture.input_shape, len(classes), inference, plan, about),
        "network.c": _source(inference, plan, classes, about),
    }


def stated_c_bytes(header: str) -> tuple[int, int]:
    """Returns the bytes of constants and of static memory that the text of a `network.h` states."""
    constants, scratch = re.findall(r"^#define NETWORK_(?:PARAMETER|SCRATCH)_BYTES (\d+)", header, re.M)
    return int(constants), int(scratch)


def _header(shape: Shape, num_classes: int, inference: Inference, plan: MemoryPlan, about: str) -> str:
    channels, height, width = shape
    return f"""\
{about}

#ifndef NETWORK_H
#define NETWORK_H

#define NETWORK_CHANNELS {channels}
#define NETWORK_HEIGHT {height}
#define NETWORK_WIDTH {width}
#define NETWORK_CLASSES {num_classes}
#define NETWORK_PARAMETER_BYTES {inference.parameter_bytes} /* constants, float32, in flash */
#define NETWORK_SCRATCH_BYTES {plan.scratch_bytes} /* static, in RAM */

#ifdef __cplusplus
extern "C" {{
#endif

/* Names in UTF-8, in the order of the logits. */
extern const char *const network_classes[NETWORK_CLASSES];

/* Writes the logit of each class to `logits`. Returns the index of the largest logit,
 * the first one if several are equal.
 * Pixels are 0 to 255, [channel][row][column]; scaling and normalisation happen inside.
 * Not reentrant: every call works in the same static memory.
 */
{FUNCTION};

#ifdef __cplusplus
}}
#endif

#endif
"""


def _source(inference: Inference, plan: MemoryPlan, classes: Sequence[str], about: str) -> str:
    calls = [_call(step, inference, plan) for step in inference.steps]
    kernels = {name for name, *_ in calls} | {"index_of_largest"}
    includes = ['#include "network.h"', *["", "#include <math.h>"] * any(name in MATHEMATICAL for name in kernels)]
    names = "".join(f"    {c_string(name)},\n" for name in classes)
    return "\n".join(
        [
            f"{about}\n",
            "\n".join(includes) + "\n",
            f"const char *const network_classes[NETWORK_CLASSES] = {{\n{names}}};\n",
            *_array_definitions(inference),
            "/* Intermediate results. They share memory: a result may overwrite one that no later step needs. */\n"
            f"static float scratch[{plan.length}];\n",
            *kernel_sources(kernels),
            f"{FUNCTION}\n{{",
            *(line for step, call in zip(inference.steps, calls, strict=True) for line in _statement(step, call)),
            "    for (int i = 0; i < NETWORK_CLASSES; i++) {",
            f"        logits[i] = scratch[{plan.offsets[inference.output.index]} + i];",
            "    }",
            "    return index_of_largest(logits, NETWORK_CLASSES);",
            "}\n",
        ]
    )


def _array_definitions(inference: Inference) -> Iterator[str]:
    for name, parameters in inference.parameters.items():
        yield c_array(_array_name("weight", name), parameters.weight)
        if parameters.bias is not None:
            yield c_array(_array_name("bias", name), parameters.bias)


def _array_name(part: str, name: str) -> str:
    return f"{part}_{name.replace('.', '_')}"


def _statement(step: Step, call: tuple[str, ...]) -> Iterator[str]:
    """Yields a comment with the layers and the output shape, then the call, split into lines if it is long."""
    function, *arguments = call
    yield f"    /* {', '.join(step.layers)}: {shape_text(step.output.shape, ' x ')} */"
    start = f"    {function}("
    line = f"{start}{', '.join(arguments)});"
    yield line if len(line) <= LINE else start + (",\n" + " " * len(start)).join(arguments) + ");"


def _call(step: Step, inference: Inference, plan: MemoryPlan) -> tuple[str, ...]:  # noqa: PLR0911  # one return per kind of step
    """Returns the kernel's name and groups of its arguments."""
    inputs, output = [_scratch_pointer(value, plan) for value in step.inputs], _scratch_pointer(step.output, plan)
    shape = step.output.shape
    places = ", ".join([*inputs, output])
    planes = f"{shape[0]}, {num_elements(shape) // shape[0]}"
    match step:
        case Normalise():
            return "normalise", f"pixels, {output}, {planes}", _parameter_arguments(step, inference)
        case Convolution():
            options = f"{_window_literal(step.window)}, {step.groups}, {_parameter_arguments(step, inference)}"
            return (
                "convolve",
                f"{inputs[0]}, {_shape_literal(step.inputs[0])}, {output}, {_shape_literal(step.output)}",
                options,
            )
        case Linear():
            sizes = f"{inputs[0]}, {num_elements(step.inputs[0].shape)}, {output}, {num_elements(shape)}"
            return "linear", sizes, _parameter_arguments(step, inference)
        case Scale():
            return "scale_channels", f"{places}, {planes}", _parameter_arguments(step, inference)
        case Activation():
            return step.function, f"{places}, {num_elements(shape)}"
        case Pool():
            maps = f"{inputs[0]}, {_shape_literal(step.inputs[0])}, {output}, {_shape_literal(step.output)}"
            return f"{step.kind}_pool", maps, _window_literal(step.window)
        case Mean():
            return "channel_means", f"{places}, {shape[0]}, {num_elements(step.inputs[0].shape) // shape[0]}"
        case Gate():
            return "gate_channels", f"{places}, {planes}"
        case Add():
            return "add", f"{places}, {num_elements(shape)}"
    raise AssertionError(f"no kernel for {step}")


def _scratch_pointer(value: Value, plan: MemoryPlan) -> str:
    offset = plan.offsets[value.index]
    return f"scratch + {offset}" if offset else "scratch"


def _parameter_arguments(step: Affine, inference: Inference) -> str:
    bias = inference.parameters[step.parameters].bias
    return f"{_array_name('weight', step.parameters)}, {'0' if bias is None else _array_name('bias', step.parameters)}"


def _shape_literal(value: Value) -> str:
    return f"(struct shape){{{', '.join(map(str, value.shape))}}}"


def _window_literal(window: Window) -> str:
    return f"(struct window){{{window.size}, {window.stride}, {window.padding}, {window.dilation}}}"
