"""Which weights a training keeps: its last ones, or a running average of those after every step.

Late in a training each step still moves the weights about a point that lies between them; their average is nearer to
it, and steadier from one epoch to the next (Polyak and Juditsky 1992, "Acceleration of stochastic approximation by
averaging"). It is exponential, with the running statistics of batch norms averaged alike, as in Tarvainen and Valpola
2017, "Mean teachers are better role models".
"""

import math
from typing import Protocol

import torch
from torch import Tensor, nn

from nas.recipe import Recipe

EARLY = 9


def averaging_share(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """The share of the weights after batch `step`, counted from 0, in the average: 1 where there is none.

    The average forgets by a factor of e in `average_epochs`, and as long as the training is young in a ninth of what
    it has come through: early weights move fast, and their batch norms' statistics fit no mean of them. The ninth is
    that of TensorFlow's `ExponentialMovingAverage`.
    """
    if not recipe.average_epochs:
        return 1.0
    return max(EARLY / (step + EARLY), -math.expm1(-1 / (recipe.average_epochs * steps_per_epoch)))


class Kept(Protocol):
    """The weights and running statistics that a training is judged by and leaves behind."""

    def restart(self) -> None:
        """Begins anew from what the module holds."""

    def update(self, share: float | Tensor) -> None:
        """After a step; `share` is `averaging_share`, a number or, on a device, a tensor of one."""

    def swap(self) -> None:
        """Exchanges what the module holds for what is kept, and back."""


class Last:
    """Those of the last step: nothing to do."""

    def restart(self) -> None:
        pass

    def update(self, share: float | Tensor) -> None:
        pass

    def swap(self) -> None:
        pass


class Average:
    """The average of the module's floating-point parameters and buffers, on their device."""

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


def kept_weights(module: nn.Module, recipe: Recipe) -> Kept:
    """What the recipe has kept of the module, which must be on its device."""
    return Average(module) if recipe.average_epochs else Last()
