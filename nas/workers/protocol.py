"""Defines the interface of workers, and the jobs and reports that are exchanged with them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from nas.architecture.architecture import Architecture
from nas.recipe import Recipe
from nas.training.metrics import EpochMetrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A network to train. Can be pickled.

    Attributes:
        key: Identifies the job in its reports.
        architecture: Architecture of the network.
        recipe: Recipe of the training run.
        seed: Seed of the training run.
        title: Title of the dashboard files; empty if none are wanted.
    """

    key: int
    architecture: Architecture
    recipe: Recipe
    seed: int
    title: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochReport:
    """Report of an epoch of a job. Can be pickled."""

    key: int
    metrics: EpochMetrics


@dataclass(frozen=True, slots=True, kw_only=True)
class EndReport:
    """Last report of a job. Can be pickled.

    Attributes:
        key: Key of the job.
        outcome: How the job ended.
        reason: Why the job diverged or failed; empty for a trained one.
        weights: State dict of a trained job as `torch.save` writes it; otherwise empty.
        files: Dashboard files of a trained job by name, if it has a title. Workers make them, because drawing the
            picture takes longer than everything else that a search does for a trial.
    """

    key: int
    outcome: Literal["trained", "diverged", "failed"]
    reason: str = ""
    weights: bytes = b""
    files: Mapping[str, bytes] = field(default_factory=dict)


Report = EpochReport | EndReport

RETRIES = 3
"""Maximum number of retries of a job whose process or node was lost. A job that raises an error is not retried."""


class Workers(Protocol):
    """Trains jobs, up to `capacity` at a time. `capacity` may change; `max_capacity` is its maximum."""

    @property
    def capacity(self) -> int: ...

    @property
    def max_capacity(self) -> int: ...

    def submit(self, job: Job) -> None:
        """Submits a job; at most `capacity` jobs may be submitted and not ended."""

    def reports(self) -> list[Report]:
        """Waits for reports on the jobs and returns them; returns none if there are no jobs."""

    def stop(self, key: int) -> None:
        """Stops a job without a last report; does nothing if it has ended."""

    def close(self) -> None:
        """Stops all jobs without a last report."""
