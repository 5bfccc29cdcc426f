"""Learning rate schedules match torch's schedulers at every step."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR, StepLR

from nas.recipe import Recipe
from nas.training.schedule import learning_rate

EPOCHS = st.integers(1, 6)
STEPS = st.integers(1, 7)
PEAKS = st.floats(1e-4, 10)


def optimizer(peak: float) -> torch.optim.SGD:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)


def rates(steps: torch.optim.Optimizer, schedule: LRScheduler, count: int) -> list[float]:
    """Learning rates of `count` steps; the scheduler advances after each."""
    found = []
    for _ in range(count):
        found.append(float(steps.param_groups[0]["lr"]))
        steps.step()
        schedule.step()
    return found


def ours(recipe: Recipe, steps_per_epoch: int) -> list[float]:
    return [learning_rate(recipe, step, steps_per_epoch) for step in range(recipe.epochs * steps_per_epoch)]


@given(EPOCHS, STEPS, PEAKS, st.one_of(st.just(0.0), st.just(0.2), st.floats(0, 0.99)))
def test_one_cycle_matches_torch(epochs: int, steps_per_epoch: int, peak: float, warmup: float) -> None:
    recipe = Recipe(epochs=epochs, learning_rate=peak, schedule="one_cycle", warmup=warmup)
    total = epochs * steps_per_epoch
    steps = optimizer(peak)
    if warmup * total - 1 == 0:  # torch divides by zero
        assert learning_rate(recipe, 0, steps_per_epoch) == peak
        return
    schedule = OneCycleLR(steps, peak, total_steps=total, pct_start=warmup, cycle_momentum=False)
    assert ours(recipe, steps_per_epoch) == pytest.approx(rates(steps, schedule, total), rel=1e-9, abs=1e-12)


@given(EPOCHS, STEPS, PEAKS)
def test_cosine_matches_torch(epochs: int, steps_per_epoch: int, peak: float) -> None:
    recipe = Recipe(epochs=epochs, learning_rate=peak, schedule="cosine")
    total = epochs * steps_per_epoch
    steps = optimizer(peak)
    expected = rates(steps, CosineAnnealingLR(steps, total), total)
    assert ours(recipe, steps_per_epoch) == pytest.approx(expected, rel=1e-6, abs=1e-9)


@given(EPOCHS, STEPS, PEAKS, st.integers(1, 4), st.floats(0.01, 1))
def test_step_matches_torch(epochs: int, steps_per_epoch: int, peak: float, step_epochs: int, gamma: float) -> None:
    recipe = Recipe(epochs=epochs, learning_rate=peak, schedule="step", step_epochs=step_epochs, step_gamma=gamma)
    steps = optimizer(peak)
    per_epoch = rates(steps, StepLR(steps, step_epochs, gamma), epochs)
    expected = [rate for rate in per_epoch for _ in range(steps_per_epoch)]
    assert ours(recipe, steps_per_epoch) == pytest.approx(expected, rel=1e-9)


@given(EPOCHS, STEPS, st.integers(0, 5), st.integers(1, 4))
def test_step_start_delays_step_schedule(epochs: int, steps_per_epoch: int, start: int, step_epochs: int) -> None:
    early = Recipe(epochs=epochs, schedule="step", step_epochs=step_epochs, step_gamma=0.5)
    late = ours(replace(early, epochs=epochs + start, step_start=start), steps_per_epoch)
    assert late == [0.1] * (start * steps_per_epoch) + ours(early, steps_per_epoch)


def test_constant_schedule_keeps_learning_rate() -> None:
    assert ours(Recipe(epochs=2, learning_rate=0.3, schedule="constant"), 3) == [0.3] * 6


def test_schedule_literal_values() -> None:
    recipe = Recipe(epochs=10, learning_rate=0.1, schedule="one_cycle", warmup=0.2)
    every = ours(recipe, 10)
    assert every[0] == pytest.approx(0.004)
    assert max(every) == every[19] == pytest.approx(0.1)
    assert every[-1] == pytest.approx(4e-7)
    assert ours(Recipe(epochs=2, learning_rate=1.0, schedule="cosine"), 2) == pytest.approx(
        [1.0, 0.8535533905932737, 0.5, 0.14644660940672627]
    )
