"""Trains jobs in worker processes with one thread each."""

import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch

import nas
from nas.training.data import SharedData, TrainingData
from nas.workers.protocol import RETRIES, EndReport, Job, Report


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """First message to a worker process: data, device and options of the engine."""

    data: SharedData
    device: torch.device
    exact: bool
    group_size: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportBatch:
    """Message from a worker process: reports, and the number of jobs that it can now train at a time."""

    capacity: int
    reports: list[Report]


@dataclass(slots=True)
class _RunningJob:
    """A job in training.

    Attributes:
        job: The job.
        epoch: Last epoch that was reported.
        times_lost: Number of worker processes that died while they trained the job.
    """

    job: Job
    epoch: int = 0
    times_lost: int = 0


@dataclass(slots=True, eq=False)
class _Worker:
    """A worker process.

    Attributes:
        config: First message to the process.
        process: The process.
        listener: Thread that receives its messages.
        capacity: Number of jobs that it can train at a time.
        jobs: Jobs in training, by key.
    """

    config: WorkerConfig
    process: subprocess.Popen[bytes]
    listener: threading.Thread = field(init=False)
    capacity: int = 1
    jobs: dict[int, _RunningJob] = field(default_factory=dict)

    def train(self, running: _RunningJob) -> None:
        """Trains a job from its first epoch."""
        self.jobs[running.job.key] = running
        self.send(running.job)

    def send(self, message: WorkerConfig | Job | int) -> None:
        """Sends a message: the configuration, a job, or the key of a job to stop."""
        assert self.process.stdin is not None
        with suppress(OSError):  # the listener notices that the process has died
            pickle.dump(message, self.process.stdin)
            self.process.stdin.flush()

    def end(self) -> None:
        """Kills the process, which holds nothing that could be lost, and waits for the end of its listener."""
        self.process.kill()
        self.process.wait()
        self.listener.join()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with suppress(OSError):  # unsent data cannot be written any more
                pipe.close()


class ProcessPool:
    """One worker process for each of `devices`, started when there is a job for it. All share one copy of the images.

    A process that dies is replaced, and its jobs start again; a job fails after more than `RETRIES` such losses. The
    other processes continue.
    """

    def __init__(
        self,
        data: TrainingData,
        devices: list[torch.device],
        *,
        exact: bool,
        group_size: int | None = None,
        max_per_device: int,
    ) -> None:
        self.max_capacity = max_per_device * len(devices)
        self._folder = tempfile.TemporaryDirectory(prefix="nas-", ignore_cleanup_errors=True)
        shared = SharedData.write(data, Path(self._folder.name))
        # Messages with the worker that sent them; None when its process has ended.
        self._received: queue.Queue[tuple[_Worker, ReportBatch | None]] = queue.Queue()
        self._to_start = [
            WorkerConfig(data=shared, device=device, exact=exact, group_size=group_size) for device in devices
        ]
        self._workers: list[_Worker] = []

    @property
    def capacity(self) -> int:
        return sum(worker.capacity for worker in self._workers) + len(self._to_start)

    def submit(self, job: Job) -> None:
        if self._to_start and all(worker.jobs for worker in self._workers):
            self._workers.append(self._start_worker(self._to_start.pop(0)))
        freest = max(self._workers, key=lambda worker: worker.capacity - len(worker.jobs))
        freest.train(_RunningJob(job))

    def reports(self) -> list[Report]:
        found: list[Report] = []
        while not found and any(worker.jobs for worker in self._workers):
            with suppress(queue.Empty):
                # Waits briefly, because on some systems Ctrl-C does not interrupt a long wait.
                worker, batch = self._received.get(timeout=0.5)
                if worker in self._workers:
                    found = self._replace_worker(worker) if batch is None else self._accept_reports(worker, batch)
        return found

    def stop(self, key: int) -> None:
        for worker in self._workers:
            if key in worker.jobs:
                del worker.jobs[key]
                worker.send(key)

    def close(self) -> None:
        for worker in self._workers:
            worker.end()
        self._workers.clear()
        self._folder.cleanup()

    def _accept_reports(self, worker: _Worker, batch: ReportBatch) -> list[Report]:
        """Returns the reports in a message that are new and not on a stopped job."""
        worker.capacity = batch.capacity
        reports: list[Report] = []
        for report in batch.reports:
            running = worker.jobs.get(report.key)
            if running is None:  # stopped while the report was on its way
                continue
            if isinstance(report, EndReport):
                del worker.jobs[report.key]
            elif report.metrics.epoch <= running.epoch:  # already reported before its process died
                continue
            else:
                running.epoch = report.metrics.epoch
            reports.append(report)
        return reports

    def _replace_worker(self, worker: _Worker) -> list[Report]:
        """Starts a process for the jobs of one that has died; returns the last reports of jobs that failed by that."""
        worker.end()
        if not worker.jobs:  # started again when there is a job for it
            self._workers.remove(worker)
            self._to_start.append(worker.config)
            return []
        code = worker.process.returncode
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        new = self._workers[self._workers.index(worker)] = self._start_worker(worker.config)
        failed: list[Report] = []
        for key, running in worker.jobs.items():
            running.times_lost += 1
            if running.times_lost <= RETRIES:
                new.train(running)
            else:
                reason = f"{running.times_lost} worker processes died while they trained it, the last one by {how}"
                failed.append(EndReport(key=key, outcome="failed", reason=reason))
        return failed

    def _start_worker(self, config: WorkerConfig) -> _Worker:
        # Not multiprocessing, which would import the caller's script in every process.
        path = [str(Path(nas.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "nas.workers.process_main"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C in a terminal reaches only the parent process, which decides
        )
        worker = _Worker(config, process)
        worker.send(config)
        worker.listener = threading.Thread(target=self._listen, args=(worker,), daemon=True)
        worker.listener.start()
        return worker

    def _listen(self, worker: _Worker) -> None:
        """Passes on the messages of a worker until its process ends. Runs in the worker's listener."""
        assert worker.process.stdout is not None
        with suppress(EOFError, OSError, pickle.UnpicklingError):  # a process that dies may leave an incomplete message
            while True:
                self._received.put((worker, pickle.load(worker.process.stdout)))
        self._received.put((worker, None))
