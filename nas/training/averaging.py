"""Running average of the weights during a training run; without averaging, the last weights are kept.

Late in a training run, each step moves the weights around a point between them. Their average is closer to that point
and varies less from epoch to epoch (Polyak and Juditsky 1992, "Acceleration of stochastic approximation by
averaging"). The average is exponential and includes the running statistics of batch norm, as in Tarvainen and Valpola
2017, "Mean teachers are better role models".
"""

import math
from typing import Protocol

import torch
from torch import Tensor, nn

from nas.recipe import Recipe

EARLY = 9  # as in TensorFlow, see `averaging_share`


def averaging_share(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """Returns the share in 0..1 of the current weights in the average; 1 if the recipe has no averaging.

    The update is `average += share * (current - average)`. The time constant of the average is `average_epochs`
    epochs. Early in a training run it is shorter, a ninth of the steps so far: early weights change fast, and the
    running statistics of their batch norms do not fit an average of them. The early share, 9 / (step + 9), is that of
    TensorFlow's `ExponentialMovingAverage` with `num_updates` = step - 1.

    Args:
        recipe: gives `average_epochs`.
        step: batch after which the average is updated, counted from 0 over the whole training run.
        steps_per_epoch: batches in an epoch.
    """
    if not recipe.average_epochs:
        return 1.0
    return max(EARLY / (step + EARLY), -math.expm1(-1 / (recipe.average_epochs * steps_per_epoch)))


class WeightTracker(Protocol):
    """The weights and running statistics that are validated and that the module holds after training."""

    def restart(self) -> None:
        """Resets the kept state to the state of the module."""

    def update(self, share: float | Tensor) -> None:
        """Updates the kept state after a step; `share` is `averaging_share` as a number or as a tensor of shape ()."""

    def swap(self) -> None:
        """Exchanges the state of the module and the kept state; a second call undoes the first."""


class LastWeights:
    """Keeps the weights of the last step, which the module holds anyway."""

    def restart(self) -> None:
        pass

    def update(self, share: float | Tensor) -> None:
        pass

    def swap(self) -> None:
        pass


class AverageWeights:
    """Keeps a running average of the module's floating-point parameters and buffers, on their device."""

    def __init__(self, module: nn.Module) -> None:
        tensors = [*module.parameters(), *module.buffers()]
        self.current = [tensor.detach() for tensor in tensors if tensor.is_floating_point()]
        self.average = [tensor.clone() for tensor in self.current]

    def restart(self) -> None:
        torch._foreach_copy_(self.average, self.current)

    def update(self, share: float | Tensor) -> None:
        change = torch._foreach_sub(self.current, self.average)  # noqa: SLF001  # no public counterpart
        torch._foreach_mul_(change, share)
        torch._foreach_add_(self.average, change)

    def swap(self) -> None:
        before = [tensor.clone() for tensor in self.current]
        torch._foreach_copy_(self.current, self.average)
        torch._foreach_copy_(self.average, before)


def weight_tracker(module: nn.Module, recipe: Recipe) -> WeightTracker:
    """Returns the kept state that the recipe asks for; `module` must already be on its training device."""
    return AverageWeights(module) if recipe.average_epochs else LastWeights()
