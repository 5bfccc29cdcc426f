"""How fast candidates train: the usual way, the reference trainer, and the engine as `nas search` uses it.

    python scripts/bench/training.py [--json] [--device cuda] [--networks mnist-7825 ...] [--pairs 3]

The same network, recipe, batch size and images for each, one after the other, in turn, in a fresh process each time.
An epoch is training on 50,000 images and validation on 10,000. The usual way and the reference train one network with
all cores; the engine trains as many at a time as `nas search` does. `networks an hour` counts 15 epochs and everything
that comes before them: loading, building, compiling, capturing, probing.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nas.training.device import num_cores

EPOCHS = 15
NETWORKS = ("mnist-7825", "mnist-6136", "mnist-26756")
BATCH_SIZE = 128
ROTATION = 7.0
NUM_TRAIN, NUM_VAL = 50_000, 10_000
EXTRA = ("chosen", "probe", "workers_start", "alone", "notes")  # seconds, or texts

Measured = dict[str, Any]


# -- the three ways, each run by a process of its own -----------------------------------------------------------


def usual(network: str, device_name: str, root: str) -> Measured:
    """torchvision's data set and transforms, a data loader, an eager step."""
    import torch
    from torch.nn import functional
    from torch.utils.data import DataLoader, Subset
    from torchvision import datasets, transforms

    from nas.architecture.architecture import Architecture

    began = time.perf_counter()
    device = torch.device(device_name)
    normalise = [transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))]
    augmented = transforms.Compose([transforms.RandomRotation(ROTATION), *normalise])
    whole = datasets.MNIST(root, train=True, transform=augmented)
    plain = datasets.MNIST(root, train=True, transform=transforms.Compose(normalise))
    train, val = Subset(whole, range(NUM_TRAIN)), Subset(plain, range(NUM_TRAIN, NUM_TRAIN + NUM_VAL))
    module = Architecture.load(network).build().to(device)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.1, epochs=EPOCHS, steps_per_epoch=NUM_TRAIN // BATCH_SIZE, pct_start=0.2
    )
    set_up = time.perf_counter() - began

    def loader(num_workers: int, num_images: int) -> DataLoader[Any]:
        return DataLoader(
            Subset(train, range(num_images)),
            BATCH_SIZE,
            shuffle=True,
            drop_last=True,
            num_workers=num_workers,
            pin_memory=device.type == "cuda",
        )

    def run(batches: DataLoader[Any]) -> None:
        module.train()
        for images, labels in batches:
            optimizer.zero_grad()
            loss = functional.cross_entropy(
                module(images.to(device, non_blocking=True)), labels.to(device, non_blocking=True)
            )
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()

    began = time.perf_counter()
    trials = {}
    for num_workers in sorted({0, 1, 2, min(4, num_cores()), min(8, num_cores()), num_cores()}):
        start = time.perf_counter()
        run(loader(num_workers, 4_096))
        trials[num_workers] = time.perf_counter() - start
    best = min(trials, key=lambda num_workers: trials[num_workers])
    probe = time.perf_counter() - began
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)  # the probe has used steps of the other
    start = time.perf_counter()
    run(loader(best, NUM_TRAIN))
    module.eval()
    with torch.inference_mode():
        right = sum(
            (module(x.to(device)).argmax(1) == y.to(device)).sum() for x, y in DataLoader(val, 1000, num_workers=best)
        )
        float(right)
    epoch = time.perf_counter() - start
    return {"epoch": epoch, "set_up": set_up, "at_once": 1, "chosen": f"{best} loader workers", "probe": probe}


def reference(network: str, device_name: str, root: str) -> Measured:
    """The project's eager trainer, all threads."""
    from nas.architecture.architecture import Architecture
    from nas.training.device import pick_device
    from nas.training.reference import initialise, train

    began = time.perf_counter()
    data, device = training_data(root), pick_device(device_name)
    module = initialise(Architecture.load(network), seed=0)
    set_up = time.perf_counter() - began
    [metrics] = train(module, recipe(1), data, seed=0, device=device)
    return {"epoch": metrics.seconds, "set_up": set_up, "at_once": 1}


def engine(network: str, device_name: str, root: str) -> Measured:
    """Workers as `nas search` opens them; several of the same network with different seeds."""
    from nas.architecture.architecture import Architecture
    from nas.training.device import pick_device
    from nas.workers.backend import open_workers
    from nas.workers.in_process import Here
    from nas.workers.protocol import Ended, Job, Progress

    began = time.perf_counter()
    data, device = training_data(root), pick_device(device_name)
    workers = open_workers(data, [device], num=num_cores() if device.type == "cpu" else 1)
    architecture = Architecture.load(network)
    on_gpu = device.type != "cpu"
    wanted = 4 * workers.most if on_gpu else workers.most
    length = EPOCHS if on_gpu else 3
    set_up = time.perf_counter() - began
    left, seed = wanted, 0
    running: dict[int, list[float]] = {}
    done: list[list[float]] = []
    start = time.perf_counter()
    while left or running:
        while left and len(running) < workers.capacity:
            running[seed] = []
            workers.submit(Job(key=seed, architecture=architecture, recipe=recipe(length), seed=seed))
            left, seed = left - 1, seed + 1
        for report in workers.reports():
            if isinstance(report, Progress):
                running[report.key].append(report.metrics.seconds)
            elif isinstance(report, Ended):
                assert report.outcome == "trained", report.reason
                done.append(running.pop(report.key))
    wall = time.perf_counter() - start
    at_once = wanted if on_gpu else workers.most
    workers.close()
    epoch = statistics.median(second for seconds in done for second in seconds[1:])
    build = statistics.median(seconds[0] for seconds in done) - epoch
    found = {"epoch": epoch, "set_up": build, "at_once": at_once, "workers_start": wall - max(map(sum, done)) + set_up}
    if isinstance(workers, Here):
        found["notes"] = workers.notes
    if on_gpu:
        found |= {"epoch": wall / wanted / EPOCHS, "set_up": 0.0, "at_once": 1}
        found["alone"] = alone(architecture, data, device)
    return found


def alone(architecture: Any, data: Any, device: Any) -> float:
    """Seconds for the 15 epochs of one network that has the GPU for itself, everything included."""
    from nas.training.reference import initialise
    from nas.training.select import train

    start = time.perf_counter()
    for _ in train(initialise(architecture, seed=0), recipe(EPOCHS), data, seed=0, device=device):
        pass
    return time.perf_counter() - start


WAYS: dict[str, Callable[[str, str, str], Measured]] = {"usual": usual, "reference": reference, "engine": engine}


# -- the machine's ceiling ---------------------------------------------------------------------------------------


def ceiling(network: str, device_name: str, root: str) -> Measured:
    """Products and bytes a second that the machine gives: on processors of one core, while all others do the same."""
    import torch

    if device_name != "cpu":
        a = torch.randn(8192, 8192, device=device_name)
        torch.backends.cuda.matmul.allow_tf32 = False
        flops = 2 * 8192**3 / timed(lambda: (a @ a, torch.cuda.synchronize()))
        large = torch.empty(2**30, dtype=torch.uint8, device=device_name)
        other = torch.empty_like(large)
        return {"flops": flops, "bytes": 2 * 2**30 / timed(lambda: (other.copy_(large), torch.cuda.synchronize()))}
    torch.set_num_threads(1)
    large, other = torch.ones(2**26), torch.ones(2**26)  # 256 MiB each, far more than any cache
    return {"flops": peak_flops(), "bytes": 2 * 2**28 / timed(lambda: other.copy_(large))}


def peak_flops() -> float:
    """Of one core: fused multiply-adds of independent registers, or a matrix product where we write no code."""
    import ctypes

    import torch
    from llvmlite import ir

    from nas.training.native.emit import I64, POINTER, Compiled, Emitter, Machine

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
    numbers, turns = torch.rand(13 * machine.lanes), 10_000_000
    return 2 * 12 * machine.lanes * turns / timed(lambda: spin(numbers.data_ptr(), turns))


def timed(run: Callable[[], object]) -> float:
    run()
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


# -- common parts ------------------------------------------------------------------------------------------------


def recipe(epochs: int) -> Any:
    from nas.recipe import Recipe

    return Recipe(epochs=epochs, batch_size=BATCH_SIZE, rotation=ROTATION)


def training_data(root: str) -> Any:
    from nas.data import datasets
    from nas.training.data import TrainingData

    return TrainingData.of(datasets.load("mnist", data_root=root))


def flops_an_epoch(network: str) -> int:
    """Twice the multiply-accumulates of an epoch: forward, back to weights and inputs, but not to the images."""
    from nas.architecture.architecture import Architecture
    from nas.architecture.cost import cost_of

    architecture = Architecture.load(network)
    first = architecture.layers[0].measure(architecture.input_shape).macs
    macs = cost_of(architecture).macs
    return 2 * (NUM_TRAIN * (3 * macs - first) + NUM_VAL * macs)


def in_process(way: str, network: str, device: str, root: str) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--only", way, "--networks", network, "--device", device, "--data-root", root]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def result(process: subprocess.Popen[str]) -> Measured:
    text, _ = process.communicate()
    if process.returncode:
        sys.exit(f"failed: {' '.join(map(str, process.args))}")  # type: ignore[arg-type]
    found: Measured = json.loads(text.splitlines()[-1])
    return found


def measure(networks: list[str], device: str, root: str, pairs: int) -> Iterator[Measured]:
    """A row for each network."""
    cores = num_cores() if device == "cpu" else 1
    spinning = [in_process("ceiling", networks[0], device, root) for _ in range(cores)]
    limits = [result(process) for process in spinning]
    flops, bandwidth = (sum(limit[key] for limit in limits) for key in ("flops", "bytes"))
    for network in networks:
        runs: dict[str, list[Measured]] = {way: [] for way in WAYS}
        for _ in range(pairs):
            for way, rows in runs.items():
                rows.append(result(in_process(way, network, device, root)))
                print(f"{network} {way}: {rows[-1]}", file=sys.stderr, flush=True)
        row: Measured = {"network": network, "flops_ceiling": flops, "bytes_ceiling": bandwidth}
        for way, rows in runs.items():
            each = [(row["set_up"] + EPOCHS * row["epoch"]) / row["at_once"] for row in rows]
            row[way] = {
                "seconds_an_epoch": statistics.median(row["epoch"] / row["at_once"] for row in rows),
                "networks_an_hour": [3600 / seconds for seconds in each],
                "set_up_seconds": statistics.median(row["set_up"] for row in rows),
                "peak_bytes": max(row["peak_bytes"] for row in rows),
                "share_of_flops": statistics.median(
                    flops_an_epoch(network) * row["at_once"] / row["epoch"] / flops for row in rows
                ),
                **{key: rows[-1][key] for key in EXTRA if key in rows[-1]},
            }
        for way in ("usual", "reference"):
            pairs_of = zip(row["engine"]["networks_an_hour"], row[way]["networks_an_hour"], strict=True)
            row[f"engine_over_{way}"] = [engine / other for engine, other in pairs_of]
        yield row


def lines(row: Measured) -> Iterator[str]:
    yield f"{row['network']}: ceiling {row['flops_ceiling'] / 1e9:.0f} GFLOP/s, {row['bytes_ceiling'] / 1e9:.0f} GB/s"
    for way in WAYS:
        found = row[way]
        extra = "".join(f", {key} {found[key]}" for key in EXTRA if key in found)
        yield (
            f"  {way:<10} {found['seconds_an_epoch']:6.2f} s an epoch and network,"
            f" {statistics.median(found['networks_an_hour']):6.1f} networks an hour,"
            f" set-up {found['set_up_seconds']:.2f} s, peak {found['peak_bytes'] / 1e6:.0f} MB a process,"
            f" {found['share_of_flops']:.0%} of the arithmetic{extra}"
        )
    for way in ("usual", "reference"):
        ratios = sorted(row[f"engine_over_{way}"])
        yield f"  engine / {way}: {statistics.median(ratios):.1f} ({ratios[0]:.1f} to {ratios[-1]:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--data-root", default=os.environ.get("NAS_DATA", "data"))
    parser.add_argument("--only", choices=[*WAYS, "ceiling"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        found = {**WAYS, "ceiling": ceiling}[args.only](args.networks[0], args.device, args.data_root)
        usage = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        found["peak_bytes"] = 1024 * (usage[1] if args.only == "engine" and args.device == "cpu" else usage[0])
        print(json.dumps(found))
        return
    if not (Path(args.data_root) / "MNIST" / "raw").is_dir():
        sys.exit(f"{args.data_root}: no MNIST/raw in it; --data-root or NAS_DATA names another folder")
    rows = []
    for row in measure(args.networks, args.device, args.data_root, args.pairs):
        rows.append(row)
        if not args.json:
            print("\n".join(lines(row)), flush=True)
    if args.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
