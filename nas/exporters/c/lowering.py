"""Lowers a trained network to inference steps: folds batch norms and omits layers that only act in training."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from nas.architecture import modules
from nas.architecture.activations import activation_name
from nas.architecture.architecture import Architecture
from nas.architecture.layers import Layer, Shape, num_elements
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
    Parameters,
    Pool,
    Scale,
    Step,
    Value,
    Window,
)

C_KINDS = (
    "conv",
    "depthwise_separable",
    "batch_norm",
    "activation",
    "dropout",
    "max_pool",
    "avg_pool",
    "global_avg_pool",
    "flatten",
    "linear",
    "squeeze_excite",
    "residual",
    "repeat",
)
"""Kinds of layers that `lower` supports."""


def kinds_without_kernel(layers: Sequence[Layer]) -> list[str]:
    """Returns the kinds of the layers, and of those inside them, that `lower` does not support."""
    found = {layer.kind for layer in layers} - set(C_KINDS)
    return sorted(found.union(*(kinds_without_kernel(layer.children()) for layer in layers)))


def lower(
    architecture: Architecture, weights: Mapping[str, Tensor], *, mean: Sequence[float], std: Sequence[float]
) -> Inference:
    """Returns the steps from pixels 0..255 to the logits.

    A batch norm is folded into the preceding layer if that is exact. Folding uses float64; the results are rounded to
    float32.

    Args:
        architecture: Architecture of the network.
        weights: State dict of `architecture.build()`.
        mean: Mean of each channel, of pixels scaled to 0..1.
        std: Standard deviation of each channel, of pixels scaled to 0..1.

    Raises:
        ShapeError: A layer does not fit its input.
        ValueError: `mean` or `std` does not have one number per channel.
        NotImplementedError: The kind of a layer is not in `C_KINDS`.
    """
    channels = architecture.input_shape[0]
    if len(mean) != channels or len(std) != channels:
        raise ValueError(f"{len(mean)} means and {len(std)} standard deviations for {channels} channels")
    with torch.device("meta"):  # no random initialisation, which would change torch's global random state
        module = architecture.build()
    module.load_state_dict(weights, assign=True)
    lowering = _Lowering()
    output = lowering.add(module, "", lowering.normalise(architecture.input_shape, mean, std))
    steps, parameters = lowering.steps, lowering.parameters
    while pair := next(_foldable_scales(steps, output), None):
        affine, scale = pair
        parameters[affine] = parameters[affine].followed_by(parameters[scale])
        steps = list(_with_folded_scales(steps, affine))
    used = {step.parameters: parameters[step.parameters].rounded() for step in steps if isinstance(step, Affine)}
    return Inference(steps=tuple(steps), parameters=used, output=output)


class _Lowering:
    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.parameters: dict[str, Parameters] = {}

    def normalise(self, shape: Shape, mean: Sequence[float], std: Sequence[float]) -> Value:
        """Adds the first step, which normalises the pixels, and returns its output."""
        means, stds = (torch.tensor(numbers, dtype=torch.float64) for numbers in (mean, std))
        self.parameters["input"] = Parameters(weight=1 / (255 * stds), bias=-means / stds)
        output = self._value(shape)
        self.steps.append(Normalise(layers=("pixels",), inputs=(), output=output, parameters="input"))
        return output

    def add(self, module: nn.Module, name: str, value: Value) -> Value:  # noqa: PLR0911, PLR0912  # one branch per kind
        """Adds the steps of `module` on `value` and returns the output; `name` is its state dict prefix."""
        layers, inputs = (f"{name} {type(module).__name__}",), (value,)
        out: Step
        match module:
            case nn.Sequential():
                for key, child in module.named_children():
                    value = self.add(child, f"{name}.{key}".removeprefix("."), value)
                return value
            case modules.SharedRepeat():
                for _ in range(module.times):
                    value = self.add(module.body, f"{name}.body", value)
                return value
            case nn.Identity() | nn.Dropout() | nn.Dropout2d():
                return value
            case nn.Flatten():
                return replace(value, shape=(num_elements(value.shape),))
            case modules.Residual():
                left = self.add(module.branch, f"{name}.branch", value)
                right = self.add(module.shortcut, f"{name}.shortcut", value)
                out = Add(layers=layers, inputs=(left, right), output=self._value(left.shape))
            case modules.SqueezeExcite():
                squeezed = self.add(module.squeeze, f"{name}.squeeze", self._mean(layers, value))
                hidden = self._activation(layers, squeezed, "relu")
                gate = self._activation(layers, self.add(module.excite, f"{name}.excite", hidden), "sigmoid")
                out = Gate(layers=layers, inputs=(value, gate), output=self._value(value.shape))
            case modules.GlobalAvgPool():
                return self._mean(layers, value)
            case nn.Conv2d():
                self._add_parameters(name, module.weight, module.bias)
                window, shape = _window_and_output_shape(module, value.shape)
                out = Convolution(
                    layers=layers,
                    inputs=inputs,
                    output=self._value(shape),
                    parameters=name,
                    window=window,
                    groups=module.groups,
                )
            case nn.Linear():
                self._add_parameters(name, module.weight, module.bias)
                shape = (module.out_features,)
                out = Linear(layers=layers, inputs=inputs, output=self._value(shape), parameters=name)
            case nn.BatchNorm1d() | nn.BatchNorm2d():
                assert module.running_mean is not None
                assert module.running_var is not None
                scale = module.weight.double() / (module.running_var.double() + module.eps).sqrt()
                self._add_parameters(name, scale, module.bias.double() - module.running_mean.double() * scale)
                out = Scale(layers=layers, inputs=inputs, output=self._value(value.shape), parameters=name)
            case nn.MaxPool2d() | nn.AvgPool2d():
                side, stride, padding = map(_side, (module.kernel_size, module.stride, module.padding))
                window = Window(size=side, stride=stride, padding=padding)
                out = Pool(
                    layers=layers,
                    inputs=inputs,
                    output=self._value(_output_shape(window, value.shape, value.shape[0], 2 * padding)),
                    kind="max" if isinstance(module, nn.MaxPool2d) else "average",
                    window=window,
                )
            case _ if (function := activation_name(module)) is not None:
                return self._activation(layers, value, function)
            case _:
                raise NotImplementedError(f"no inference step does what {module} does: its kind is not in C_KINDS")
        self.steps.append(out)
        return out.output

    def _value(self, shape: Shape) -> Value:
        return Value(index=len(self.steps), shape=shape)  # index of the step that will write it

    def _add_parameters(self, name: str, weight: Tensor, bias: Tensor | None) -> None:
        doubled = None if bias is None else bias.detach().cpu().double()
        self.parameters[name] = Parameters(weight=weight.detach().cpu().double(), bias=doubled)

    def _mean(self, layers: tuple[str, ...], value: Value) -> Value:
        output = self._value((value.shape[0], 1, 1))
        self.steps.append(Mean(layers=layers, inputs=(value,), output=output))
        return output

    def _activation(self, layers: tuple[str, ...], value: Value, function: str) -> Value:
        output = self._value(value.shape)
        self.steps.append(Activation(layers=layers, inputs=(value,), output=output, function=function))
        return output


def _window_and_output_shape(module: nn.Conv2d, shape: Shape) -> tuple[Window, Shape]:
    dilation = _side(module.dilation)
    reach = dilation * (_side(module.kernel_size) - 1)
    # for odd totals, torch's "same" pads one more on the right and at the bottom
    total = reach if module.padding == "same" else 2 * _side(module.padding)
    window = Window(size=_side(module.kernel_size), stride=_side(module.stride), padding=total // 2, dilation=dilation)
    return window, _output_shape(window, shape, module.out_channels, total)


def _output_shape(window: Window, shape: Shape, out_channels: int, total_padding: int) -> Shape:
    reach = window.dilation * (window.size - 1)
    return (out_channels, *((side + total_padding - reach - 1) // window.stride + 1 for side in shape[1:]))


def _side(sides: int | str | tuple[int, ...]) -> int:
    """Returns the common value of both axes; layers of this package are square."""
    assert not isinstance(sides, str)
    return sides if isinstance(sides, int) else sides[0]


def _foldable_scales(steps: list[Step], output: Value) -> Iterator[tuple[str, str]]:
    """Yields names of parameters and of a scale that can be folded into them.

    In every use of the parameters this scale, and no other step, must read the output.
    """
    readers: dict[int, list[Step]] = defaultdict(list)
    for step in steps:
        for value in step.inputs:
            readers[value.index].append(step)
    followers: dict[str, set[str | None]] = defaultdict(set)
    for step in steps:
        if isinstance(step, Affine):
            scale = None
            match readers[step.output.index]:
                # After flatten, a batch norm has one scale per pixel and so more channels than the layer before it.
                case [Scale() as reader] if reader.output.shape[0] == step.output.shape[0]:
                    scale = reader.parameters if step.output.index != output.index else None
            followers[step.parameters].add(scale)
    for affine, scales in followers.items():
        match list(scales):
            case [str() as scale]:
                yield affine, scale


def _with_folded_scales(steps: list[Step], affine: str) -> Iterator[Step]:
    """Yields the steps without the scales that follow uses of `affine`, whose steps take over the outputs."""
    scales = {step.inputs[0].index: step for step in steps if isinstance(step, Scale)}
    folded = {step.output.index for step in steps if isinstance(step, Affine) and step.parameters == affine}
    for step in steps:
        if step.output.index in folded:
            scale = scales[step.output.index]
            written = replace(step.output, index=scale.output.index)
            yield replace(step, layers=(*step.layers, *scale.layers), output=written)
        elif not (isinstance(step, Scale) and step.inputs[0].index in folded):
            yield step
