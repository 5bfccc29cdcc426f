"""Measures one way to train one network; `training.py` starts it in a new process and reads its output.

    python scripts/bench/ways.py WAY NETWORK DEVICE DATASET DATA_ROOT [SHARE]

With SHARE only one in SHARE images and epochs is used, for a rough estimate. Prints one line of JSON: seconds per
epoch, set-up time, number of networks at a time, peak memory, and numbers of images.
"""

import argparse
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision import datasets as published
from torchvision import transforms

sys.path.append(str(Path(__file__).parents[2]))

from nas.architecture.architecture import Architecture
from nas.data import datasets
from nas.recipe import Recipe
from nas.training import reference
from nas.training.data import TrainingData
from nas.training.device import num_cores, pick_device
from nas.training.metrics import EpochMetrics
from nas.training.select import train
from nas.workers.backend import open_workers
from nas.workers.in_process import InProcess
from nas.workers.protocol import EndReport, EpochReport, Job, Workers
from scripts.bench.ceiling import ceiling

EPOCHS = 15
BATCH_SIZE = 128
ROTATION = 7.0
NUM_TRAIN, NUM_VAL = 50_000, 10_000

Measured = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Network, device and data of a measurement.

    Attributes:
        architecture: Network to train.
        device: Device to train on.
        dataset: Dataset to train on.
        data_root: Folder of the data.
        share: Divides the numbers of images and epochs.
    """

    architecture: Architecture
    device: torch.device
    dataset: str
    data_root: str
    share: int

    def recipe(self, epochs: int) -> Recipe:
        """Returns the recipe, the same for every way."""
        return Recipe(epochs=epochs, batch_size=BATCH_SIZE, rotation=ROTATION)

    def epochs(self, most: int) -> int:
        """Returns the number of epochs to train, at least two because the first one includes compilation."""
        return max(2, most // self.share)

    def data(self) -> TrainingData:
        """Returns the splits of a search, with one in `share` of their images."""
        full = TrainingData.from_dataset(datasets.load(self.dataset, data_root=self.data_root))
        return TrainingData(
            train_images=full.train_images[:: self.share].contiguous(),
            train_labels=full.train_labels[:: self.share].contiguous(),
            val_images=full.val_images[:: self.share].contiguous(),
            val_labels=full.val_labels[:: self.share].contiguous(),
            mean=full.mean,
            std=full.std,
        )


# -- the usual way -------------------------------------------------------------------------------------------------


class Scans(Dataset[tuple[Any, int]]):
    """scikit-learn's digits as a torchvision dataset of single images."""

    def __init__(self, data_root: str, transform: Callable[[Any], Tensor]) -> None:
        loaded = datasets.load("digits", data_root=data_root)
        self.images, self.labels = (
            datasets.merge_train_and_val(loaded).images[:, 0].numpy(),
            datasets.merge_train_and_val(loaded).labels.tolist(),
        )
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.images[index], mode="L")), self.labels[index]


def images(task: Task, transform: Callable[[Any], Tensor]) -> Dataset[tuple[Any, int]]:
    """Returns torchvision's MNIST, or the digits in the same form."""
    if task.dataset == "digits":
        return Scans(task.data_root, transform)
    found: Dataset[tuple[Any, int]] = published.MNIST(task.data_root, train=True, transform=transform)
    return found


def usual(task: Task) -> Measured:
    """Measures torchvision's dataset and transforms, a data loader and an eager training step."""
    began = time.perf_counter()
    normalise = [transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))]
    augmented = transforms.Compose([transforms.RandomRotation(ROTATION), *normalise])
    whole, plain = images(task, augmented), images(task, transforms.Compose(normalise))
    size: int = len(whole)  # type: ignore[arg-type]  # torch's Dataset has no __len__, these datasets do
    num_train, num_val = size * 5 // 6 // task.share, size // 6 // task.share
    train_set, val_set = Subset(whole, range(num_train)), Subset(plain, range(size - num_val, size))
    module = task.architecture.build().to(task.device)
    step = Step(module, task.device, num_steps=EPOCHS * (num_train // BATCH_SIZE))
    set_up = time.perf_counter() - began

    def run(num_workers: int, count: int) -> float:
        start = time.perf_counter()
        subset = Subset(train_set, range(count))
        pinned = task.device.type == "cuda"
        for x, y in DataLoader(
            subset, BATCH_SIZE, shuffle=True, drop_last=True, num_workers=num_workers, pin_memory=pinned
        ):
            step(x, y)
        return time.perf_counter() - start

    began = time.perf_counter()
    tried = {n: run(n, min(4_096 // task.share, num_train)) for n in worker_numbers()}
    best = min(tried, key=lambda num_workers: tried[num_workers])
    probe = time.perf_counter() - began
    epoch = run(best, num_train)
    start = time.perf_counter()
    module.eval()
    with torch.inference_mode():
        batches = DataLoader(val_set, 1000, num_workers=best)
        sum(int((module(x.to(task.device)).argmax(1) == y.to(task.device)).sum()) for x, y in batches)
    epoch += time.perf_counter() - start
    chosen = {"chosen": f"{best} loader workers", "probe": probe}
    return {"epoch": epoch, "set_up": set_up, "at_once": 1, "num_train": num_train, "num_val": num_val, **chosen}


def worker_numbers() -> list[int]:
    """Returns the numbers of loader workers to try."""
    return sorted({0, 1, 2, min(4, num_cores()), min(8, num_cores()), num_cores()})


class Step:
    """Training step as it is usually written."""

    def __init__(self, module: nn.Module, device: torch.device, *, num_steps: int) -> None:
        self.module, self.device = module, device
        self.optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, nesterov=True)
        # Trying out the numbers of loader workers takes steps, too.
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, 0.1, total_steps=2 * num_steps + 1000, pct_start=0.2
        )

    def __call__(self, x: Tensor, y: Tensor) -> None:
        self.optimizer.zero_grad()
        scores = self.module(x.to(self.device, non_blocking=True))
        torch.autograd.backward(functional.cross_entropy(scores, y.to(self.device, non_blocking=True)))
        self.optimizer.step()
        self.schedule.step()


# -- the project's ways --------------------------------------------------------------------------------------------


def of_reference(task: Task) -> Measured:
    """Measures the reference trainer with all threads."""
    began = time.perf_counter()
    data = task.data()
    module = reference.initialise(task.architecture, seed=0)
    set_up = time.perf_counter() - began
    [metrics] = reference.train(module, task.recipe(1), data, seed=0, device=task.device)
    return {"epoch": metrics.seconds, "set_up": set_up, "at_once": 1, **sizes(data)}


def alone(task: Task) -> Measured:
    """Measures the engine with one network, alone on the device (on a processor: on one core)."""
    data = task.data()
    module = reference.initialise(task.architecture, seed=0)
    start = time.perf_counter()
    history = list(train(module, task.recipe(task.epochs(EPOCHS)), data, seed=0, device=task.device))
    wall = time.perf_counter() - start
    epoch = statistics.median(metrics.seconds for metrics in history[1:])
    set_up = history[0].seconds - epoch
    return {"epoch": epoch, "set_up": set_up, "at_once": 1, "wall": wall, "epochs": len(history), **sizes(data)}


def packed(task: Task) -> Measured:
    """Measures workers as `nas search` opens them, which train the same network with different seeds."""
    began = time.perf_counter()
    data, on_gpu = task.data(), task.device.type != "cpu"
    workers = open_workers(data, [task.device], num=1 if on_gpu else num_cores())
    set_up = time.perf_counter() - began
    wanted = max(1, workers.max_capacity // task.share) if on_gpu else workers.max_capacity
    length = task.epochs(EPOCHS if on_gpu else 3)
    start = time.perf_counter()
    done = trained(workers, task, wanted, length)
    wall = time.perf_counter() - start
    notes = {"notes": workers.notes} if isinstance(workers, InProcess) else {}
    workers.close()
    accuracies = [history[-1].val_accuracy for history in done]
    facts = {"trained": wanted, "epochs": length, "wall": wall, "accuracies": accuracies, **sizes(data), **notes}
    if on_gpu:
        return {"epoch": wall / wanted / length, "set_up": 0.0, "at_once": 1, **facts}
    epoch = statistics.median(metrics.seconds for history in done for metrics in history[1:])
    build = statistics.median(history[0].seconds for history in done) - epoch
    longest = max(sum(metrics.seconds for metrics in history) for history in done)
    return {"epoch": epoch, "set_up": build, "at_once": wanted, "workers_start": wall - longest + set_up, **facts}


def trained(workers: Workers, task: Task, wanted: int, length: int) -> list[list[EpochMetrics]]:
    """Trains `wanted` networks, as many at a time as the workers take; returns the epochs of each."""
    running: dict[int, list[EpochMetrics]] = {}
    done: list[list[EpochMetrics]] = []
    seeds = iter(range(wanted))
    left = wanted
    while left or running:
        while left and len(running) < workers.capacity:
            seed, left = next(seeds), left - 1
            running[seed] = []
            workers.submit(Job(key=seed, architecture=task.architecture, recipe=task.recipe(length), seed=seed))
        for report in workers.reports():
            if isinstance(report, EpochReport):
                running[report.key].append(report.metrics)
            elif isinstance(report, EndReport):
                if report.outcome != "trained":
                    raise SystemExit(f"a training ended as {report.outcome}: {report.reason}")
                done.append(running.pop(report.key))
    return done


def sizes(data: TrainingData) -> dict[str, int]:
    """Returns the numbers of training and validation images."""
    return {"num_train": len(data.train_labels), "num_val": len(data.val_labels)}


def of_machine(task: Task) -> Measured:
    """Measures the peak of the machine."""
    return {**ceiling(task.device, share=task.share)}


WAYS: dict[str, Callable[[Task], Measured]] = {
    "usual": usual,
    "reference": of_reference,
    "alone": alone,
    "packed": packed,
    "ceiling": of_machine,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("network")
    parser.add_argument("device")
    parser.add_argument("dataset")
    parser.add_argument("data_root")
    parser.add_argument("share", type=int, nargs="?", default=1)
    args = parser.parse_args()
    task = Task(
        architecture=Architecture.load(args.network),
        device=pick_device(args.device),
        dataset=args.dataset,
        data_root=args.data_root,
        share=args.share,
    )
    found = WAYS[args.way](task)
    whose = resource.RUSAGE_CHILDREN if args.way == "packed" and task.device.type == "cpu" else resource.RUSAGE_SELF
    print(json.dumps({**found, "peak_bytes": 1024 * resource.getrusage(whose).ru_maxrss}))


if __name__ == "__main__":
    main()
