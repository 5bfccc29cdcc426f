"""Memory plan and kernels of a training program."""

from collections.abc import Callable
from dataclasses import dataclass

from llvmlite import ir
from torch import nn

from nas.training.native import pointwise
from nas.training.native.emit import Machine
from nas.training.native.graph import Conv, Dropout, Graph, Operation, Pointwise, Value
from nas.training.native.layout import Layout

ALIGN = 16  # floats: a cache line, which is also the widest vector


@dataclass(frozen=True, slots=True)
class Buffer:
    """Memory of a value.

    Attributes:
        layout: of one block.
        offset: of the first block, in floats.
        stride: floats from one block to the next; 0 if all blocks share the same memory.
    """

    layout: Layout
    offset: int
    stride: int


class Plan:
    """Memory offsets, in floats, and kernels for training `module` with batches of `batch_size`.

    The dictionaries with offsets, buffers and key positions have `id(object)` as their keys.

    Attributes:
        parameters, gradients, first_moments, second_moments: arrays of `num_parameters` floats: weights, gradients and
            moments of the optimizer. Each is contiguous, so that one loop updates all weights.
        parameter_offset: a parameter's offset within each of these arrays.
        buffer_offset: offset of a running statistic.
        state: array of `num_state` floats: the weights (at `parameters`), followed by the running statistics.
        average: array of `num_state` floats for the running average of `state`.
        norm_offset: offset of the stored values of an operation's norm (see `pointwise`).
        statistics_offset: offset of the block statistics of an operation's norm.
        value_buffers, gradient_buffers: buffers of a value and of its gradient.
        first_key: position of an operation's first dropout key among the `num_keys` of a step.
        kernels: those written so far, by function and arguments.
    """

    def __init__(self, module: nn.Module, graph: Graph, *, batch_size: int, machine: Machine) -> None:
        self.machine, self.graph, self.batch_size = machine, graph, batch_size
        self.num_blocks = batch_size // machine.lanes
        self.size = 0
        self.parameter_offset: dict[int, int] = {}
        count = 0
        for parameter in module.parameters():
            self.parameter_offset[id(parameter)] = count
            count += parameter.numel()
        self.num_parameters = -(-count // ALIGN) * ALIGN
        self.parameters = self.state = self._allocate(count)

        pointwise_operations = [op for op in graph.operations if isinstance(op, Pointwise)]
        norms = [(op, op.norm) for op in pointwise_operations if op.norm is not None]
        self.buffer_offset: dict[int, int] = {}
        for norm in {id(norm): norm for _, norm in norms}.values():
            for running in (norm.running_mean, norm.running_var):
                assert running is not None
                self.buffer_offset[id(running)] = self._allocate(running.numel())
        self.num_state = self.size - self.state
        self.average = self._allocate(self.num_state)
        self.gradients, self.first_moments, self.second_moments = (self._allocate(count) for _ in range(3))
        self.norm_offset = {id(op): self._allocate(pointwise.NUM_NORM_VALUES * op.input.shape[0]) for op, _ in norms}
        self.statistics_offset = {id(op): self._allocate(2 * op.input.shape[0] * self.num_blocks) for op, _ in norms}

        self.first_key: dict[int, int] = {}
        self.num_keys = 0
        for op in pointwise_operations:
            self.first_key[id(op)] = self.num_keys
            self.num_keys += sum(isinstance(stage, Dropout) for stage in op.stages)

        outputs = [operation.output for operation in graph.operations]
        self.value_buffers = {id(value): self._allocate_buffer(self.layout(value)) for value in outputs}
        self.gradient_buffers = {
            id(operation.output): self._allocate_gradient_buffer(operation, following)
            for operation, following in zip(graph.operations, [*graph.operations[1:], None], strict=True)
        }

        self.module = ir.Module()
        self.kernels: dict[tuple[object, ...], ir.Function] = {}

    def layout(self, value: Value) -> Layout:
        """Returns the layout of one block of a value."""
        return Layout(*value.shape, value.halo, self.machine.lanes)

    def kernel(self, write: Callable[..., ir.Function], *arguments: object, **options: object) -> ir.Function:
        """Returns the kernel that `write` writes; equal arguments give the same kernel."""
        key = (write.__module__, write.__qualname__, getattr(write, "__self__", None), *arguments, *options.items())
        if key not in self.kernels:
            function = write(self.module, self.machine, f"kernel{len(self.kernels)}", *arguments, **options)
            function.linkage = "internal"
            function.attributes.add("noinline")  # one huge function would take many times as long to compile
            self.kernels[key] = function
        return self.kernels[key]

    def _allocate(self, count: int) -> int:
        """Returns the offset of `count` further floats."""
        offset = self.size
        self.size += -(-count // ALIGN) * ALIGN
        return offset

    def _allocate_buffer(self, layout: Layout) -> Buffer:
        return Buffer(layout, self._allocate(layout.size * self.num_blocks), layout.size)

    def _allocate_gradient_buffer(self, operation: Operation, following: Operation | None) -> Buffer:
        """Returns a buffer for the gradient of the operation's output, if possible the buffer of the output itself."""
        value = operation.output
        readers = self.graph.consumers(value)
        reader = readers[0] if len(readers) == 1 else None
        if not isinstance(operation, Conv):
            if isinstance(reader, Conv):
                # The backward pass of its only reader reads the value for the last time, then writes the gradient.
                return self.value_buffers[id(value)]
            return self._allocate_buffer(self.layout(value))
        # The backward pass of this convolution correlates the gradient with a padding of `halo`.
        halo = operation.geometry.kernel_size - 1 - operation.geometry.padding
        layout = Layout(*value.shape, halo, self.machine.lanes)
        if reader is not None and reader is following:
            # Written and read within one phase: one block at a time is enough, and it never leaves the cache.
            return Buffer(layout, self._allocate(layout.size), 0)
        return self._allocate_buffer(layout)
