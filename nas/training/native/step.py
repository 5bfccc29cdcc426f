"""Writes one step, forward and backward, as calls of kernels for each block of examples.

Batch norm needs the whole batch, so it divides a step into phases. Within a phase, each block goes through all
operations while it is in the CPU's cache; only data that the backward pass reads again leaves the cache.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from llvmlite import ir
from torch import Tensor, nn

from nas.training.native import conv, pointwise, reductions
from nas.training.native.emit import POINTER, Emitter, Index
from nas.training.native.graph import Add, Conv, Dropout, Mean, Pointwise, Value
from nas.training.native.plan import Plan

PerBlock = Callable[[ir.Value], None]


@dataclass(slots=True)
class Phases:
    """Collects the calls of a phase; `flush` writes them as one loop over the blocks."""

    emitter: Emitter
    num_blocks: Index
    pending: list[PerBlock] = field(default_factory=list)

    def add_call(self, call: PerBlock) -> None:
        self.pending.append(call)

    def flush(self) -> None:
        if self.pending:
            with self.emitter.loop(self.num_blocks) as block:
                for call in self.pending:
                    call(block)
            self.pending.clear()


@dataclass(slots=True, kw_only=True)
class StepWriter:
    """Writes one step.

    Attributes:
        plan: offsets and kernels.
        e: writes the function that the step is part of.
        memory: pointer to the memory that `plan` describes.
        images, labels, keys: pointers to the images, labels and dropout keys of the step.
        results: pointer to two doubles, the sums of loss and correct predictions.
        train: whether it is a training step; otherwise an evaluation.
        phases: calls that are not yet written.
        written: IDs of the values that have a gradient already.
    """

    plan: Plan
    e: Emitter
    memory: ir.Value
    images: ir.Value
    labels: ir.Value
    keys: ir.Value
    results: ir.Value
    train: bool
    phases: Phases
    written: set[int] = field(default_factory=set)

    # -- addresses ---------------------------------------------------------------------------------------------

    def value_pointer(self, value: Value, block: ir.Value) -> ir.Value:
        if value.is_image:
            return self.e.at(self.images, self.e.affine((block, self.plan.layout(value).size)))
        buffer = self.plan.value_buffers[id(value)]
        # An evaluation has no backward pass: all blocks use the memory of the first.
        stride = buffer.stride if self.train else 0
        return self.e.at(self.memory, self.e.affine((block, stride), (buffer.offset, 1)))

    def gradient_pointer(self, value: Value, block: ir.Value) -> ir.Value:
        buffer = self.plan.gradient_buffers[id(value)]
        stride = buffer.stride if self.train else 0
        return self.e.at(self.memory, self.e.affine((block, stride), (buffer.offset, 1)))

    def parameter_pointer(self, parameter: nn.Parameter | None) -> ir.Value:
        if parameter is None:
            return ir.Constant(POINTER, None)
        return self.e.at(self.memory, self.plan.parameters + self.plan.parameter_offset[id(parameter)])

    def parameter_gradient_pointer(self, parameter: nn.Parameter | None) -> ir.Value:
        if parameter is None:
            return ir.Constant(POINTER, None)
        return self.e.at(self.memory, self.plan.gradients + self.plan.parameter_offset[id(parameter)])

    def norm_values_pointer(self, operation: Pointwise) -> ir.Value:
        return self.e.at(self.memory, self.plan.norm_offset.get(id(operation), 0))

    def running_statistic_pointer(self, buffer: Tensor | None) -> ir.Value:
        return self.e.at(self.memory, self.plan.buffer_offset[id(buffer)])

    def first_key_pointer(self, operation: Pointwise) -> ir.Value:
        return self.e.at(self.keys, self.plan.first_key[id(operation)])

    def num_maps_before(self, operation: Pointwise, block: ir.Value) -> ir.Value:
        return self.e.index(self.e.affine((block, operation.input.shape[0] * self.plan.machine.lanes)))

    def must_accumulate(self, value: Value) -> bool:
        """Returns whether `value` has a gradient already, to which others are added; records that it has one now."""
        again = id(value) in self.written
        self.written.add(id(value))
        return again

    # -- passes ------------------------------------------------------------------------------------------------

    def forward(self) -> None:
        for operation in self.plan.graph.operations:
            if isinstance(operation, Pointwise):
                self._forward_pointwise(operation)
            else:
                self.phases.add_call(self._forward_call(operation))

    def _call(self, kernel: ir.Function, *arguments: ir.Value) -> None:
        self.e.builder.call(kernel, arguments)

    def _forward_call(self, operation: Conv | Mean | Add) -> PerBlock:
        layout, kernel = self.plan.layout, self.plan.kernel
        output = operation.output
        if isinstance(operation, Conv):
            function = kernel(conv.forward, operation.geometry, layout(operation.input), layout(output))
            return lambda block: self._call(
                function,
                self.value_pointer(operation.input, block),
                self.parameter_pointer(operation.weight),
                self.parameter_pointer(operation.bias),
                self.value_pointer(output, block),
            )
        name = reductions.mean if isinstance(operation, Mean) else reductions.add
        function = kernel(name, *(layout(value) for value in (*operation.inputs, output)))
        return lambda block: self._call(
            function, *(self.value_pointer(value, block) for value in (*operation.inputs, output))
        )

    def _chain(self, operation: Pointwise) -> pointwise.Chain:
        stages = (s for s in operation.stages if self.train or not isinstance(s, Dropout))
        layout = self.plan.layout
        return pointwise.Chain(tuple(stages), operation.pool, layout(operation.input), layout(operation.output))

    def _forward_pointwise(self, operation: Pointwise) -> None:
        chain = self._chain(operation)
        common = self.norm_values_pointer(operation), self.first_key_pointer(operation)
        if operation.norm:
            self._forward_norm(operation, operation.norm, chain, common)
        forward = self.plan.kernel(chain.forward)
        self.phases.add_call(
            lambda block: self._call(
                forward,
                self.value_pointer(operation.input, block),
                *common,
                self.num_maps_before(operation, block),
                self.value_pointer(operation.output, block),
            )
        )

    def _forward_norm(
        self,
        operation: Pointwise,
        norm: nn.BatchNorm1d | nn.BatchNorm2d,
        chain: pointwise.Chain,
        common: tuple[ir.Value, ir.Value],
    ) -> None:
        """Stores what the chain needs of its norm: from the batch, which ends a phase, or from running statistics.

        `common`: pointers to the stored values of the norm, and to the first key of the operation.
        """
        channels, height, width = operation.input.shape
        held = (
            self.parameter_pointer(norm.weight),
            self.parameter_pointer(norm.bias),
            self.running_statistic_pointer(norm.running_mean),
            self.running_statistic_pointer(norm.running_var),
        )
        if not self.train:
            # Written at once, so before the only phase of an evaluation.
            running = self.plan.kernel(reductions.norm_running, channels=channels, eps=norm.eps)
            self._call(running, *held, common[0])
            return
        statistics = self.e.at(self.memory, self.plan.statistics_offset[id(operation)])
        kernel = self.plan.kernel(chain.statistics)
        self.phases.add_call(
            lambda block: self._call(
                kernel,
                self.value_pointer(operation.input, block),
                *common,
                self.num_maps_before(operation, block),
                self.e.at(statistics, self.e.affine((block, 2 * channels))),
            )
        )
        self.phases.flush()
        collect = self.plan.kernel(
            reductions.norm_statistics,
            channels=channels,
            num_blocks=self.plan.num_blocks,
            block_count=height * width * self.plan.machine.lanes,
            eps=norm.eps,
            momentum=norm.momentum,
        )
        self._call(collect, statistics, *held, common[0])

    def loss(self, label_smoothing: float) -> None:
        logits = self.plan.graph.logits
        layout = self.plan.layout(logits)
        kernel = self.plan.kernel(
            reductions.loss,
            layout,
            self.plan.gradient_buffers[id(logits)].layout,
            label_smoothing=label_smoothing,
            num_examples=self.plan.batch_size,
        )
        self.phases.add_call(
            lambda block: self._call(
                kernel,
                self.value_pointer(logits, block),
                self.e.at(self.labels, self.e.affine((block, layout.lanes))),
                self.gradient_pointer(logits, block),
                self.results,
            )
        )

    def backward(self) -> None:
        for operation in reversed(self.plan.graph.operations):
            if isinstance(operation, Conv):
                self._backward_conv(operation)
            elif isinstance(operation, Pointwise):
                self._backward_pointwise(operation)
            else:
                self._backward_small(operation)
        self.phases.flush()

    def _backward_conv(self, operation: Conv) -> None:
        layout, kernel = self.plan.layout, self.plan.kernel
        output_gradient_layout = self.plan.gradient_buffers[id(operation.output)].layout
        weights = kernel(conv.weight_gradient, operation.geometry, layout(operation.input), output_gradient_layout)
        self.phases.add_call(
            lambda block: self._call(
                weights,
                self.value_pointer(operation.input, block),
                self.gradient_pointer(operation.output, block),
                self.parameter_gradient_pointer(operation.weight),
                self.parameter_gradient_pointer(operation.bias),
            )
        )
        if operation.input.is_image:
            return
        input_gradient_layout = self.plan.gradient_buffers[id(operation.input)].layout
        inputs = kernel(
            conv.input_gradient,
            operation.geometry,
            output_gradient_layout,
            input_gradient_layout,
            accumulate=self.must_accumulate(operation.input),
        )
        self.phases.add_call(
            lambda block: self._call(
                inputs,
                self.gradient_pointer(operation.output, block),
                self.parameter_pointer(operation.weight),
                self.parameter_pointer(None),
                self.gradient_pointer(operation.input, block),
            )
        )

    def _backward_pointwise(self, operation: Pointwise) -> None:
        chain = self._chain(operation)
        common = self.norm_values_pointer(operation), self.first_key_pointer(operation)

        def arguments(block: ir.Value) -> tuple[ir.Value, ...]:
            values = self.value_pointer(operation.input, block), self.gradient_pointer(operation.output, block)
            return (*values, *common, self.num_maps_before(operation, block))

        output_gradient_layout = self.plan.gradient_buffers[id(operation.output)].layout
        if operation.norm:
            sums = self.plan.kernel(chain.gradient_sums, output_gradient_layout)
            self.phases.add_call(lambda block: self._call(sums, *arguments(block)))
            self.phases.flush()
            module = operation.norm
            gradients = self.plan.kernel(reductions.norm_gradients, channels=operation.input.shape[0])
            held = self.parameter_gradient_pointer(module.weight), self.parameter_gradient_pointer(module.bias)
            self._call(gradients, common[0], *held)
        input_gradient_layout = self.plan.gradient_buffers[id(operation.input)].layout
        inputs = self.plan.kernel(
            chain.gradient,
            output_gradient_layout,
            input_gradient_layout,
            num_examples=self.plan.batch_size,
            accumulate=self.must_accumulate(operation.input),
        )
        self.phases.add_call(
            lambda block: self._call(inputs, *arguments(block), self.gradient_pointer(operation.input, block))
        )

    def _backward_small(self, operation: Mean | Add) -> None:
        layouts = {id(v): self.plan.gradient_buffers[id(v)].layout for v in (*operation.inputs, operation.output)}
        write = reductions.mean_gradient if isinstance(operation, Mean) else reductions.copy
        for value in operation.inputs:
            kernel = self.plan.kernel(
                write, layouts[id(operation.output)], layouts[id(value)], accumulate=self.must_accumulate(value)
            )
            self.phases.add_call(partial(self._copy_back, kernel, operation.output, value))

    def _copy_back(self, kernel: ir.Function, from_: Value, to: Value, block: ir.Value) -> None:
        self._call(kernel, self.gradient_pointer(from_, block), self.gradient_pointer(to, block))
