"""Stream, CUDA graphs, memory and numerics that a lane runs with."""

import contextlib
import gc
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, cast

import torch

Work = Callable[[], None]


class Eager:
    """Runs work as it is written, on a stream of its own; without one (on a processor) at once."""

    warm_up_steps = 0

    def __init__(self, stream: torch.cuda.Stream | None = None) -> None:
        self.stream = stream

    def here(self) -> AbstractContextManager[object]:
        """Within, the lane's stream, and so its device, is the current one."""
        return torch.cuda.stream(self.stream)

    def repeatable(self, work: Work, generators: Sequence[torch.Generator]) -> Work:
        """A function that does `work`, whose random draws all come from `generators`, as often as it is called."""
        del generators
        return work


class Captured(Eager):
    """Records work once as a CUDA graph, and replays it with one launch."""

    # The first step makes what a capture may not: handles, workspaces, the optimizer's state. The second is torch's
    # advice: by then every allocation has its final size.
    warm_up_steps = 2

    def __init__(self, stream: torch.cuda.Stream) -> None:
        super().__init__(stream)
        # A lane's graphs share their memory: they never run at once, and hand one another only static tensors.
        self._pool = torch.cuda.graph_pool_handle()

    def repeatable(self, work: Work, generators: Sequence[torch.Generator]) -> Work:
        graph = torch.cuda.CUDAGraph()
        for generator in generators:
            graph.register_generator_state(generator)
        try:
            # thread_local: whatever other threads do with the device (another group's, say) does not end this capture.
            with torch.cuda.graph(graph, pool=self._pool, stream=self.stream, capture_error_mode="thread_local"):
                work()
        except BaseException:
            self._recover()
            raise
        return graph.replay

    def _recover(self) -> None:
        """Makes replays work again after a capture that failed.

        torch 2.11 has every graph include the device's default generator, and leaves that in its capturing state when
        a capture cannot be ended: then all lanes' replays would fail, until the next capture that ends well.
        """
        with contextlib.suppress(Exception):
            spare = torch.cuda.CUDAGraph()
            with torch.cuda.graph(spare, stream=self.stream, capture_error_mode="thread_local"):
                torch.zeros(1, device="cuda")


class Processor:
    """A device without streams or graphs, whose memory is not counted: on it a group is slow, but the same."""

    def runners(self) -> Sequence[Eager]:
        """Ways to run one lane, the fastest first; each is tried when the one before it fails."""
        return (Eager(),)

    def take_back(self, runner: Eager) -> None:
        """The runner's lane is gone: another may have its stream."""

    def synchronize(self) -> None:
        """Waits until all queued work is done."""

    def drop_caches(self) -> None:
        """Frees what nobody uses."""
        gc.collect()

    def reserved_bytes(self) -> int:
        """Bytes that this process holds on the device."""
        return 0

    def free_bytes(self) -> int:
        """Bytes that it could hold on top."""
        return sys.maxsize


class Gpu(Processor):
    """A CUDA device. Made before the process uses CUDA, it sets the two environment variables that help here."""

    def __init__(self, device: torch.device) -> None:
        # Without it cuBLAS promises no repeatable bits where several streams run.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        # Streams beyond the number of hardware queues (8 unless told) wait for one another.
        os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")
        self.device = device
        # torch hands out 32 streams in turn, and cuBLAS keeps a workspace for each: a lane takes up an old one.
        self._idle: list[torch.cuda.Stream] = []

    def runners(self) -> Sequence[Eager]:
        with torch.cuda.device(self.device):
            stream = self._idle.pop() if self._idle else torch.cuda.Stream()  # type: ignore[no-untyped-call]
            return (Captured(stream), Eager(stream))

    def take_back(self, runner: Eager) -> None:
        if runner.stream is not None:
            self._idle.append(runner.stream)

    def synchronize(self) -> None:
        torch.cuda.synchronize(self.device)

    def drop_caches(self) -> None:
        super().drop_caches()
        with torch.cuda.device(self.device):
            torch.cuda.empty_cache()

    def reserved_bytes(self) -> int:
        return torch.cuda.memory_reserved(self.device)

    def free_bytes(self) -> int:
        return torch.cuda.mem_get_info(self.device)[0]


@contextmanager
def numerics(*, exact: bool) -> Iterator[None]:
    """Within, float32 is float32, and with `exact` equal inputs give equal bits; after, all is as it was.

    Without `exact` cuDNN may take an algorithm that adds in no fixed order. Two choices hold for both:
    no TF32, which rounds to 10 bits and gains nothing where kernels of a few channels wait for their launch, so that
    accuracies compare with those from a processor; and no cudnn.benchmark, which takes tens of milliseconds for every
    convolution and direction, more than the fastest algorithm saves a tiny network in its few thousand steps.

    An operation that has no exact algorithm warns and runs: the warning is what a group notes.
    """
    matmul, memory = torch.backends.cuda.matmul, cast(Any, torch.utils.deterministic)
    precision, filling = matmul.fp32_precision, memory.fill_uninitialized_memory
    modes = (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled())
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=exact, allow_tf32=False):
        try:
            torch.use_deterministic_algorithms(exact, warn_only=True)
            # Else exactness would fill every new tensor with NaN: a kernel for each.
            memory.fill_uninitialized_memory = False
            matmul.fp32_precision = "ieee"
            yield
        finally:
            matmul.fp32_precision = precision
            memory.fill_uninitialized_memory = filling
            torch.use_deterministic_algorithms(modes[0], warn_only=modes[1])
