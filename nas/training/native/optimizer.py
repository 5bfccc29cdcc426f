"""Optimizer kernels over all parameters as one array; formulas and order of operations are torch's."""

from collections.abc import Iterator

from llvmlite import ir

from nas.recipe import Recipe
from nas.training.native.emit import POINTER, Emitter, Machine

NUM_RATES = 4
"""Floats a step that `rates` gives and the kernel reads."""

_SECOND_BETA, _EPS = 0.999, 1e-8


def update(module: ir.Module, machine: Machine, name: str, recipe: Recipe, size: int) -> ir.Function:
    """f(parameters, gradients, first moments, second moments, rates): one step; `size` is a multiple of the lanes."""
    e = Emitter(module, machine, name, [POINTER] * 5)
    parameters, gradients, first, second, rates = e.args
    rate, decay_factor, step_size, root_factor = (e.spread(rates, i) for i in range(NUM_RATES))
    with e.loop(size, machine.lanes) as i:
        value, gradient = e.load(parameters, i), e.load(gradients, i)
        if recipe.optimizer == "adamw":
            value = e.mul(value, decay_factor)
        elif recipe.weight_decay:
            gradient = e.fma(value, e.const(recipe.weight_decay), gradient)
        before = e.load(first, i)
        if recipe.optimizer == "sgd":
            velocity = e.fma(before, e.const(recipe.momentum), gradient)
            e.store(velocity, first, i)
            change = e.fma(velocity, e.const(recipe.momentum), gradient)  # Nesterov's
            value = e.sub(value, e.mul(rate, change))
        else:
            mean = e.fma(e.sub(gradient, before), e.const(1 - recipe.momentum), before)
            e.store(mean, first, i)
            squares = e.mul(e.load(second, i), e.const(_SECOND_BETA))
            squares = e.fma(e.mul(gradient, gradient), e.const(1 - _SECOND_BETA), squares)
            e.store(squares, second, i)
            size_ = e.fma(e.call("llvm.sqrt", squares), root_factor, e.const(_EPS))
            value = e.sub(value, e.div(e.mul(step_size, mean), size_))
        e.store(value, parameters, i)
    return e.finish()


def rates(recipe: Recipe, learning_rates: Iterator[float], first_step: int) -> list[float]:
    """The numbers of each step from `first_step`, counted from 0, on: `NUM_RATES` a learning rate."""
    numbers: list[float] = []
    for step, rate in enumerate(learning_rates, start=first_step + 1):
        correction = 1 - recipe.momentum**step
        root_correction = (1 - _SECOND_BETA**step) ** 0.5
        numbers += [rate, 1 - rate * recipe.weight_decay, rate / correction, 1 / root_correction]
    return numbers
