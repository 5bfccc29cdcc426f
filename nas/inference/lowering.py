"""Lowers an architecture to a program: folds batch norms and omits layers that only act in training."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

from nas.architecture import composites, layers
from nas.architecture.architecture import Architecture
from nas.architecture.layers import Layer, Shape, num_elements
from nas.errors import ArchitectureError, one_of
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
    Window,
)

INPUT = "input"
"""Name of the parameters that normalise the pixels; no module of a network has it."""

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


def kinds_without_kernel(sequence: Sequence[Layer]) -> list[str]:
    """Returns the kinds of the layers, and of those inside them, that `lower` does not support."""
    found = {layer.kind for layer in sequence} - set(C_KINDS)
    return sorted(found.union(*(kinds_without_kernel(layer.children()) for layer in sequence)))


def check_kinds(architecture: Architecture) -> None:
    """Raises `ArchitectureError` if the kind of a layer is not in `C_KINDS`."""
    if unsupported := kinds_without_kernel(architecture.layers):
        raise ArchitectureError(f"layer kind {unsupported[0]} has no C kernel, expected {one_of(C_KINDS)}")


def lower(architecture: Architecture) -> Program:
    """Returns the steps from pixels 0..255 to the logits.

    A batch norm is folded into the preceding affine step if that is exact.

    Raises:
        ShapeError: A layer does not fit its input.
        ArchitectureError: The kind of a layer is not in `C_KINDS`.
    """
    check_kinds(architecture)
    architecture.output_shape  # noqa: B018  # raises with the position of a layer that does not fit
    lowering = _Lowering()
    pixels = Value(index=0, shape=architecture.input_shape)
    lowering.steps.append(Normalise(layers=("pixels",), inputs=(), output=pixels, parameters=INPUT))
    output = lowering.add_all(architecture.layers, "", pixels)
    steps = lowering.steps
    while pair := next(_foldable_scales(steps, output), None):
        steps = list(_with_folded_scales(steps, *pair))
    return Program(input_shape=architecture.input_shape, steps=tuple(steps), output=output)


class _Lowering:
    """Collects steps. Names of layers are the state dict prefixes of the modules that `Architecture.build` returns."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def add_all(self, sequence: Sequence[Layer], prefix: str, value: Value) -> Value:
        """Adds the steps of the layers of an `nn.Sequential` with the given name; returns the output."""
        for index, layer in enumerate(sequence):
            value = self.add(layer, f"{prefix}.{index}".removeprefix("."), value)
        return value

    def add_nested(self, sequence: Sequence[Layer], name: str, value: Value) -> Value:
        """Adds the steps of a composite's layers, which are in an `nn.Sequential` if there are several."""
        return self.add(sequence[0], name, value) if len(sequence) == 1 else self.add_all(sequence, name, value)

    def add(self, layer: Layer, name: str, value: Value) -> Value:  # noqa: PLR0911, PLR0912  # one branch per kind
        """Adds the steps of a layer on `value` and returns the output; `name` is its state dict prefix."""
        match layer:
            case layers.Dropout():
                return value
            case layers.Flatten():
                return replace(value, shape=(num_elements(value.shape),))
            case layers.Conv():
                return self._convolution(layer, name, value)
            case composites.DepthwiseSeparable():
                return self.add_all(layer.parts(value.shape), name, value)
            case layers.Linear():
                labels, output = (f"{name} Linear",), self._value((layer.out_features,))
                step = Linear(layers=labels, inputs=(value,), output=output, parameters=name, bias=layer.bias)
                return self._append(step)
            case layers.BatchNorm():
                labels = (f"{name} BatchNorm{'2d' if len(value.shape) == 3 else '1d'}",)
                return self._append(
                    Scale(layers=labels, inputs=(value,), output=self._value(value.shape), parameters=name)
                )
            case layers.Activation():
                return self._activation((_label(layer, name, value),), value, layer.function)
            case layers.MaxPool() | layers.AvgPool():
                return self._pool(layer, name, value)
            case layers.GlobalAvgPool():
                return self._mean((_label(layer, name, value),), value)
            case layers.SqueezeExcite():
                return self._squeeze_excite(layer, name, value)
            case composites.Residual():
                return self._residual(layer, name, value)
            case composites.Repeat(shared=True):
                for _ in range(layer.times):
                    value = self.add_nested(layer.layers, f"{name}.body", value)
                return value
            case composites.Repeat():
                return self.add_nested(layer.layers * layer.times, name, value)
        raise AssertionError(f"{layer.kind} is in C_KINDS and has no steps")

    def _append(self, step: Step) -> Value:
        self.steps.append(step)
        return step.output

    def _value(self, shape: Shape) -> Value:
        return Value(index=len(self.steps), shape=shape)  # index of the step that will write it

    def _convolution(self, layer: layers.Conv, name: str, value: Value) -> Value:
        # for odd totals, torch's "same" pads one more on the right and at the bottom
        padding = layer.dilation * (layer.kernel_size - 1) // 2 if isinstance(layer.padding, str) else layer.padding
        return self._append(
            Convolution(
                layers=(f"{name} Conv2d",),
                inputs=(value,),
                output=self._value(layer.measure(value.shape).output_shape),
                parameters=name,
                bias=layer.bias,
                window=Window(size=layer.kernel_size, stride=layer.stride, padding=padding, dilation=layer.dilation),
                groups=layer.groups,
                in_shape=value.shape,
            )
        )

    def _pool(self, layer: layers.MaxPool | layers.AvgPool, name: str, value: Value) -> Value:
        assert layer.stride is not None
        return self._append(
            Pool(
                layers=(_label(layer, name, value),),
                inputs=(value,),
                output=self._value(layer.measure(value.shape).output_shape),
                kind="max" if isinstance(layer, layers.MaxPool) else "average",
                window=Window(size=layer.kernel_size, stride=layer.stride, padding=layer.padding),
            )
        )

    def _squeeze_excite(self, layer: layers.SqueezeExcite, name: str, value: Value) -> Value:
        labels, channels = (_label(layer, name, value),), value.shape[0]
        squeeze = layers.Linear(out_features=max(1, channels // layer.reduction))
        vector = replace(self._mean(labels, value), shape=(channels,))
        hidden = self._activation(labels, self.add(squeeze, f"{name}.squeeze", vector), "relu")
        excited = self.add(layers.Linear(out_features=channels), f"{name}.excite", hidden)
        gate = self._activation(labels, excited, "sigmoid")
        return self._append(Gate(layers=labels, inputs=(value, gate), output=self._value(value.shape)))

    def _residual(self, layer: composites.Residual, name: str, value: Value) -> Value:
        left = self.add_nested(layer.layers, f"{name}.branch", value)
        shortcut = layer.shortcut(value.shape)
        right = value if shortcut is None else self.add(shortcut, f"{name}.shortcut", value)
        labels = (_label(layer, name, value),)
        return self._append(Add(layers=labels, inputs=(left, right), output=self._value(left.shape)))

    def _mean(self, labels: tuple[str, ...], value: Value) -> Value:
        return self._append(Mean(layers=labels, inputs=(value,), output=self._value((value.shape[0], 1, 1))))

    def _activation(self, labels: tuple[str, ...], value: Value, function: str) -> Value:
        output = self._value(value.shape)
        return self._append(Activation(layers=labels, inputs=(value,), output=output, function=function))


def _label(layer: Layer, name: str, value: Value) -> str:
    """Returns the name of a layer's module and its class, such as "3 MaxPool2d"."""
    return f"{name} {layer.module_call(value.shape).name.removeprefix('nn.')}"


def _foldable_scales(steps: Sequence[Step], output: Value) -> Iterator[tuple[str, str]]:
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


def _with_folded_scales(steps: Sequence[Step], affine: str, norm: str) -> Iterator[Step]:
    """Yields the steps with `norm` folded into `affine`: without its scales, whose outputs the steps before them write.

    `earlier`, the norms that were folded into `norm` before, come after it.
    """
    scales = {step.inputs[0].index: step for step in steps if isinstance(step, Scale)}
    folded = {step.output.index for step in steps if isinstance(step, Affine) and step.parameters == affine}
    earlier = next(step.norms for step in steps if isinstance(step, Scale) and step.parameters == norm)
    for step in steps:
        if isinstance(step, Affine) and step.output.index in folded:
            scale = scales[step.output.index]
            yield replace(
                step,
                layers=(*step.layers, *scale.layers),
                output=replace(step.output, index=scale.output.index),
                norms=(*step.norms, norm, *earlier),
                bias=True,
            )
        elif not (isinstance(step, Scale) and step.inputs[0].index in folded):
            yield step
