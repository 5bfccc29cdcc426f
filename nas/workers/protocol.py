"""What goes to a worker and what comes back: values that can be sent to another process."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from nas.architecture.architecture import Architecture
from nas.recipe import Recipe
from nas.training.metrics import EpochMetrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One network to train; `key` names it in the reports. `title`: of the files to be made of it, empty for none."""

    key: int
    architecture: Architecture
    recipe: Recipe
    seed: int
    title: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """An epoch of a job is over."""

    key: int
    metrics: EpochMetrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The last word on a job: where it was trained its state dict, as `torch.save` writes it, else the reason.

    `files`: what the dashboard shows of it, by name, where the job has a title. Workers make them, since a picture
    takes longer than all else that a search does for a trial.
    """

    key: int
    outcome: Literal["trained", "diverged", "failed"]
    reason: str = ""
    weights: bytes = b""
    files: Mapping[str, bytes] = field(default_factory=dict)


Report = Progress | Ended

RETRIES = 3
"""How often a job is run again whose process or node was lost. What fails by itself is not run again."""


class Workers(Protocol):
    """Trains jobs, up to `capacity` at a time, which may change; `most` is the largest that it can become."""

    @property
    def capacity(self) -> int: ...

    @property
    def most(self) -> int: ...

    def submit(self, job: Job) -> None:
        """Hands a job over; not more than `capacity` at a time."""

    def reports(self) -> list[Report]:
        """Waits until there is something to report on the jobs, and gives it; nothing where there are no jobs."""

    def stop(self, key: int) -> None:
        """Ends a job early, without a report; does nothing where it has ended."""

    def close(self) -> None:
        """Ends all jobs, without a report."""
