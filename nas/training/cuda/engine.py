"""The engine for NVIDIA GPUs: trains several tiny networks at once, since one alone does not fill the device."""

import time
import warnings

import torch
from torch import nn

from nas.recipe import Recipe
from nas.training.cuda.lane import Lane
from nas.training.cuda.runner import CpuDevice, CudaDevice, precision_settings
from nas.training.data import TrainingData
from nas.training.metrics import EpochMetrics
from nas.training.protocol import GroupFullError

DEFAULT_MAX_NETWORKS = 16
"""Default limit of lanes. On an H200, total steps a second stop growing at 8 to 16 lanes (results/performance.md)."""

USABLE = 0.9
"""Fraction of the free memory that lanes may take; the rest is for memory that is not counted."""


class CudaGroup:
    """Trains several networks at once on one device, each in a lane with its own stream and random generators.

    The result of a network does not depend on the other networks; with `exact`, it is bitwise the same. `add` and
    `advance` change torch's global settings while they run, so no other thread should compute at the same time.
    `advance` raises errors of the device itself, such as an illegal address; no lane can continue after one.

    Args:
        data: on any device.
        device: a CUDA device, or the CPU, which trains the lanes one after another.
        exact: use deterministic algorithms.
        max_networks: largest number of lanes; memory may allow fewer.

    Attributes:
        capacity: number of networks for which there is room, including those in training, at least 1; may change with
            every call.
        notes: messages about lanes without a CUDA graph and operations that are not exact.
        build_seconds: time for warm-up and capture of each lane that was built, by key.
    """

    def __init__(self, data: TrainingData, device: torch.device, *, exact: bool, max_networks: int) -> None:
        self.notes: list[str] = []
        self.build_seconds: dict[int, float] = {}
        self.capacity = 1
        self._device = CudaDevice(device) if device.type == "cuda" else CpuDevice()
        self._exact = exact
        self._data = data.to(device)
        self._lanes: dict[int, Lane] = {}
        self._failed: dict[int, Exception] = {}
        self._max_networks = max_networks
        self._lane_bytes = 1  # of the largest lane so far
        self._set_capacity()

    def add(self, key: int, module: nn.Module, recipe: Recipe, *, seed: int) -> None:
        """Prepares `module` for training in place, which begins with the next `advance`.

        Any other error is returned by the next `advance` as the outcome of this key.

        Raises:
            GroupFullError: there is not enough memory for this lane beside the others.
            ValueError: the key is in use.
        """
        if key in self._lanes or key in self._failed:
            raise ValueError(f"lane {key} is there already")
        bytes_before = self._device.reserved_bytes()
        with precision_settings(exact=self._exact), warnings.catch_warnings(record=True) as caught_warnings:
            warnings.simplefilter("always")
            try:
                lane = self._build_lane_or_none(key, module, recipe, seed) or self._build_lane(
                    key, module, recipe, seed
                )
            except torch.OutOfMemoryError as error:
                if self._lanes:
                    self._max_networks = len(self._lanes)
                    raise GroupFullError(f"no memory for lane {key} beside {len(self._lanes)} others") from error
                self._failed[key] = error  # does not fit even alone on the device
            except Exception as error:
                self._failed[key] = error
            else:
                self._lanes[key] = lane
                self.build_seconds[key] = lane.build_seconds
                self._lane_bytes = max(self._lane_bytes, self._device.reserved_bytes() - bytes_before)
            finally:
                self._set_capacity()
        for warning in caught_warnings:
            if "deterministic" in str(warning.message):
                self._note(str(warning.message))
            else:  # has another cause: passed on to the caller
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)

    def remove(self, key: int) -> None:
        """Removes a lane, if it is there; its module then holds the kept weights of the last finished epoch."""
        self._failed.pop(key, None)
        if lane := self._lanes.pop(key, None):
            lane.finish()
            self._device.release_stream(lane.runner)

    def advance(self) -> list[tuple[int, EpochMetrics | Exception]]:
        """Trains every lane for one epoch; returns the metrics, or the exception, of each by key.

        A lane is removed after its last epoch and after an exception, which is `TrainingDiverged` or any error that its
        network raised. `seconds` in the metrics is machine time: the wall time of the epoch divided by the number of
        lanes. The first epoch includes the build time of the lane.
        """
        outcomes: list[tuple[int, EpochMetrics | Exception]] = list(self._failed.items())
        self._failed.clear()
        lanes = dict(self._lanes)
        start = time.perf_counter()
        with precision_settings(exact=self._exact):
            errors = _queue_epoch(lanes)
            self._device.synchronize()  # the only synchronisation of the epoch
        seconds = time.perf_counter() - start
        for key, lane in lanes.items():
            try:
                outcome: EpochMetrics | Exception = errors.get(key) or lane.metrics(seconds / len(lanes))
            except Exception as error:
                outcome = error
            if isinstance(outcome, Exception) or lane.epoch == lane.recipe.epochs:
                self.remove(key)
            outcomes.append((key, outcome))
        self._set_capacity()
        return outcomes

    def _set_capacity(self) -> None:
        room = int(USABLE * self._device.free_bytes()) // self._lane_bytes
        self.capacity = max(1, min(self._max_networks, len(self._lanes) + room))

    def _build_lane_or_none(self, key: int, module: nn.Module, recipe: Recipe, seed: int) -> Lane | None:
        """Returns the lane; if memory runs out, frees unused memory and returns None."""
        try:
            return self._build_lane(key, module, recipe, seed)
        except torch.OutOfMemoryError:
            pass
        self._device.drop_caches()  # after the except block: the exception referred to the lane's tensors
        return None

    def _build_lane(self, key: int, module: nn.Module, recipe: Recipe, seed: int) -> Lane:
        """Returns the lane on the first runner that works; raises when memory runs out or the last runner fails."""
        *fast, slow = self._device.runners()
        for runner in fast:
            try:
                return Lane(module, recipe, self._data, seed=seed, runner=runner)
            except torch.OutOfMemoryError:
                self._device.release_stream(runner)
                raise
            except Exception as error:
                self._note(f"lane {key} trains without a CUDA graph: {type(error).__name__}: {error}")
        try:
            return Lane(module, recipe, self._data, seed=seed, runner=slow)
        except Exception:
            self._device.release_stream(slow)
            raise

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def _queue_epoch(lanes: dict[int, Lane]) -> dict[int, Exception]:
    """Queues one epoch of every lane, piece by piece in turn, so that all streams have work; returns errors by key."""
    errors: dict[int, Exception] = {}
    waiting = {key: lane.launches() for key, lane in lanes.items()}
    while waiting:
        for key, launches in list(waiting.items()):
            try:
                with lanes[key].runner.on_stream():
                    next(launches)
            except StopIteration:
                del waiting[key]
            except Exception as error:
                errors[key] = error
                del waiting[key]
    return errors
