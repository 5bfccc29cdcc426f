"""Memory plan of a training and the list of its kernels."""

from collections.abc import Callable
from dataclasses import dataclass

from llvmlite import ir
from torch import nn

from nas.training.native import pointwise
from nas.training.native.emit import Machine
from nas.training.native.graph import Conv, Dropout, Graph, Operation, Pointwise, Value
from nas.training.native.layout import Layout

ALIGN = 16  # floats: a cache line, and the widest vector


@dataclass(frozen=True, slots=True)
class Buffer:
    """Where a value lies: a block after another, or all in one place where `stride` is 0."""

    layout: Layout
    offset: int
    stride: int


class Plan:
    """Offsets, in floats, of what a training of `module` by batches of `batch_size` needs; and its kernels.

    parameters, gradients, first, second: `num_parameters` floats each: the weights, their gradients, the optimizer's
        moments. Together, so that one loop updates them all.
    parameter_at: of a parameter within them; buffer_at: of a running statistic; both by identity.
    state, average: `num_state` floats each: the weights, from `parameters` on, with the running statistics behind
        them; and room for the average of all that.
    norm_at, statistics_at: of what a norm keeps and of what its blocks find, by operation.
    values, gradient_of: of a value and of its gradient.
    first_key: the position of an operation's dropout keys among a step's `num_keys`.
    """

    def __init__(self, module: nn.Module, graph: Graph, *, batch_size: int, machine: Machine) -> None:
        self.machine, self.graph, self.batch_size = machine, graph, batch_size
        self.num_blocks = batch_size // machine.lanes
        self.size = 0
        self.parameter_at: dict[int, int] = {}
        count = 0
        for parameter in module.parameters():
            self.parameter_at[id(parameter)] = count
            count += parameter.numel()
        self.num_parameters = -(-count // ALIGN) * ALIGN
        self.parameters = self.state = self._take(count)

        pointwise_operations = [op for op in graph.operations if isinstance(op, Pointwise)]
        norms = [(op, op.norm) for op in pointwise_operations if op.norm is not None]
        self.buffer_at: dict[int, int] = {}
        for norm in {id(norm): norm for _, norm in norms}.values():
            for running in (norm.running_mean, norm.running_var):
                assert running is not None
                self.buffer_at[id(running)] = self._take(running.numel())
        self.num_state = self.size - self.state
        self.average = self._take(self.num_state)
        self.gradients, self.first, self.second = (self._take(count) for _ in range(3))
        self.norm_at = {id(op): self._take(pointwise.NUM_KEPT * op.input.shape[0]) for op, _ in norms}
        self.statistics_at = {id(op): self._take(2 * op.input.shape[0] * self.num_blocks) for op, _ in norms}

        self.first_key: dict[int, int] = {}
        self.num_keys = 0
        for op in pointwise_operations:
            self.first_key[id(op)] = self.num_keys
            self.num_keys += sum(isinstance(stage, Dropout) for stage in op.stages)

        outputs = [operation.output for operation in graph.operations]
        self.values = {id(value): self._place(self.layout(value)) for value in outputs}
        self.gradient_of = {
            id(operation.output): self._place_gradient(operation, following)
            for operation, following in zip(graph.operations, [*graph.operations[1:], None], strict=True)
        }

        self.module = ir.Module()
        self.kernels: dict[tuple[object, ...], ir.Function] = {}

    def layout(self, value: Value) -> Layout:
        return Layout(*value.shape, value.halo, self.machine.lanes)

    def kernel(self, write: Callable[..., ir.Function], *arguments: object, **options: object) -> ir.Function:
        """The kernel that `write` writes, once for equal arguments."""
        key = (write.__module__, write.__qualname__, getattr(write, "__self__", None), *arguments, *options.items())
        if key not in self.kernels:
            function = write(self.module, self.machine, f"kernel{len(self.kernels)}", *arguments, **options)
            function.linkage = "internal"
            function.attributes.add("noinline")  # one huge function would take many times as long to compile
            self.kernels[key] = function
        return self.kernels[key]

    def _take(self, count: int) -> int:
        offset = self.size
        self.size += -(-count // ALIGN) * ALIGN
        return offset

    def _place(self, layout: Layout) -> Buffer:
        return Buffer(layout, self._take(layout.size * self.num_blocks), layout.size)

    def _place_gradient(self, operation: Operation, following: Operation | None) -> Buffer:
        """A place for the gradient of the operation's output, shared with the output itself where it can be."""
        value = operation.output
        readers = self.graph.consumers(value)
        reader = readers[0] if len(readers) == 1 else None
        if not isinstance(operation, Conv):
            if isinstance(reader, Conv):
                # Its one reader needs the value for the last time just before it writes the gradient.
                return self.values[id(value)]
            return self._place(self.layout(value))
        # The convolution that made the value reads its gradient with what padding makes it the input's size.
        halo = operation.geometry.kernel_size - 1 - operation.geometry.padding
        layout = Layout(*value.shape, halo, self.machine.lanes)
        if reader is not None and reader is following:
            # Written and read within one phase, so one block at a time, which never leaves the cache.
            return Buffer(layout, self._take(layout.size), 0)
        return self._place(layout)
