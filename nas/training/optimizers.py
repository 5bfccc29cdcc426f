"""The optimizer that a recipe names, for every trainer that uses torch's."""

import torch
from torch import Tensor, nn

from nas.recipe import Recipe


def make_optimizer(module: nn.Module, recipe: Recipe, *, learning_rate: Tensor | None = None) -> torch.optim.Optimizer:
    """The recipe's optimizer; weight decay is for every parameter, Adam's first beta is the momentum.

    learning_rate: a tensor of one float32 that is read at every step, for steps in a CUDA graph; None: a number that
    the trainer sets in `param_groups`.
    """
    parameters, momentum, decay = list(module.parameters()), recipe.momentum, recipe.weight_decay
    rate = recipe.learning_rate if learning_rate is None else learning_rate
    # Fused: one kernel for all parameters instead of several for each.
    if recipe.optimizer == "sgd":  # it never asks the device for the rate, so a graph can capture it as it is
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
