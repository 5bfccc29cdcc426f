"""Measures the peak FLOP/s and bytes/s of a GPU or of one processor core.

`training.py` runs it on all cores at the same time.
"""

import ctypes
import statistics
import time
from collections.abc import Callable

import torch
from llvmlite import ir

from nas.training.native.emit import I64, POINTER, Emitter, Machine, MachineCode

PRODUCT, BYTES, TURNS = 8192, 2**30, 10_000_000  # matrix side and bytes copied on a GPU, loop iterations on a core


def ceiling(device: torch.device, *, share: int = 1) -> dict[str, float]:
    """Returns peak `flops` and `bytes` per second; `share` divides the work, for a quick estimate."""
    if device.type != "cpu":
        torch.backends.cuda.matmul.allow_tf32 = False
        side = PRODUCT // share
        a = torch.randn(side, side, device=device)
        flops = 2 * side**3 / timed(lambda: a @ a, torch.cuda.synchronize)
        large = torch.empty(BYTES // share, dtype=torch.uint8, device=device)
        other = torch.empty_like(large)
        return {"flops": flops, "bytes": 2 * len(large) / timed(lambda: other.copy_(large), torch.cuda.synchronize)}
    torch.set_num_threads(1)
    large, other = torch.ones(2**26 // share), torch.ones(2**26 // share)  # 256 MiB each, far more than any cache
    return {"flops": peak_flops(TURNS // share), "bytes": 8 * len(large) / timed(lambda: other.copy_(large))}


def peak_flops(turns: int) -> float:
    """Returns the peak FLOP/s of one core, of generated multiply-adds, or of a matrix product where nas has no code."""
    machine = Machine.host()
    if machine is None:
        a = torch.randn(1024, 1024)
        return 2 * 1024**3 / timed(lambda: a @ a)
    module = ir.Module()
    e = Emitter(module, machine, "spin", [POINTER, I64])
    place, count = e.args
    # Each sum starts with a different number, because the compiler would merge equal sums.
    sums = [e.variable(e.vector, e.load(place, i * machine.lanes)) for i in range(12)]
    factor = e.load(place, 12 * machine.lanes)
    with e.loop(count):
        for variable in sums:
            e.builder.store(e.fma(e.load_variable(variable), factor, factor), variable)
    for variable in sums:
        e.store(e.add(e.load(place), e.load_variable(variable)), place)
    e.finish()
    compiled = MachineCode(module, machine)
    spin = compiled.function("spin", ctypes.c_void_p, ctypes.c_int64)
    numbers = torch.rand(13 * machine.lanes)
    return 2 * 12 * machine.lanes * turns / timed(lambda: spin(numbers.data_ptr(), turns))


def timed(run: Callable[[], object], wait: Callable[[], None] = lambda: None) -> float:
    """Returns the median seconds of five runs after a warm-up; `wait` blocks until the work of a run has ended."""
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        run()
        wait()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])
