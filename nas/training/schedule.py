"""Learning rate as a pure function of the step, so that any trainer can compute or tabulate it."""

import math

from nas.recipe import Recipe

# Defaults of OneCycleLR: the rate starts at peak / 25 and ends at that / 10,000.
_START_DIVISOR = 25.0
_FINAL_DIVISOR = 1e4


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """Returns the learning rate of batch `step`, counted from 0 over the whole training run."""
    peak = recipe.learning_rate
    num_steps = recipe.epochs * steps_per_epoch
    if recipe.schedule == "constant":
        return peak
    if recipe.schedule == "step":
        epochs = max(0, step // steps_per_epoch - recipe.step_start)
        return peak * float(recipe.step_gamma ** (epochs // recipe.step_epochs))
    if recipe.schedule == "cosine":
        return _cosine(peak, 0.0, step / num_steps)
    assert recipe.schedule == "one_cycle"
    return _one_cycle(peak, recipe.warmup, step, num_steps)


def _one_cycle(peak: float, warmup: float, step: int, num_steps: int) -> float:
    """Returns the rate of `torch.optim.lr_scheduler.OneCycleLR` with two phases; momentum is not cycled."""
    start = peak / _START_DIVISOR
    peak_step = warmup * num_steps - 1  # -1 without warmup: as in torch, the first step is then already past the peak
    if step <= peak_step:
        # The peak can be at step 0, where torch would divide by zero.
        return _cosine(start, peak, step / peak_step) if peak_step > 0 else peak
    return _cosine(peak, start / _FINAL_DIVISOR, (step - peak_step) / (num_steps - 1 - peak_step))


def _cosine(start: float, end: float, fraction: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * fraction))
