"""Creates the torch optimizer of a recipe, for the reference trainer and the CUDA engine."""

import torch
from torch import Tensor, nn

from nas.recipe import Recipe


def make_optimizer(module: nn.Module, recipe: Recipe, *, learning_rate: Tensor | None = None) -> torch.optim.Optimizer:
    """Returns the recipe's optimizer. Weight decay applies to all parameters; Adam's first beta is the momentum.

    Args:
        module: its parameters are optimised.
        recipe: optimizer, learning rate, momentum and weight decay.
        learning_rate: float32 tensor of one element, which steps in a CUDA graph read; default: a number. In both
            cases the trainer sets the rate of each step in `param_groups`.
    """
    parameters, momentum, decay = list(module.parameters()), recipe.momentum, recipe.weight_decay
    rate = recipe.learning_rate if learning_rate is None else learning_rate
    # fused: one kernel for all parameters instead of several kernels for each.
    if recipe.optimizer == "sgd":  # a graph can capture it as it is: it does not read the rate back from the device
        return torch.optim.SGD(
            parameters, lr=rate, momentum=momentum, nesterov=momentum > 0, weight_decay=decay, fused=True
        )
    adam: type[torch.optim.Adam] = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
    return adam(
        parameters,
        lr=rate,
        betas=(momentum, 0.999),
        weight_decay=decay,
        fused=True,
        capturable=learning_rate is not None,
    )
