"""The engine for NVIDIA GPUs: several tiny networks in training at once, for none of them fills the device alone."""

import time
import warnings

import torch
from torch import nn

from nas.recipe import Recipe
from nas.training.cuda.lane import Lane
from nas.training.cuda.runner import Gpu, Processor, numerics
from nas.training.data import TrainingData
from nas.training.metrics import EpochMetrics
from nas.training.protocol import GroupFullError

GROUP = 16
"""Default number of lanes. On an H200 steps a second stop growing at 8 to 16 lanes (results/performance.md)."""

USABLE = 0.9
"""The fraction of free memory that lanes may take; the rest is for what is not counted."""


class CudaGroup:
    """Networks in training at once on one device, each a lane on its own stream with its own random numbers.

    A network's result does not depend on which others there are: to the bit with `exact`. `device` may also be the
    CPU, which trains the lanes one after another. torch's settings are changed for the duration of a call, so no other
    thread should compute meanwhile. `size` is the largest number of lanes; memory may allow fewer.

    `capacity` is how many networks the group wants at once, at least 1; it may change with every call.
    `notes` says what went otherwise than meant: lanes without a CUDA graph, operations that are not exact.
    `build_seconds` holds for every key that was ever added what its warm-up and capture took.

    An error of the device itself (an illegal address, say) comes out of `advance` and ends all lanes.
    """

    def __init__(self, data: TrainingData, device: torch.device, *, exact: bool, size: int) -> None:
        self.notes: list[str] = []
        self.build_seconds: dict[int, float] = {}
        self.capacity = 1
        self._place = Gpu(device) if device.type == "cuda" else Processor()
        self._exact = exact
        self._data = data.to(device)
        self._lanes: dict[int, Lane] = {}
        self._failed: dict[int, Exception] = {}
        self._size = size
        self._lane_bytes = 1  # the largest so far
        self._set_capacity()

    def add(self, key: int, module: nn.Module, recipe: Recipe, *, seed: int) -> None:
        """Prepares `module` for training in place, from the next `advance` on; raises `GroupFullError`.

        Whatever else goes wrong is what the next `advance` yields for this key.
        """
        if key in self._lanes or key in self._failed:
            raise ValueError(f"lane {key} is there already")
        held = self._place.reserved_bytes()
        with numerics(exact=self._exact), warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                lane = self._lane_or_none(key, module, recipe, seed) or self._lane(key, module, recipe, seed)
            except torch.OutOfMemoryError as error:
                if self._lanes:
                    self._size = len(self._lanes)
                    raise GroupFullError(f"no memory for lane {key} beside {len(self._lanes)} others") from error
                self._failed[key] = error  # alone on the device: it would never fit
            except Exception as error:
                self._failed[key] = error
            else:
                self._lanes[key] = lane
                self.build_seconds[key] = lane.build_seconds
                self._lane_bytes = max(self._lane_bytes, self._place.reserved_bytes() - held)
            finally:
                self._set_capacity()
        for warning in said:
            if "deterministic" in str(warning.message):
                self._note(str(warning.message))
            else:  # none of ours: on to whom it would have reached
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)

    def remove(self, key: int) -> None:
        """Ends a lane, if it is there, before its last epoch; its module holds the weights of the last one finished."""
        self._failed.pop(key, None)
        if lane := self._lanes.pop(key, None):
            lane.finish()
            self._place.take_back(lane.runner)

    def advance(self) -> list[tuple[int, EpochMetrics | Exception]]:
        """Trains every lane by one epoch, and gives the metrics of each, or the exception that ended it.

        A lane is gone after an exception (`TrainingDiverged`, or whatever its network raised) and after its last epoch.
        The seconds of the metrics are machine time: the epoch's wall time is shared evenly among the lanes, and the
        first epoch has the lane's build time on top.
        """
        outcomes: list[tuple[int, EpochMetrics | Exception]] = list(self._failed.items())
        self._failed.clear()
        lanes = dict(self._lanes)
        start = time.perf_counter()
        with numerics(exact=self._exact):
            errors = _queue_epoch(lanes)
            self._place.synchronize()  # the only wait of the epoch
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
        room = int(USABLE * self._place.free_bytes()) // self._lane_bytes
        self.capacity = max(1, min(self._size, len(self._lanes) + room))

    def _lane_or_none(self, key: int, module: nn.Module, recipe: Recipe, seed: int) -> Lane | None:
        """The lane, or, where memory ran out, what nobody uses freed and None."""
        try:
            return self._lane(key, module, recipe, seed)
        except torch.OutOfMemoryError:
            pass
        self._place.drop_caches()  # only here, where the error no longer holds on to what the lane had
        return None

    def _lane(self, key: int, module: nn.Module, recipe: Recipe, seed: int) -> Lane:
        """The lane on the first runner that takes it; where all fail, the last one's error."""
        *fast, slow = self._place.runners()
        for runner in fast:
            try:
                return Lane(module, recipe, self._data, seed=seed, runner=runner)
            except torch.OutOfMemoryError:
                self._place.take_back(runner)
                raise
            except Exception as error:
                self._note(f"lane {key} trains without a CUDA graph: {type(error).__name__}: {error}")
        try:
            return Lane(module, recipe, self._data, seed=seed, runner=slow)
        except Exception:  # whatever it was, the caller has it; the stream is free again
            self._place.take_back(slow)
            raise

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def _queue_epoch(lanes: dict[int, Lane]) -> dict[int, Exception]:
    """Queues an epoch of every lane, a piece of each in turn, so that all streams have work; gives what failed."""
    errors: dict[int, Exception] = {}
    waiting = {key: lane.launches() for key, lane in lanes.items()}
    while waiting:
        for key, launches in list(waiting.items()):
            try:
                with lanes[key].runner.here():
                    next(launches)
            except StopIteration:
                del waiting[key]
            except Exception as error:
                errors[key] = error
                del waiting[key]
    return errors
