"""A network's training step and evaluation as two functions of machine code over one array of memory.

Batch norm needs all of a batch, so it cuts a step into phases. Within a phase each block of examples goes through
every operation in turn while it lies in the processor's cache; only what the backward pass reads again leaves it.
"""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from llvmlite import ir
from torch import Tensor, nn

from nas.recipe import Recipe
from nas.training.native import conv, head, optimizer, pointwise
from nas.training.native.emit import F32, F64, I64, POINTER, Compiled, Emitter, Index, Machine
from nas.training.native.graph import Add, Conv, Dropout, Graph, Mean, Pointwise, Value
from nas.training.native.layout import Layout

PerBlock = Callable[[ir.Value], None]


@dataclass(frozen=True, slots=True)
class Buffer:
    """Where a value lies in the arena: a block after another, or (scratch) all blocks in one place."""

    layout: Layout
    offset: int
    stride: int


@dataclass(slots=True)
class _Arena:
    """Hands out places in one array of floats."""

    size: int = 0
    align: int = 16

    def take(self, count: int) -> int:
        offset = self.size
        self.size += -(-count // self.align) * self.align
        return offset


@dataclass(slots=True)
class _Phases:
    """Calls for each block, run block by block; `once` ends a phase with a call for all of the batch."""

    emitter: Emitter
    num_blocks: Index
    pending: list[PerBlock] = field(default_factory=list)

    def each(self, call: PerBlock) -> None:
        self.pending.append(call)

    def flush(self) -> None:
        if self.pending:
            with self.emitter.loop(self.num_blocks) as block:
                for call in self.pending:
                    call(block)
            self.pending.clear()


class Program:
    """The memory and machine code of one network with one recipe.

    `run_training` and `run_evaluation` work on `parameters` and `buffers`, views of the memory by the module's names.
    """

    def __init__(self, module: nn.Module, graph: Graph, recipe: Recipe, *, batch_size: int, machine: Machine) -> None:
        self.machine, self.graph, self.recipe, self.batch_size = machine, graph, recipe, batch_size
        self.num_blocks = batch_size // machine.lanes
        self._module = ir.Module()
        self._arena = _Arena()
        self._kernels: dict[tuple[object, ...], ir.Function] = {}
        self._norms = [op for op in graph.operations if isinstance(op, Pointwise) and op.norm]

        # Parameters first and together, so that one loop updates them all.
        self._parameter_at: dict[int, int] = {}
        sizes = [(parameter, parameter.numel()) for parameter in module.parameters()]
        start = 0
        for parameter, count in sizes:
            self._parameter_at[id(parameter)] = start
            start += count
        self.num_parameters = -(-start // self._arena.align) * self._arena.align
        self._parameters, self._gradients, self._first, self._second = (
            self._arena.take(self.num_parameters) for _ in range(4)
        )
        self._buffer_at: dict[int, int] = {}
        for norm in {id(op.norm): op.norm for op in self._norms}.values():
            assert norm is not None
            for running in (norm.running_mean, norm.running_var):
                assert running is not None
                self._buffer_at[id(running)] = self._arena.take(running.numel())
        self._norm_at = {id(op): self._arena.take(pointwise.NUM_KEPT * op.input.shape[0]) for op in self._norms}
        self._statistics_at = {
            id(op): self._arena.take(2 * op.input.shape[0] * self.num_blocks) for op in self._norms
        }
        self._dropouts = [
            (op, stage)
            for op in graph.operations
            if isinstance(op, Pointwise)
            for stage in op.stages
            if isinstance(stage, Dropout)
        ]
        self.num_keys = len(self._dropouts)
        self._values = {id(value): self._place(value) for value in self._all_values() if not value.is_image}
        self._gradient_of = self._place_gradients()
        self.image_layout = self._layout(graph.image)

        self._emit_training()
        self._emit_evaluation()
        self.num_functions = len(self._kernels) + 2
        compiled = Compiled(self._module, machine)
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        self._compiled = compiled
        self._train = compiled.function("train", pointer, pointer, pointer, pointer, pointer, number, pointer)
        self._evaluate = compiled.function("evaluate", pointer, pointer, pointer, number, pointer)
        del self._module, self._kernels

        self.memory = torch.zeros(self._arena.size)
        self._named: dict[str, Tensor] = {}
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            at = self._parameter_at.get(id(tensor), self._buffer_at.get(id(tensor)))
            if at is not None:
                self._named[name] = self.memory[at : at + tensor.numel()].view(tensor.shape)
        self.load(module)

    # -- using it ----------------------------------------------------------------------------------------------

    def load(self, module: nn.Module) -> None:
        """Takes over the module's parameters and running statistics."""
        state = module.state_dict()
        for name, view in self._named.items():
            view.copy_(state[name])

    def save(self, module: nn.Module) -> None:
        """Gives the module its parameters and running statistics back."""
        state = module.state_dict()
        with torch.no_grad():
            for name, view in self._named.items():
                state[name].copy_(view)

    def run_training(self, images: Tensor, labels: Tensor, keys: Tensor, rates: Tensor, results: Tensor) -> None:
        """Trains a step on each batch; adds the loss and the number of right answers of each to its row of `results`.

        images: float32 (steps, blocks, *a block's padded shape); labels: int32 (steps, batch_size); keys: int32
        (steps, num_keys); rates: float32 (steps, NUM_RATES); results: float64 (steps, 2). All contiguous.
        """
        arrays = (self.memory, images, labels, keys, rates)
        self._train(*(array.data_ptr() for array in arrays), len(images), results.data_ptr())

    def run_evaluation(self, images: Tensor, labels: Tensor, results: Tensor) -> None:
        """Adds loss and right answers over all blocks to `results`, float64 (2,); labels of -1 count for nothing."""
        self._evaluate(
            self.memory.data_ptr(), images.data_ptr(), labels.data_ptr(), len(images), results.data_ptr()
        )

    # -- memory ------------------------------------------------------------------------------------------------

    def _all_values(self) -> list[Value]:
        values = [self.graph.image, *(operation.output for operation in self.graph.operations)]
        return list({id(value): value for value in values}.values())

    def _layout(self, value: Value) -> Layout:
        return Layout(*value.shape, value.halo, self.machine.lanes)

    def _place(self, value: Value) -> Buffer:
        layout = self._layout(value)
        return Buffer(layout, self._arena.take(layout.size * self.num_blocks), layout.size)

    def _place_gradients(self) -> dict[int, Buffer]:
        """A place for the gradient of each value, shared with other things where nothing is lost by it."""
        places: dict[int, Buffer] = {}
        operations = self.graph.operations
        for position, operation in enumerate(operations):
            value = operation.output
            readers = self.graph.consumers(value)
            alone = len(readers) == 1
            # The convolution that made a value reads its gradient with the padding that makes it the input's size.
            halo = operation.geometry.kernel_size - 1 - operation.geometry.padding if isinstance(operation, Conv) else value.halo
            layout = Layout(*value.shape, halo, self.machine.lanes)
            if alone and isinstance(readers[0], Conv) and not isinstance(operation, Conv):
                # Its one reader needs the value for the last time just before it writes the gradient.
                places[id(value)] = self._values[id(value)]
            elif alone and isinstance(operation, Conv) and operations[position + 1] is readers[0]:
                # Written and read within one phase: a block at a time, always in the cache.
                places[id(value)] = Buffer(layout, self._arena.take(layout.size), 0)
            else:
                places[id(value)] = Buffer(layout, self._arena.take(layout.size * self.num_blocks), layout.size)
        return places

    def _kernel(self, write: Callable[..., ir.Function], *arguments: object, **options: object) -> ir.Function:
        """The kernel that `write` writes, once for equal arguments."""
        key = (write.__module__, write.__qualname__, getattr(write, "__self__", None), *arguments, *options.items())
        if key not in self._kernels:
            name = f"{write.__name__}{len(self._kernels)}"
            function = write(self._module, self.machine, name, *arguments, **options)
            self._seal(function)
            self._kernels[key] = function
        return self._kernels[key]

    def _seal(self, function: ir.Function) -> None:
        function.linkage = "internal"
        function.attributes.add("noinline")  # one huge function would take many times as long to compile

    # -- code --------------------------------------------------------------------------------------------------

    def _emit_training(self) -> None:
        e = Emitter(self._module, self.machine, "train", [POINTER] * 5 + [I64, POINTER])
        arena, images, labels, keys, rates, num_steps, results = e.args
        image = self._layout(self.graph.image)
        blocks = self.num_blocks
        zero = ir.Constant(F32, 0.0)
        with e.loop(num_steps) as step:
            with e.loop(self.num_parameters) as i:
                e.builder.store(zero, e.at(arena, e.affine((i, 1), (self._gradients, 1))))
            here = _Step(
                program=self,
                e=e,
                arena=arena,
                images=e.at(images, e.affine((step, blocks * image.size))),
                labels=e.at(labels, e.affine((step, self.batch_size))),
                keys=e.at(keys, e.affine((step, self.num_keys))),
                results=e.builder.gep(results, [e.affine((step, 2))], source_etype=F64),
                train=True,
                phases=_Phases(e, blocks),
            )
            here.forward()
            here.loss(self.recipe.label_smoothing)
            here.backward()
            kernel = self._kernel(optimizer.update, self.recipe, self.num_parameters)
            arrays = [e.at(arena, at) for at in (self._parameters, self._gradients, self._first, self._second)]
            e.builder.call(kernel, [*arrays, e.at(rates, e.affine((step, optimizer.NUM_RATES)))])
        e.finish()

    def _emit_evaluation(self) -> None:
        e = Emitter(self._module, self.machine, "evaluate", [POINTER] * 3 + [I64, POINTER])
        arena, images, labels, num_blocks, results = e.args
        here = _Step(
            program=self,
            e=e,
            arena=arena,
            images=images,
            labels=labels,
            keys=arena,
            results=results,
            train=False,
            phases=_Phases(e, num_blocks),
        )
        here.forward()
        here.loss(0.0)
        here.phases.flush()
        e.finish()


@dataclass(slots=True, kw_only=True)
class _Step:
    """One step being written."""

    program: Program
    e: Emitter
    arena: ir.Value
    images: ir.Value
    labels: ir.Value
    keys: ir.Value
    results: ir.Value
    train: bool
    phases: _Phases
    written: set[int] = field(default_factory=set)  # values that have a gradient already

    # -- addresses ---------------------------------------------------------------------------------------------

    def value(self, value: Value, block: ir.Value) -> ir.Value:
        if value.is_image:
            return self.e.at(self.images, self.e.affine((block, self.program.image_layout.size)))
        buffer = self.program._values[id(value)]
        # An evaluation keeps nothing: its blocks all use the place of the first.
        stride = buffer.stride if self.train else 0
        return self.e.at(self.arena, self.e.affine((block, stride), (buffer.offset, 1)))

    def gradient(self, value: Value, block: ir.Value) -> ir.Value:
        buffer = self.program._gradient_of[id(value)]
        stride = buffer.stride if self.train else 0
        return self.e.at(self.arena, self.e.affine((block, stride), (buffer.offset, 1)))

    def parameter(self, parameter: nn.Parameter | None) -> ir.Value:
        if parameter is None:
            return ir.Constant(POINTER, None)
        return self.e.at(self.arena, self.program._parameters + self.program._parameter_at[id(parameter)])

    def parameter_gradient(self, parameter: nn.Parameter | None) -> ir.Value:
        if parameter is None:
            return ir.Constant(POINTER, None)
        return self.e.at(self.arena, self.program._gradients + self.program._parameter_at[id(parameter)])

    def norm(self, operation: Pointwise) -> ir.Value:
        return self.e.at(self.arena, self.program._norm_at.get(id(operation), 0))

    def running(self, buffer: Tensor | None) -> ir.Value:
        return self.e.at(self.arena, self.program._buffer_at[id(buffer)])

    def first_key(self, operation: Pointwise) -> ir.Value:
        before = [op for op, _ in self.program._dropouts]
        return self.e.at(self.keys, before.index(operation) if operation in before else 0)

    def first_element(self, operation: Pointwise, block: ir.Value) -> ir.Value:
        return self.e.index(self.e.affine((block, operation.input.shape[0] * self.program.machine.lanes)))

    def accumulate(self, value: Value) -> bool:
        """Whether `value` has a gradient already, to be added to; notes that it has one now."""
        again = id(value) in self.written
        self.written.add(id(value))
        return again

    # -- passes ------------------------------------------------------------------------------------------------

    def forward(self) -> None:
        for operation in self.program.graph.operations:
            if isinstance(operation, Pointwise):
                self._forward_pointwise(operation)
            else:
                self.phases.each(self._forward_call(operation))

    def _call(self, kernel: ir.Function, *arguments: ir.Value) -> None:
        self.e.builder.call(kernel, arguments)

    def _forward_call(self, operation: Conv | Mean | Add) -> PerBlock:
        layout, kernel = self.program._layout, self.program._kernel
        output = operation.output
        if isinstance(operation, Conv):
            function = kernel(conv.forward, operation.geometry, layout(operation.input), layout(output))
            return lambda block: self._call(
                function,
                self.value(operation.input, block),
                self.parameter(operation.weight),
                self.parameter(operation.bias),
                self.value(output, block),
            )
        name = head.mean if isinstance(operation, Mean) else head.add
        function = kernel(name, *(layout(value) for value in (*operation.inputs, output)))
        return lambda block: self._call(
            function, *(self.value(value, block) for value in (*operation.inputs, output))
        )

    def _chain(self, operation: Pointwise) -> pointwise.Chain:
        stages = (s for s in operation.stages if self.train or not isinstance(s, Dropout))
        layout = self.program._layout
        return pointwise.Chain(tuple(stages), operation.pool, layout(operation.input), layout(operation.output))

    def _forward_pointwise(self, operation: Pointwise) -> None:
        chain = self._chain(operation)
        common = self.norm(operation), self.first_key(operation)
        if operation.norm:
            module = operation.norm
            channels = operation.input.shape[0]
            held = self.parameter(module.weight), self.parameter(module.bias)
            held += self.running(module.running_mean), self.running(module.running_var)
            if self.train:
                at = self.program._statistics_at[id(operation)]
                statistics = self.e.at(self.arena, at)
                kernel = self.program._kernel(chain.statistics)
                self.phases.each(
                    lambda block: self._call(
                        kernel,
                        self.value(operation.input, block),
                        *common,
                        self.first_element(operation, block),
                        self.e.at(statistics, self.e.affine((block, 2 * channels))),
                    )
                )
                self.phases.flush()
                _, height, width = operation.input.shape
                collect = self.program._kernel(
                    head.norm_statistics,
                    channels=channels,
                    num_blocks=self.program.num_blocks,
                    block_count=height * width * self.program.machine.lanes,
                    eps=module.eps,
                    momentum=module.momentum,
                )
                self._call(collect, statistics, *held, common[0])
            else:
                # Before the one phase of an evaluation.
                running = self.program._kernel(head.norm_running, channels=channels, eps=module.eps)
                self._call(running, *held, common[0])
        forward = self.program._kernel(chain.forward)
        self.phases.each(
            lambda block: self._call(
                forward,
                self.value(operation.input, block),
                *common,
                self.first_element(operation, block),
                self.value(operation.output, block),
            )
        )

    def loss(self, label_smoothing: float) -> None:
        logits = self.program.graph.logits
        layout = self.program._layout(logits)
        kernel = self.program._kernel(
            head.loss,
            layout,
            self.program._gradient_of[id(logits)].layout,
            label_smoothing=label_smoothing,
            num_examples=self.program.batch_size,
        )
        self.phases.each(
            lambda block: self._call(
                kernel,
                self.value(logits, block),
                self.e.at(self.labels, self.e.affine((block, layout.lanes))),
                self.gradient(logits, block),
                self.results,
            )
        )

    def backward(self) -> None:
        for operation in reversed(self.program.graph.operations):
            if isinstance(operation, Conv):
                self._backward_conv(operation)
            elif isinstance(operation, Pointwise):
                self._backward_pointwise(operation)
            else:
                self._backward_small(operation)
        self.phases.flush()

    def _backward_conv(self, operation: Conv) -> None:
        layout, kernel = self.program._layout, self.program._kernel
        upper = self.program._gradient_of[id(operation.output)].layout
        weights = kernel(conv.weight_gradient, operation.geometry, layout(operation.input), upper)
        self.phases.each(
            lambda block: self._call(
                weights,
                self.value(operation.input, block),
                self.gradient(operation.output, block),
                self.parameter_gradient(operation.weight),
                self.parameter_gradient(operation.bias),
            )
        )
        if operation.input.is_image:
            return
        lower = self.program._gradient_of[id(operation.input)].layout
        inputs = kernel(
            conv.input_gradient,
            operation.geometry,
            upper,
            lower,
            accumulate=self.accumulate(operation.input),
        )
        self.phases.each(
            lambda block: self._call(
                inputs,
                self.gradient(operation.output, block),
                self.parameter(operation.weight),
                self.parameter(None),
                self.gradient(operation.input, block),
            )
        )

    def _backward_pointwise(self, operation: Pointwise) -> None:
        chain = self._chain(operation)
        common = self.norm(operation), self.first_key(operation)

        def arguments(block: ir.Value) -> tuple[ir.Value, ...]:
            values = self.value(operation.input, block), self.gradient(operation.output, block)
            return (*values, *common, self.first_element(operation, block))

        upper = self.program._gradient_of[id(operation.output)].layout
        if operation.norm:
            sums = self.program._kernel(chain.gradient_sums, upper)
            self.phases.each(lambda block: self._call(sums, *arguments(block)))
            self.phases.flush()
            module = operation.norm
            gradients = self.program._kernel(head.norm_gradients, channels=operation.input.shape[0])
            held = self.parameter_gradient(module.weight), self.parameter_gradient(module.bias)
            self._call(gradients, common[0], *held)
        lower = self.program._gradient_of[id(operation.input)].layout
        inputs = self.program._kernel(
            chain.gradient,
            upper,
            lower,
            num_examples=self.program.batch_size,
            accumulate=self.accumulate(operation.input),
        )
        self.phases.each(
            lambda block: self._call(inputs, *arguments(block), self.gradient(operation.input, block))
        )

    def _backward_small(self, operation: Mean | Add) -> None:
        layouts = {id(v): self.program._gradient_of[id(v)].layout for v in (*operation.inputs, operation.output)}
        write = head.mean_gradient if isinstance(operation, Mean) else head.copy
        for value in operation.inputs:
            kernel = self.program._kernel(
                write, layouts[id(operation.output)], layouts[id(value)], accumulate=self.accumulate(value)
            )
            self.phases.each(
                lambda block, value=value, kernel=kernel: self._call(
                    kernel, self.gradient(operation.output, block), self.gradient(value, block)
                )
            )
