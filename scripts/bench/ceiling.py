"""The machine's ceiling: products and bytes a second, on processors of one core, while all others do the same."""

import ctypes
import statistics
import time
from collections.abc import Callable

import torch
from llvmlite import ir

from nas.training.native.emit import I64, POINTER, Compiled, Emitter, Machine

PRODUCT, BYTES, TURNS = 8192, 2**30, 10_000_000  # side of matrices, bytes copied on a GPU, turns of the loop on a core


def ceiling(device: torch.device, *, share: int = 1) -> dict[str, float]:
    """FLOP/s and bytes/s. `share`: by how much less is done to find it, where it has to be quick."""
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
    """Of one core: fused multiply-adds of independent registers, or a matrix product where we write no code."""
    machine = Machine.host()
    if machine is None:
        a = torch.randn(1024, 1024)
        return 2 * 1024**3 / timed(lambda: a @ a)
    module = ir.Module()
    e = Emitter(module, machine, "spin", [POINTER, I64])
    place, count = e.args
    # Each starts with another number: equal sums would be computed once.
    sums = [e.variable(e.vector, e.load(place, i * machine.lanes)) for i in range(12)]
    factor = e.load(place, 12 * machine.lanes)
    with e.loop(count):
        for variable in sums:
            e.builder.store(e.fma(e.value(variable), factor, factor), variable)
    for variable in sums:
        e.store(e.add(e.load(place), e.value(variable)), place)
    e.finish()
    compiled = Compiled(module, machine)
    spin = compiled.function("spin", ctypes.c_void_p, ctypes.c_int64)
    numbers = torch.rand(13 * machine.lanes)
    return 2 * 12 * machine.lanes * turns / timed(lambda: spin(numbers.data_ptr(), turns))


def timed(run: Callable[[], object], wait: Callable[[], None] = lambda: None) -> float:
    """Median seconds of five runs after a first one; `wait`: until what a run began has ended."""
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        run()
        wait()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])
