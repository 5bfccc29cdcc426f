"""Trains jobs in the calling process."""

import io

import torch
from torch import nn

from nas.errors import TrainingDiverged, first_line
from nas.training.data import TrainingData
from nas.training.metrics import EpochMetrics
from nas.training.protocol import GroupFullError
from nas.training.reference import initialise, state_dict_on_cpu
from nas.training.select import max_engine_capacity, open_engine
from nas.training.trial_files import files_of_training
from nas.workers.protocol import EndReport, EpochReport, Job, Report


class InProcess:
    """Trains jobs on one device in this process: `reports` trains each job by one epoch, unless reports are pending."""

    def __init__(self, data: TrainingData, device: torch.device, *, exact: bool, group_size: int | None = None) -> None:
        self.max_capacity = max_engine_capacity(device, group_size)
        self._engine = open_engine(data, device, exact=exact, max_networks=group_size)
        self._jobs: dict[int, tuple[Job, nn.Module, list[EpochMetrics]]] = {}  # jobs in training, by key
        self._waiting: list[Job] = []  # jobs for which memory was short
        self._reports: list[Report] = []

    @property
    def capacity(self) -> int:
        return self._engine.capacity

    @property
    def notes(self) -> list[str]:
        """Notes on what the engine did differently than requested, and why."""
        return self._engine.notes

    @property
    def is_busy(self) -> bool:
        """Whether there are jobs or pending reports."""
        return bool(self._jobs or self._waiting or self._reports)

    def submit(self, job: Job) -> None:
        try:
            module = initialise(job.architecture, seed=job.seed)
            self._engine.add(job.key, module, job.recipe, seed=job.seed)
        except GroupFullError:
            self._waiting.append(job)
        except Exception as error:  # any error of a network concerns only its own trial
            self._reports.append(_failure_report(job.key, error))
        else:
            self._jobs[job.key] = job, module, []

    def reports(self) -> list[Report]:
        if not self._reports:
            while self._waiting and len(self._jobs) < self._engine.capacity:
                self.submit(self._waiting.pop(0))
            for key, result in self._engine.advance():
                self._reports += self._reports_on(key, result)
        found, self._reports = self._reports, []
        return found

    def _reports_on(self, key: int, result: EpochMetrics | Exception) -> list[Report]:
        """Returns the reports on an epoch of a job, or on the error that ended it."""
        job, module, history = self._jobs[key]
        if isinstance(result, Exception):
            del self._jobs[key]
            return [_failure_report(key, result)]
        history.append(result)
        found: list[Report] = [EpochReport(key=key, metrics=result)]
        if result.epoch == job.recipe.epochs:
            del self._jobs[key]
            file = io.BytesIO()
            torch.save(state_dict_on_cpu(module), file)
            files = files_of_training(job.architecture, history, title=job.title) if job.title else {}
            found.append(EndReport(key=key, outcome="trained", weights=file.getvalue(), files=files))
        return found

    def stop(self, key: int) -> None:
        if self._jobs.pop(key, None):
            self._engine.remove(key)
        self._waiting = [job for job in self._waiting if job.key != key]
        self._reports = [report for report in self._reports if report.key != key]

    def close(self) -> None:
        for key in list(self._jobs):
            self.stop(key)
        self._waiting.clear()
        self._reports.clear()


def _failure_report(key: int, error: Exception) -> EndReport:
    if isinstance(error, TrainingDiverged):
        return EndReport(key=key, outcome="diverged", reason=str(error))
    return EndReport(key=key, outcome="failed", reason=f"{type(error).__name__}: {first_line(error)}")
