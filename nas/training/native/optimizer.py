"""Optimizer kernels over all parameters as one array, with the formulas and order of operations of torch."""

from llvmlite import ir

from nas.recipe import Recipe
from nas.training.averaging import averaging_share
from nas.training.native.emit import POINTER, Emitter, Machine
from nas.training.schedule import learning_rate

NUM_RATES = 5
"""Number of floats for each step, which `rates` computes and the kernels read."""

_SECOND_BETA, _EPS = 0.999, 1e-8


def update(module: ir.Module, machine: Machine, name: str, recipe: Recipe, size: int) -> ir.Function:
    """Writes f(parameters, gradients, first moments, second moments, rates): one optimizer step.

    `size` is the length of the arrays, a multiple of the lanes.
    """
    e = Emitter(module, machine, name, [POINTER] * 5)
    parameters, gradients, first, second, rates = e.args
    rate, decay_factor, step_size, root_factor = (e.load_splat(rates, i) for i in range(4))
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
            change = e.fma(velocity, e.const(recipe.momentum), gradient)  # Nesterov momentum
            value = e.sub(value, e.mul(rate, change))
        else:
            mean = e.fma(e.sub(gradient, before), e.const(1 - recipe.momentum), before)
            e.store(mean, first, i)
            squares = e.mul(e.load(second, i), e.const(_SECOND_BETA))
            squares = e.fma(e.mul(gradient, gradient), e.const(1 - _SECOND_BETA), squares)
            e.store(squares, second, i)
            size_ = e.fma(e.call_intrinsic("llvm.sqrt", squares), root_factor, e.const(_EPS))
            value = e.sub(value, e.div(e.mul(step_size, mean), size_))
        e.store(value, parameters, i)
    return e.finish()


def average(module: ir.Module, machine: Machine, name: str, size: int) -> ir.Function:
    """Writes f(values, averages, rates): updates the running average after a step; `size` as for `update`."""
    e = Emitter(module, machine, name, [POINTER] * 3)
    values, averages, rates = e.args
    share = e.load_splat(rates, NUM_RATES - 1)
    with e.loop(size, machine.lanes) as i:
        before = e.load(averages, i)
        e.store(e.fma(e.sub(e.load(values, i), before), share, before), averages, i)
    return e.finish()


def rates(recipe: Recipe, first_step: int, num_steps: int) -> list[float]:
    """Returns `NUM_RATES` floats for each step of an epoch.

    These are the learning rate, the factor of AdamW's weight decay, Adam's step size, the factor that corrects the
    root of its second moment, and the averaging share. `first_step` is counted from 0 over the whole training run.
    """
    numbers: list[float] = []
    for step in range(first_step, first_step + num_steps):
        rate = learning_rate(recipe, step, num_steps)
        correction = 1 - recipe.momentum ** (step + 1)
        root_correction = (1 - _SECOND_BETA ** (step + 1)) ** 0.5
        numbers += [rate, 1 - rate * recipe.weight_decay, rate / correction, 1 / root_correction]
        numbers.append(averaging_share(recipe, step, num_steps))
    return numbers
