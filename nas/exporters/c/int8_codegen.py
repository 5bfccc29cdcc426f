"""Generates `network_int8.h` and `network_int8.c` for a quantised network: C99 without floating point."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from nas.architecture.layers import Shape, num_elements
from nas.exporters.c.int8_kernels import INT8, INT8_KERNELS, INT16, LIMITS, TYPES
from nas.exporters.c.kernels import kernel_sources
from nas.exporters.c.literals import c_comment, c_int_array
from nas.exporters.c.quantise import Int8Network, Int8Step
from nas.exporters.c.source import (
    Interface,
    array_name,
    class_names,
    scratch_pointer,
    shape_literal,
    statement,
    window_literal,
)
from nas.inference.int8 import int8_weight_bytes, plan_int8_memory
from nas.inference.program import Activation, Add, Convolution, Gate, Mean, Pool, Widen, Window

NAME = "network_int8"
FLASH = """\
/* Constants lie in flash. AVR needs a keyword for that, which only C has there. */
#ifdef __FLASH
#define FLASH __flash
#else
#define FLASH
#endif
"""


def int8_c_files(network: Int8Network, *, classes: Sequence[str], facts: Sequence[str]) -> dict[str, str]:
    """Returns the texts of `network_int8.h` and `network_int8.c` by file name: ASCII, equal for equal arguments.

    Args:
        network: Quantised network.
        classes: Class names in the order of the logits.
        facts: Lines for the comment at the top of both files.

    Raises:
        ValueError: `classes` does not fit the network.
    """
    program = network.program
    if len(classes) != num_elements(program.output.shape):
        raise ValueError(f"{len(classes)} classes for {num_elements(program.output.shape)} logits")
    plan = plan_int8_memory(program)
    interface = Interface(
        name=NAME,
        input_shape=program.input_shape,
        num_classes=len(classes),
        logit_type="int16_t",
        logit_text="\n * A logit is NETWORK_LOGIT_SCALE times the number that is written.",
        constants=[
            ("PARAMETER_BYTES", str(int8_weight_bytes(program)), "constants, in flash"),
            ("SCRATCH_BYTES", str(plan.length), "static, in RAM"),
            ("LOGIT_SCALE", f"{network.logit_scale:.9g}f", "for programs with floating point; predict has none"),
        ],
        includes=["stdint.h"],
    )
    about = c_comment(facts)
    writer = _Writer(network, plan.offsets)
    calls = [writer.call(each, index) for index, each in enumerate(network.steps)]
    kernels = {name for name, *_ in calls} | {"index_of_largest"}
    source = [
        f"{about}\n",
        f'#include "{NAME}.h"\n',
        FLASH,
        class_names(classes),
        *_array_definitions(network),
        *_scratch(plan.length),
        *kernel_sources(kernels, INT8_KERNELS),
        f"{interface.function}\n{{",
        *(line for each, call in zip(network.steps, calls, strict=True) for line in statement(each.step, call)),
        "    return index_of_largest(logits, NETWORK_CLASSES);",
        "}\n",
    ]
    return {f"{NAME}.h": interface.header(about), f"{NAME}.c": "\n".join(source)}


def _scratch(length: int) -> Iterator[str]:
    if length:
        yield "/* Intermediate results. They share memory: a result may overwrite one that no later step needs. */"
        yield f"static int8_t scratch[{length}];\n"


def _array_definitions(network: Int8Network) -> Iterator[str]:
    """Yields the constants: weights by the parameters' name, all others by the step's index."""
    for name, weight in network.weights.items():
        yield c_int_array("FLASH int8_t", array_name("weight", name), weight)
    for index, each in enumerate(network.steps):
        if each.table is not None:
            yield c_int_array(f"FLASH {TYPES[each.table.dtype]}", array_name("table", index), each.table)
        if isinstance(each.step, Convolution) and not each.step.inputs:
            yield c_int_array("FLASH uint8_t", array_name("zeros", index), np.array(each.zeros))
        if each.bias is not None:
            yield c_int_array("FLASH int32_t", array_name("bias", index), _stored_bias(each, network))
        if each.rescaling is not None:
            yield c_int_array("FLASH int32_t", array_name("multiplier", index), each.rescaling.multiplier)
            yield c_int_array("FLASH int8_t", array_name("shift", index), each.rescaling.shift)


class _Writer:
    """Writes the calls of kernels."""

    def __init__(self, network: Int8Network, offsets: Mapping[int, int]) -> None:
        self.output = network.program.output.index
        self.offsets = offsets

    def call(self, each: Int8Step, index: int) -> tuple[str, ...]:  # noqa: PLR0911  # one return per kind of step
        """Returns the kernel's name and groups of its arguments."""
        step = each.step
        is_logits = step.output.index == self.output
        output = "logits" if is_logits else scratch_pointer(step.output, self.offsets)
        inputs = [scratch_pointer(value, self.offsets) for value in step.inputs]
        suffix, count = "_to_logits" * is_logits, str(num_elements(step.output.shape))
        shape = step.output.shape
        match step:
            case Convolution():
                return self._convolution(each, index, step, output, suffix)
            case Mean() | Pool():
                maps = f"{inputs[0]}, {shape_literal(step.inputs[0].shape)}, {output}, {shape_literal(shape)}"
                if isinstance(step, Pool) and step.kind == "max":
                    return "max_pool", maps, _pool_literal(step)
                return f"average{suffix}", maps, f"{_pool_literal(step)}, {each.zeros[0]}", self._rescaling(each, index)
            case Activation():
                return "look_up", f"{inputs[0]}, {output}, {count}, {array_name('table', index)}"
            case Widen():
                return "look_up_logits", f"{inputs[0]}, {output}, {count}, {array_name('table', index)}"
            case Gate():
                places = f"{inputs[0]}, {inputs[1]}, {output}, {shape[0]}, {num_elements(shape[1:])}"
                return "gate_channels", places, f"{each.zeros[0]}, {each.zeros[1]}", self._rescaling(each, index)
            case Add():
                places = f"{inputs[0]}, {inputs[1]}, {output}, {count}"
                return "add", places, f"{each.zeros[0]}, {each.zeros[1]}", self._rescaling(each, index)
        raise AssertionError(f"no kernel for {step}")

    def _convolution(self, each: Int8Step, index: int, step: Convolution, output: str, suffix: str) -> tuple[str, ...]:
        weight, shape = array_name("weight", step.parameters), _map_shape(step)
        if not step.inputs:
            maps = f"pixels, {shape_literal(step.in_shape)}, {output}, {shape_literal(shape)}"
            options = f"{window_literal(step.window)}, {step.groups}, {array_name('zeros', index)}, {weight}"
            return f"convolve_pixels{suffix}", maps, options, self._rescaling(each, index)
        source = scratch_pointer(step.inputs[0], self.offsets)
        if _mixes_channels(step):
            sizes = f"{source}, {step.in_shape[0]}, {output}, {shape[0]}, {num_elements(shape[1:])}"
            return f"mix_channels{suffix}", sizes, weight, self._rescaling(each, index)
        maps = f"{source}, {shape_literal(step.in_shape)}, {output}, {shape_literal(shape)}"
        options = f"{window_literal(step.window)}, {step.groups}, {each.zeros[0]}, {weight}"
        return f"convolve{suffix}", maps, options, self._rescaling(each, index)

    def _rescaling(self, each: Int8Step, index: int) -> str:
        """Returns the arguments with which a kernel stores its sums."""
        bias = "0" if each.bias is None else array_name("bias", index)
        lowest, _ = LIMITS[INT16 if each.step.output.index == self.output else INT8]
        low = each.zero if each.step.relu else lowest
        arrays = f"{bias}, {array_name('multiplier', index)}, {array_name('shift', index)}"
        return f"(struct rescaling){{{arrays}}}, {low}, {each.zero}"


def _mixes_channels(step: Convolution) -> bool:
    """Returns whether a convolution of values (not of pixels) mixes the channels at each point, and no more."""
    return bool(step.inputs) and step.window == Window(size=1) and step.groups == 1


def _stored_bias(each: Int8Step, network: Int8Network) -> np.ndarray:
    """Returns the biases as the step's kernel needs them: `mix_channels` does not subtract the input's zero."""
    assert each.bias is not None
    assert isinstance(each.step, Convolution)
    if not _mixes_channels(each.step):
        return each.bias
    sums = network.weights[each.step.parameters].sum((1, 2, 3), dtype=np.int32)
    moved: np.ndarray = each.bias - each.zeros[0] * sums
    return moved


def _map_shape(step: Convolution) -> Shape:
    """Returns the output's shape as a map: a vector from a norm of a flattened map has the shape of its input."""
    return step.output.shape if len(step.output.shape) == 3 else (step.output.shape[0], *step.in_shape[1:])


def _pool_literal(step: Pool | Mean) -> str:
    """Returns the `struct pool` of a window, which for a mean is the whole map."""
    if isinstance(step, Mean):
        height, width = step.inputs[0].shape[1:]
        return f"(struct pool){{{height}, {width}, 1, 0}}"
    window = step.window
    return f"(struct pool){{{window.size}, {window.size}, {window.stride}, {window.padding}}}"
