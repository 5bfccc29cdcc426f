"""Lanes of a group do not affect each other; memory limits the size of a group."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from support.lanes import (
    ARCHITECTURES,
    GPU,
    RECIPE,
    broken,
    group,
    run_group,
    run_lane,
    same,
    small,
    weights,
)
from torch import nn

from nas.errors import TrainingDiverged
from nas.recipe import Recipe
from nas.training.cuda import engine as cuda
from nas.training.cuda import runner as cuda_runner
from nas.training.cuda.lane import Lane
from nas.training.cuda.runner import CpuDevice, CudaDevice, EagerRunner, precision_settings
from nas.training.protocol import GroupFullError
from nas.training.reference import initialise

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel"),
]


def test_lanes_in_group_match_lanes_alone() -> None:
    alone = [run_lane(architecture, seed=seed) for seed, architecture in enumerate(ARCHITECTURES)]
    modules = [initialise(architecture, seed=0) for architecture in ARCHITECTURES]
    lanes = group()
    lanes.add(0, modules[0], RECIPE, seed=0)
    first = lanes.advance()  # the other lanes join one epoch later
    lanes.add(1, modules[1], RECIPE, seed=1)
    lanes.add(2, modules[2], RECIPE, seed=2)
    found = run_group(lanes)
    found[0] = [*(replace(metrics, seconds=0.0) for _, metrics in first), *found[0]]
    for key, (metrics, trained) in enumerate(alone):
        assert found[key] == metrics
        assert same(weights(modules[key]), trained)
        assert not modules[key].training
    assert lanes.advance() == []
    assert lanes.notes == []
    assert lanes.build_seconds.keys() == {0, 1, 2}


def test_lanes_report_equal_seconds_apart_from_build_time() -> None:
    lanes = group()
    for key in range(3):
        lanes.add(key, initialise(small(), seed=0), RECIPE, seed=key)
    first, second = (dict(lanes.advance()) for _ in range(2))
    built = lanes.build_seconds
    assert first[0].seconds - built[0] == pytest.approx(first[2].seconds - built[2])
    assert second[0].seconds == second[1].seconds == second[2].seconds > 0


def test_failed_and_diverged_lanes_do_not_affect_other_lanes() -> None:
    expected = run_lane(small())
    lanes = group()
    good, wild = initialise(small(), seed=0), initialise(small(), seed=0)
    lanes.add(1, broken(at=4), RECIPE, seed=7)
    lanes.add(2, good, RECIPE, seed=7)
    lanes.add(3, wild, Recipe(learning_rate=1e30, schedule="constant", batch_size=16), seed=7)
    lanes.add(4, nn.Flatten(), RECIPE, seed=7)  # no parameters: fails before its first step
    found = run_group(lanes)
    assert found[2] == expected[0]
    assert same(weights(good), expected[1])
    (failed,), (diverged,), (unfit,) = found[1], found[3], found[4]
    assert isinstance(failed, ValueError)
    assert str(failed) == "broken"
    assert isinstance(diverged, TrainingDiverged)
    assert (diverged.epoch, math.isfinite(diverged.loss)) == (1, False)
    assert not wild.training
    assert "empty parameter list" in str(unfit)


def test_removed_lane_frees_key_and_does_not_affect_other_lanes() -> None:
    expected = run_lane(small())
    lanes = group()
    module, other = (initialise(small(), seed=0) for _ in range(2))
    lanes.add(1, module, replace(RECIPE, epochs=9), seed=1)
    lanes.add(2, other, RECIPE, seed=7)
    with pytest.raises(ValueError, match="lane 2 is there already"):
        lanes.add(2, other, RECIPE, seed=7)
    lanes.add(3, nn.Flatten(), RECIPE, seed=7)
    lanes.remove(3)
    lanes.remove(99)
    lanes.advance()
    lanes.remove(1)
    assert not module.training
    assert all(p.grad is None for p in module.parameters())
    assert [key for key, _ in lanes.advance()] == [2]
    assert same(weights(other), expected[1])
    lanes.add(1, module, RECIPE, seed=1)  # the key is free again
    assert [key for key, _ in lanes.advance()] == [1]


def test_out_of_memory_raises_group_full_but_fails_single_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    lanes = group()
    lanes.add(0, initialise(small(), seed=0), RECIPE, seed=7)
    lanes.add(1, initialise(small(), seed=0), RECIPE, seed=7)
    tried, dropped = [], []

    def full(*_: object, **__: object) -> Lane:
        tried.append(1)
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(cuda, "Lane", full)
    monkeypatch.setattr(CpuDevice, "drop_caches", lambda _: dropped.append(1))
    with pytest.raises(GroupFullError, match="no memory for lane 2 beside 2 others"):
        lanes.add(2, initialise(small(), seed=0), RECIPE, seed=7)
    assert (len(tried), len(dropped), lanes.capacity) == (2, 1, 2)
    assert [key for key, _ in lanes.advance()] == [0, 1]
    for key in range(2):
        lanes.remove(key)
    lanes.add(2, initialise(small(), seed=0), RECIPE, seed=7)  # no other lane holds memory: the lane fails
    ((key, error),) = lanes.advance()
    assert key == 2
    assert isinstance(error, torch.OutOfMemoryError)
    assert lanes.capacity == 2


def test_lane_is_added_if_second_try_has_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    lanes = group()
    lanes.add(0, initialise(small(), seed=0), RECIPE, seed=7)
    full = [True, False]

    def at_second(*args: Any, **kwargs: Any) -> Lane:
        if full.pop(0):
            raise torch.OutOfMemoryError("full")
        return Lane(*args, **kwargs)

    monkeypatch.setattr(cuda, "Lane", at_second)
    lanes.add(1, initialise(small(), seed=0), RECIPE, seed=7)
    assert [key for key, _ in lanes.advance()] == [0, 1]


class Unrecordable(EagerRunner):
    """A runner like on a GPU, but its captures fail."""

    warm_up_steps = 2

    def make_repeatable(self, work: Callable[[], None], generators: Sequence[torch.Generator]) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing")


def test_lane_trains_without_graph_after_failed_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CpuDevice, "runners", lambda _: (Unrecordable(), EagerRunner()))
    architecture = small(dropout=0.3)
    lanes = group()
    module = initialise(architecture, seed=0)
    lanes.add(5, module, RECIPE, seed=7)
    assert lanes.notes == [
        "lane 5 trains without a CUDA graph: RuntimeError: operation not permitted when stream is capturing"
    ]
    assert run_group(lanes)[5] == run_lane(architecture)[0]
    assert same(weights(module), run_lane(architecture)[1])


def test_capacity_is_limited_by_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    held = iter([1000, 1400, 1400, 1500, 1500])
    monkeypatch.setattr(CpuDevice, "reserved_bytes", lambda _: next(held))
    lanes = group(size=8)
    assert lanes.capacity == 8
    monkeypatch.setattr(CpuDevice, "free_bytes", lambda _: 1000)
    lanes.add(0, initialise(small(), seed=0), RECIPE, seed=7)
    assert lanes.capacity == 1 + 900 // 400
    lanes.add(1, initialise(small(), seed=0), RECIPE, seed=7)
    assert lanes.capacity == 2 + 900 // 400
    monkeypatch.setattr(CpuDevice, "free_bytes", lambda _: 0)
    lanes.advance()
    assert lanes.capacity == 2
    lanes.advance()
    assert lanes.capacity == 1


@pytest.mark.parametrize("exact", [True, False])
def test_numerics_context_restores_settings(exact: bool) -> None:
    def settings() -> list[object]:
        cudnn = torch.backends.cudnn
        return [
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.utils.deterministic.fill_uninitialized_memory,
            cudnn.deterministic,
            cudnn.benchmark,
            cudnn.allow_tf32,
            torch.backends.cuda.matmul.allow_tf32,
        ]

    before = settings()
    with precision_settings(exact=exact):
        assert settings() == [exact, True, False, exact, False, False, False]
    with pytest.raises(KeyError), precision_settings(exact=exact):
        raise KeyError
    assert settings() == before


def test_only_gpu_sets_environment_and_keeps_values_of_user(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"CUDA_DEVICE_MAX_CONNECTIONS": "16"}
    monkeypatch.setattr(cuda_runner.os, "environ", environment)
    CpuDevice()
    assert environment == {"CUDA_DEVICE_MAX_CONNECTIONS": "16"}
    CudaDevice(GPU)  # keeps the value that the user set
    assert environment == {"CUDA_DEVICE_MAX_CONNECTIONS": "16", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
