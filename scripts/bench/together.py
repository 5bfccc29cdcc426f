"""One process that trains on a device for many others: so many small searches share a GPU.

A GPU trains 16 tiny networks in little more time than 3, but a search that draws from what it has learnt wants to train
one after the other. So searches run side by side, each in a process of its own, and what they train meets here.
"""

import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from typing import Any, Self

import torch

from nas.training.data import TrainingData
from nas.workers.backend import Compute
from nas.workers.in_process import InProcess
from nas.workers.protocol import Ended, Job, Report, Workers


@dataclass
class Client:
    """Workers whose jobs are trained by the process at the other end. capacity: jobs at a time."""

    connection: Connection
    data: TrainingData
    capacity: int
    _running: set[int] = field(default_factory=set)

    @property
    def most(self) -> int:
        return self.capacity

    def submit(self, job: Job) -> None:
        self._running.add(job.key)
        # No pictures: they would hold up all others.
        self.connection.send((split(self.data), replace(job, title="")))

    def reports(self) -> list[Report]:
        if not self._running:
            return []
        report: Report = self.connection.recv()
        if isinstance(report, Ended):
            self._running.discard(report.key)
        return [report]

    def stop(self, key: int) -> None:
        raise NotImplementedError("a pruner has no place here")

    def close(self) -> None:
        pass


@dataclass
class There:
    """A place to train: at the other end of a connection."""

    connection: Connection
    description: str = "shared"
    num_workers: int = 1

    def open(self, data: TrainingData, *, exact: bool = False) -> Workers:
        # A search trains one after the other, a confirmation all its seeds at once.
        first, _ = split(data)
        self.splits.append(first)
        return Client(self.connection, data, capacity=1 if first == self.splits[0] else 16)

    splits: list[int] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass


def split(data: TrainingData) -> tuple[int, int]:
    """What tells the splits of a dataset from one another: their numbers of images."""
    return len(data.train_labels), len(data.val_labels)


def run_together(
    tasks: Sequence[Callable[[], object]], splits: Sequence[TrainingData], *, device: torch.device, group: int
) -> None:
    """Runs all tasks at once, each in a process; what they train is trained here. splits: of what they train on.

    The processes are forked, so they have what is loaded already; CUDA may not have been used yet.
    """
    context = multiprocessing.get_context("fork")
    connections: dict[Connection, int] = {}
    processes = []
    for index, task in enumerate(tasks):
        here, there = context.Pipe()
        processes.append(context.Process(target=_run, args=(task, there), daemon=True))
        processes[-1].start()
        there.close()
        connections[here] = index
    engines = {split(data): InProcess(data, device, exact=False, group=group) for data in splits}
    waiting: dict[tuple[int, int], list[Job]] = {each: [] for each in engines}
    jobs: dict[tuple[tuple[int, int], int], tuple[Connection, int]] = {}  # whose a job is, and its key there
    running = dict.fromkeys(engines, 0)
    number = 0
    while connections:
        busy = any(engine.busy for engine in engines.values())
        for connection in wait(list(connections), timeout=0 if busy else None):
            assert isinstance(connection, Connection)
            try:
                where, job = connection.recv()
            except EOFError:
                del connections[connection]
                continue
            jobs[where, number] = connection, job.key
            waiting[where].append(replace(job, key=number))
            number += 1
        for where, engine in engines.items():
            while waiting[where] and running[where] < engine.capacity:
                engine.submit(waiting[where].pop(0))
                running[where] += 1
            if not engine.busy:
                continue
            for report in engine.reports():
                connection, key = jobs[where, report.key]
                running[where] -= isinstance(report, Ended)
                if connection in connections:
                    connection.send(replace(report, key=key))
    for process in processes:
        process.join()
    if notes := [note for engine in engines.values() for note in engine.notes]:
        print("\n".join(notes))


def _run(task: Callable[[], object], connection: Connection) -> None:
    def place(compute: Compute) -> Any:
        del compute
        return There(connection)

    Compute.place = place  # type: ignore[method-assign,assignment]
    task()
