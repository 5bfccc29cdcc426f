"""Runs many searches side by side and trains all their networks on one device.

It takes about 16 tiny networks to keep a GPU busy, but a search that learns from each result trains one at a time. So
each search runs in its own process and sends its jobs to this process, which trains them as a group.
"""

import multiprocessing
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from typing import Self

import torch

from nas.training.data import TrainingData
from nas.workers.backend import Compute
from nas.workers.in_process import InProcess
from nas.workers.protocol import EndReport, Job, Report, Workers

Split = tuple[int, int]


@dataclass
class Client:
    """Workers that send their jobs to the training process.

    Attributes:
        connection: Connection to the training process.
        data: Data that the jobs train on.
        capacity: Maximum number of jobs at a time.
    """

    connection: Connection
    data: TrainingData
    capacity: int
    _running: set[int] = field(default_factory=set)

    @property
    def max_capacity(self) -> int:
        return self.capacity

    def submit(self, job: Job) -> None:
        self._running.add(job.key)
        # Without a title no pictures are drawn: they would delay all other searches.
        self.connection.send((split(self.data), replace(job, title="")))

    def reports(self) -> list[Report]:
        if not self._running:
            return []
        report: Report = self.connection.recv()
        if isinstance(report, EndReport):
            self._running.discard(report.key)
        return [report]

    def stop(self, key: int) -> None:
        raise NotImplementedError(f"job {key} cannot be stopped: only searches without a pruner run together")

    def close(self) -> None:
        pass


@dataclass
class RemoteBackend:
    """Place to train at the other end of a connection; `of_search` is the `split` of a search's data."""

    connection: Connection
    of_search: Split
    description: str = "shared"
    num_workers: int = 1

    def open(self, data: TrainingData, *, exact: bool = False) -> Workers:
        # A search trains one network at a time, a confirmation all its seeds at once.
        return Client(self.connection, data, capacity=1 if split(data) == self.of_search else 16)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass


def split(data: TrainingData) -> Split:
    """Returns the numbers of training and of evaluation images, which identify the split of a dataset."""
    return len(data.train_labels), len(data.val_labels)


def run_together(
    tasks: Sequence[Callable[[], object]], splits: Sequence[TrainingData], *, device: torch.device, group: int
) -> None:
    """Runs each task in its own process and trains their networks in this one; exits with status 1 if a task failed.

    Processes are forked so that they share the loaded data; therefore CUDA must not be initialised before the call.

    Args:
        tasks: Functions to run.
        splits: Data that the tasks train on, first that of their searches.
        device: Device to train on.
        group: Number of networks to train at a time.
    """
    context = multiprocessing.get_context("fork")
    connections: list[Connection] = []
    processes = []
    for task in tasks:
        here, there = context.Pipe()
        processes.append(context.Process(target=_run, args=(task, RemoteBackend(there, split(splits[0]))), daemon=True))
        processes[-1].start()
        there.close()
        connections.append(here)
    engines = {split(data): InProcess(data, device, exact=False, group_size=group) for data in splits}
    waiting: dict[Split, list[Job]] = {each: [] for each in engines}
    running = dict.fromkeys(engines, 0)
    senders: list[tuple[Connection, int]] = []  # connection and original key of each job, by its number here
    while connections:
        busy = any(engine.is_busy or waiting[where] for where, engine in engines.items())
        for connection in wait(connections, timeout=0 if busy else None):
            assert isinstance(connection, Connection)
            try:
                where, job = connection.recv()
            except EOFError:
                connections.remove(connection)
                continue
            waiting[where].append(replace(job, key=len(senders)))
            senders.append((connection, job.key))
        for where, engine in engines.items():
            while waiting[where] and running[where] < engine.capacity:
                engine.submit(waiting[where].pop(0))
                running[where] += 1
            if not engine.is_busy:
                continue
            for report in engine.reports():
                connection, key = senders[report.key]
                running[where] -= isinstance(report, EndReport)
                with suppress(OSError):  # its search has died; reported after `join`
                    connection.send(replace(report, key=key))
    for process in processes:
        process.join()
    for note in (note for engine in engines.values() for note in engine.notes):
        print(note)
    if failed := sum(process.exitcode != 0 for process in processes):
        raise SystemExit(f"{failed} of {len(tasks)} tasks failed: why is said above")


def _run(task: Callable[[], object], there: RemoteBackend) -> None:
    """Runs the task with `there` as the only place to train."""
    Compute.backend = lambda _: there  # type: ignore[method-assign,assignment]
    task()
