"""Compiles the training and the evaluation of a network to two functions over one array of memory."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from llvmlite import ir
from torch import Tensor, nn

from nas.recipe import Recipe
from nas.training.native import optimizer
from nas.training.native.emit import F32, F64, I64, POINTER, Emitter, Machine, MachineCode
from nas.training.native.graph import Graph, Pointwise
from nas.training.native.layout import Layout
from nas.training.native.plan import Plan
from nas.training.native.step import Phases, StepWriter


class Program:
    """One network with one recipe, compiled, with its own memory.

    Attributes:
        image_layout: of a block of images.
        num_keys: number of dropout keys in a step.
        memory: the array that both functions work on.
        parameters, gradients, buffers: views of `memory`, by name in the module; buffers are running statistics.
        counts: number of batches that each norm has seen, by name.
    """

    def __init__(self, module: nn.Module, graph: Graph, recipe: Recipe, *, batch_size: int, machine: Machine) -> None:
        self.machine = machine
        plan = Plan(module, graph, batch_size=batch_size, machine=machine)
        self.image_layout: Layout = plan.layout(graph.image)
        self.num_keys = plan.num_keys
        _write_training(plan, recipe)
        _write_evaluation(plan)
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        self._machine_code = MachineCode(plan.module, machine)
        self._train = self._machine_code.function("train", *[pointer] * 5, number, pointer)
        self._evaluate = self._machine_code.function("evaluate", *[pointer] * 3, number, pointer)

        self.memory = torch.zeros(plan.size)
        self._state, self._average = (self.memory[at : at + plan.num_state] for at in (plan.state, plan.average))
        self._has_average = recipe.average_epochs > 0
        self.parameters: dict[str, Tensor] = {}
        self.gradients: dict[str, Tensor] = {}
        self.buffers: dict[str, Tensor] = {}
        for name, parameter in module.named_parameters():
            at = plan.parameter_offset[id(parameter)]
            self.parameters[name] = self._view(plan.parameters + at, parameter)
            self.gradients[name] = self._view(plan.gradients + at, parameter)
        for name, buffer in module.named_buffers():
            if id(buffer) in plan.buffer_offset:
                self.buffers[name] = self._view(plan.buffer_offset[id(buffer)], buffer)
        # A norm counts the batches that it has seen. In shared layers it sees each batch several times.
        norms = [op.norm for op in graph.operations if isinstance(op, Pointwise) and op.norm is not None]
        self.counts: dict[str, Tensor] = {}
        self._batches_per_step: dict[str, int] = {}
        for name, buffer in module.named_buffers():
            if times := sum(norm.num_batches_tracked is buffer for norm in norms):
                self.counts[name], self._batches_per_step[name] = torch.zeros_like(buffer), times
        self.load(module)

    def load(self, module: nn.Module) -> None:
        """Copies parameters, running statistics and batch counts from the module."""
        state = module.state_dict()
        for name, view in (self.parameters | self.buffers | self.counts).items():
            view.copy_(state[name])

    def save(self, module: nn.Module) -> None:
        """Copies parameters, running statistics and batch counts to the module."""
        state = module.state_dict()
        for name, view in (self.parameters | self.buffers | self.counts).items():
            state[name].copy_(view)

    @contextmanager
    def evaluation_state(self) -> Iterator[None]:
        """Context in which the program holds what the recipe keeps: with averaging, the average of its state."""
        last = self._state.clone()
        if self._has_average:
            self._state.copy_(self._average)
        try:
            yield
        finally:
            self._state.copy_(last)

    def run_training(self, images: Tensor, labels: Tensor, keys: Tensor, rates: Tensor, results: Tensor) -> None:
        """Trains one step on each batch. All tensors are contiguous.

        Args:
            images: float32 (steps, blocks, *block), each block as in `image_layout`.
            labels: int32 (steps, batch_size).
            keys: int32 (steps, num_keys).
            rates: float32 (steps, NUM_RATES).
            results: float64 (steps, 2); each batch adds the sum of its losses and its number of correct predictions.
        """
        arrays = (self.memory, images, labels, keys, rates)
        self._train(*(array.data_ptr() for array in arrays), len(images), results.data_ptr())
        for name, times in self._batches_per_step.items():
            self.counts[name] += times * len(images)

    def run_evaluation(self, images: Tensor, labels: Tensor, results: Tensor) -> None:
        """Adds the losses and correct predictions of all blocks to `results`, float64 (2,); ignores labels of -1."""
        self._evaluate(self.memory.data_ptr(), images.data_ptr(), labels.data_ptr(), len(images), results.data_ptr())

    def _view(self, offset: int, like: Tensor) -> Tensor:
        return self.memory[offset : offset + like.numel()].view(like.shape)


def _write_training(plan: Plan, recipe: Recipe) -> None:
    """Writes train(memory, images, labels, keys, rates, number of steps, results)."""
    e = Emitter(plan.module, plan.machine, "train", [*[POINTER] * 5, I64, POINTER])
    memory, images, labels, keys, rates, num_steps, results = e.args
    image = plan.layout(plan.graph.image)
    with e.loop(num_steps) as number:
        with e.loop(plan.num_parameters) as i:
            e.builder.store(ir.Constant(F32, 0.0), e.at(memory, e.affine((i, 1), (plan.gradients, 1))))
        step = StepWriter(
            plan=plan,
            e=e,
            memory=memory,
            images=e.at(images, e.affine((number, plan.num_blocks * image.size))),
            labels=e.at(labels, e.affine((number, plan.batch_size))),
            keys=e.at(keys, e.affine((number, plan.num_keys))),
            results=e.builder.gep(results, [e.affine((number, 2))], source_etype=F64),
            train=True,
            phases=Phases(e, plan.num_blocks),
        )
        step.forward()
        step.loss(recipe.label_smoothing)
        step.backward()
        kernel = plan.kernel(optimizer.update, recipe, plan.num_parameters)
        arrays = [e.at(memory, at) for at in (plan.parameters, plan.gradients, plan.first_moments, plan.second_moments)]
        numbers = e.at(rates, e.affine((number, optimizer.NUM_RATES)))
        e.builder.call(kernel, [*arrays, numbers])
        if recipe.average_epochs:
            kernel = plan.kernel(optimizer.average, plan.num_state)
            e.builder.call(kernel, [e.at(memory, plan.state), e.at(memory, plan.average), numbers])
    e.finish()


def _write_evaluation(plan: Plan) -> None:
    """Writes evaluate(memory, images, labels, number of blocks, results)."""
    e = Emitter(plan.module, plan.machine, "evaluate", [*[POINTER] * 3, I64, POINTER])
    memory, images, labels, num_blocks, results = e.args
    step = StepWriter(
        plan=plan,
        e=e,
        memory=memory,
        images=images,
        labels=labels,
        keys=memory,  # never read: an evaluation has no dropout
        results=results,
        train=False,
        phases=Phases(e, num_blocks),
    )
    step.forward()
    step.loss(0.0)
    step.phases.flush()
    e.finish()
