"""Runs the steps of an int8 program in float, to calibrate its quantisation."""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from nas.architecture.layers import ACTIVATIONS
from nas.architecture.module_call import ModuleCall
from nas.exporters.c.int8_parameters import Int8Parameters
from nas.inference.program import Activation, Add, Convolution, Gate, Mean, Pool, Program, Step, Value, Widen

FUNCTIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    **{name: ModuleCall(torch_name).build() for name, torch_name in ACTIVATIONS.items()},
    "sigmoid": torch.sigmoid,
}
"""Functions of `Activation` steps."""

Change = Callable[[Step, Tensor], Tensor]
"""Function that replaces a tensor of a step."""


def run_float(
    program: Program,
    parameters: Mapping[str, Int8Parameters],
    pixels: Tensor,
    *,
    on_sum: Change = lambda step, out: out,
    on_value: Change = lambda step, out: out,
) -> Iterator[tuple[Step, Tensor]]:
    """Yields each step of an int8 program with its output, float (N, *shape).

    Args:
        program: From `int8_program`.
        parameters: From `int8_parameters`.
        pixels: Images, uint8 (N, channels, height, width).
        on_sum: Replaces the sums of a convolution, (N, channels, height, width), before ReLU. Default: unchanged.
        on_value: Replaces the output of a step, (N, *shape). Default: unchanged.
    """
    values: dict[int, Tensor] = {}

    def read(value: Value) -> Tensor:
        return values[value.index].reshape(len(pixels), *value.shape)

    for step in program.steps:
        if isinstance(step, Convolution):
            affine = parameters[step.parameters]
            if step.inputs:
                maps = read(step.inputs[0]).reshape(len(pixels), *step.in_shape)
            else:
                maps = pixels - affine.zeros[:, None, None]
            out = on_sum(step, convolve(step, maps, affine.weight) + affine.bias[:, None, None])
        else:
            out = _output(step, [read(value) for value in step.inputs])
        out = out.reshape(len(pixels), *step.output.shape)
        values[step.output.index] = on_value(step, torch.relu(out) if step.relu else out)
        yield step, values[step.output.index]


def convolve(step: Convolution, maps: Tensor, weight: Tensor) -> Tensor:
    """Returns the convolution without bias of (N, *in_shape) with `weight`, (out, in / groups, size, size).

    Padding on the right and at the bottom follows from the shape of the output.
    """
    window, (_, height, width) = step.window, step.in_shape
    out_height, out_width = step.output.shape[1:] if len(step.output.shape) == 3 else (1, 1)
    reach = window.dilation * (window.size - 1) + 1
    bottom, right = (
        (out - 1) * window.stride + reach - window.padding - side
        for out, side in ((out_height, height), (out_width, width))
    )
    padded = functional.pad(maps, (window.padding, right, window.padding, bottom))  # negative numbers cut off
    return functional.conv2d(padded, weight, stride=window.stride, dilation=window.dilation, groups=step.groups)


def _output(step: Step, inputs: list[Tensor]) -> Tensor:
    match step:
        case Activation():
            return FUNCTIONS[step.function](inputs[0])
        case Pool():
            window = step.window
            pool = functional.max_pool2d if step.kind == "max" else functional.avg_pool2d
            return pool(inputs[0], window.size, window.stride, window.padding)
        case Mean():
            return inputs[0].mean((2, 3), keepdim=True)
        case Gate():
            return inputs[0] * inputs[1].reshape(*inputs[1].shape[:2], 1, 1)
        case Add():
            return inputs[0] + inputs[1]
        case Widen():
            return inputs[0]
    raise AssertionError(f"no function for {step}")
