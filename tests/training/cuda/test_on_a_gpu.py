"""CUDA graphs and streams give the results of single steps."""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from support.images import noise
from support.lanes import (
    ARCHITECTURES,
    GPU,
    RECIPE,
    drawn,
    run_group,
    run_lane,
    run_reference,
    same,
    small,
    weights,
)
from torch import Tensor, nn

from nas.architecture.architecture import Architecture
from nas.recipe import Recipe
from nas.training.cuda.engine import CudaGroup
from nas.training.cuda.runner import precision_settings
from nas.training.metrics import EpochMetrics
from nas.training.reference import initialise

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel"),
]


def gpu_group(size: int = 4, *, exact: bool = True) -> CudaGroup:
    return CudaGroup(noise(150), GPU, exact=exact, max_networks=size)


def train_on_gpu(
    architectures: Sequence[Architecture], *, exact: bool = True, recipe: Recipe = RECIPE
) -> tuple[CudaGroup, dict[int, list[EpochMetrics | Exception]], list[dict[str, Tensor]]]:
    lanes = gpu_group(exact=exact)
    modules = [initialise(architecture, seed=0) for architecture in architectures]
    for key, module in enumerate(modules):
        lanes.add(key, module, recipe, seed=7)
    found = run_group(lanes)
    return lanes, found, [weights(module) for module in modules]


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_graph_is_bit_identical_to_single_steps(optimizer: str) -> None:
    recipe = replace(RECIPE, optimizer=optimizer, learning_rate=0.01, batch_size=8)  # 18 steps: 2 graphs of 9
    for architecture in ARCHITECTURES:
        lanes, found, trained = train_on_gpu([architecture], recipe=recipe)
        with precision_settings(exact=True):
            expected, expected_weights = run_lane(architecture, recipe, device=GPU)
        assert lanes.notes == []
        assert found[0] == expected
        assert same(trained[0], expected_weights)


def test_remaining_single_steps_are_bit_identical() -> None:
    recipe = replace(RECIPE, batch_size=7)  # 21 steps: 2 graphs of 10 and one of 1
    architecture = small(dropout=0.2)
    _, found, trained = train_on_gpu([architecture], recipe=recipe)
    with precision_settings(exact=True):
        expected, expected_weights = run_lane(architecture, recipe, device=GPU)
    assert found[0] == expected
    assert same(trained[0], expected_weights)


@pytest.mark.usefixtures("contiguous")
def test_gpu_matches_reference_trainer() -> None:
    _, found, trained = train_on_gpu([small()])
    with precision_settings(exact=True):
        expected, expected_weights = run_reference(small(), device=GPU)
    assert found[0][1].val_loss == pytest.approx(expected[1].val_loss, abs=1e-3)
    for name, tensor in trained[0].items():
        torch.testing.assert_close(tensor, expected_weights[name], atol=1e-3, rtol=1e-3)


def test_lanes_in_gpu_group_match_lanes_alone() -> None:
    architectures = [*ARCHITECTURES, *[drawn(seed) for seed in range(8)]]
    lanes, together, trained = train_on_gpu(architectures)
    assert lanes.notes == []
    for key, architecture in enumerate(architectures):
        _, alone, trained_alone = train_on_gpu([architecture])
        assert together[key] == alone[0]
        assert same(trained[key], trained_alone[0])


def test_failed_capture_falls_back_to_single_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    architecture = small(dropout=0.3)
    _, expected, expected_weights = train_on_gpu([architecture])

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("no graphs today")

    with monkeypatch.context() as patched:
        patched.setattr(torch.cuda, "graph", refuse)
        lanes, found, trained = train_on_gpu([architecture])
    assert lanes.notes == ["lane 0 trains without a CUDA graph: RuntimeError: no graphs today"]
    assert found == expected
    assert same(trained[0], expected_weights[0])


class Waits(nn.Module):
    """Reads a value from the device. Eager steps allow it, captures do not."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.sum().item() < math.inf
        return x


def test_broken_capture_does_not_affect_other_lanes_or_later_captures() -> None:
    architecture = small(dropout=0.3)
    _, expected, expected_weights = train_on_gpu([architecture])
    lanes = gpu_group()
    modules = [initialise(architecture, seed=0) for _ in range(3)]
    lanes.add(0, modules[0], RECIPE, seed=7)
    lanes.add(1, nn.Sequential(Waits(), modules[1]), RECIPE, seed=7)
    lanes.add(2, modules[2], RECIPE, seed=7)
    assert len(lanes.notes) == 1
    assert lanes.notes[0].startswith("lane 1 trains without a CUDA graph: ")
    found = run_group(lanes)
    for key, module in enumerate(modules):
        assert found[key] == expected[0]
        assert same(weights(module), expected_weights[0])


def test_inexact_training_is_close_to_exact_training() -> None:
    _, exact, _ = train_on_gpu([small()])
    lanes, found, _ = train_on_gpu([small()], exact=False)
    assert lanes.notes == []
    assert found[0][1].val_loss == pytest.approx(exact[0][1].val_loss, abs=1e-2)


def test_consecutive_lanes_share_one_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    made, make = [], torch.cuda.Stream

    def stream(*args: object, **kwargs: object) -> torch.cuda.Stream:
        made.extend([] if args or kwargs else [1])  # with arguments: another handle of an existing stream
        return make(*args, **kwargs)

    monkeypatch.setattr(torch.cuda, "Stream", stream)
    lanes = gpu_group()
    for key in range(5):
        lanes.add(key, initialise(small(), seed=0), replace(RECIPE, epochs=1), seed=7)
        lanes.advance()
    assert len(made) == 1
