"""How lanes run on a device: streams, CUDA graphs, memory and float32 precision."""

import contextlib
import gc
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, cast

import torch

Work = Callable[[], None]


class EagerRunner:
    """Runs work without a graph, on its own stream or, without a stream, on the CPU."""

    warm_up_steps = 0

    def __init__(self, stream: torch.cuda.Stream | None = None) -> None:
        self.stream = stream

    def on_stream(self) -> AbstractContextManager[object]:
        """Returns a context in which the lane's stream and device are the current ones."""
        return torch.cuda.stream(self.stream)

    def make_repeatable(self, work: Work, generators: Sequence[torch.Generator]) -> Work:
        """Returns a function that does `work` at each call; `work` may draw random numbers only from `generators`."""
        del generators
        return work


class GraphRunner(EagerRunner):
    """Captures work once as a CUDA graph and replays it with one launch."""

    # The first step creates what a capture must not create: handles, workspaces, the optimizer's state. The second is
    # torch's advice: by then every allocation has its final size.
    warm_up_steps = 2

    def __init__(self, stream: torch.cuda.Stream) -> None:
        super().__init__(stream)
        # All graphs of a lane share memory: they never run at the same time and exchange only static tensors.
        self._pool = torch.cuda.graph_pool_handle()

    def make_repeatable(self, work: Work, generators: Sequence[torch.Generator]) -> Work:
        graph = torch.cuda.CUDAGraph()
        for generator in generators:
            graph.register_generator_state(generator)
        try:
            # thread_local: device calls of other threads (of another group, say) do not invalidate this capture.
            with torch.cuda.graph(graph, pool=self._pool, stream=self.stream, capture_error_mode="thread_local"):
                work()
        except BaseException:
            self._recover()
            raise
        return graph.replay

    def _recover(self) -> None:
        """Makes replays work again after a failed capture.

        In torch 2.11, every graph includes the default generator of the device, and a capture that cannot be ended
        leaves this generator in its capturing state. The replays of all lanes would then fail until the next successful
        capture.
        """
        with contextlib.suppress(Exception):
            spare = torch.cuda.CUDAGraph()
            with torch.cuda.graph(spare, stream=self.stream, capture_error_mode="thread_local"):
                torch.zeros(1, device="cuda")


class CpuDevice:
    """The CPU as the device of a group: no streams, no graphs, and memory is not counted."""

    def runners(self) -> Sequence[EagerRunner]:
        """Returns ways to run one lane, the fastest first; each is tried when the one before it fails."""
        return (EagerRunner(),)

    def release_stream(self, runner: EagerRunner) -> None:
        """Takes the stream of a lane that has ended, so that another lane can use it."""

    def synchronize(self) -> None:
        """Waits until all queued work is done."""

    def drop_caches(self) -> None:
        """Frees unused memory."""
        gc.collect()

    def reserved_bytes(self) -> int:
        """Returns the bytes that this process holds on the device."""
        return 0

    def free_bytes(self) -> int:
        """Returns the bytes on the device that are free for this process."""
        return sys.maxsize


class CudaDevice(CpuDevice):
    """A CUDA device. Sets two environment variables, which take effect only if the process has not used CUDA before."""

    def __init__(self, device: torch.device) -> None:
        # Without this, cuBLAS is not bitwise repeatable when several streams run.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        # Streams beyond the number of hardware queues (default 8) wait for one another.
        os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")
        self.device = device
        # torch cycles through 32 streams, and cuBLAS keeps a workspace for each, so lanes reuse streams.
        self._idle: list[torch.cuda.Stream] = []

    def runners(self) -> Sequence[EagerRunner]:
        with torch.cuda.device(self.device):
            stream = self._idle.pop() if self._idle else torch.cuda.Stream()  # type: ignore[no-untyped-call]
            return (GraphRunner(stream), EagerRunner(stream))

    def release_stream(self, runner: EagerRunner) -> None:
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
def precision_settings(*, exact: bool) -> Iterator[None]:
    """Context with full float32 precision and, with `exact`, bitwise repeatable results; restores torch's settings.

    Without `exact`, cuDNN may use algorithms that add in no fixed order. With it, an operation that has no
    deterministic algorithm runs and warns; `CudaGroup` adds the warning to its notes. Both modes turn off

    - TF32, which rounds to 10 bits and gains nothing for kernels of a few channels. Accuracies stay comparable with
      those from a CPU.
    - cudnn.benchmark, which takes tens of milliseconds for every convolution and direction, more than the fastest
      algorithm saves a tiny network in its few thousand steps.
    """
    matmul, memory = torch.backends.cuda.matmul, cast(Any, torch.utils.deterministic)
    precision, filling = matmul.fp32_precision, memory.fill_uninitialized_memory
    modes = (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled())
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=exact, allow_tf32=False):
        try:
            torch.use_deterministic_algorithms(exact, warn_only=True)
            # Otherwise deterministic mode would fill every new tensor with NaN, with one more kernel for each.
            memory.fill_uninitialized_memory = False
            matmul.fp32_precision = "ieee"
            yield
        finally:
            matmul.fp32_precision = precision
            memory.fill_uninitialized_memory = filling
            torch.use_deterministic_algorithms(modes[0], warn_only=modes[1])
