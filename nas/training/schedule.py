"""Learning rates as a pure function of the step, so that any trainer can compute or tabulate them."""

import math

from nas.recipe import Recipe

# OneCycleLR's defaults: it starts at peak / 25 and ends at that / 10,000.
_START_DIVISOR = 25.0
_FINAL_DIVISOR = 1e4


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """The learning rate of batch `step`, counted from 0 over the whole training."""
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
    """As `torch.optim.lr_scheduler.OneCycleLR` with its two phases and without its cycled momentum."""
    start = peak / _START_DIVISOR
    peak_step = warmup * num_steps - 1  # -1 without a warmup: torch's first step is then already past the peak
    if step <= peak_step:
        # The peak may fall on step 0, where torch divides by zero.
        return _cosine(start, peak, step / peak_step) if peak_step > 0 else peak
    return _cosine(peak, start / _FINAL_DIVISOR, (step - peak_step) / (num_steps - 1 - peak_step))


def _cosine(start: float, end: float, fraction: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * fraction))
