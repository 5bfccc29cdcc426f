"""Events that a search reports while it runs."""

from collections.abc import Mapping
from dataclasses import dataclass

from nas.architecture.cost import Cost
from nas.space.candidate import Candidate
from nas.study.budget import Budget
from nas.study.progress import Tally
from nas.study.runs import Run
from nas.study.trial import TrainedTrial, TrialRecord
from nas.training.metrics import EpochMetrics


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchStarted:
    """The search is about to ask for its first candidate. `unfit`: why what it was to start from was left out."""

    study: str
    storage: str
    dataset: str
    dataset_note: str
    space: str
    constraints: tuple[str, ...]
    device: str
    workers: int
    epochs: int
    budget: Budget
    tally: Tally
    num_queued: int
    unfit: tuple[str, ...]
    objectives: tuple[str, ...]
    sampler: str
    pruner: str
    portfolio: tuple[str, ...]
    seed: int
    discards: Mapping[str, int]
    best: TrainedTrial | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialStarted:
    """A feasible, new candidate goes into training. `discards` counts those of the whole study by reason."""

    number: int
    candidate: Candidate
    cost: Cost
    discards: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochFinished:
    """An epoch of a trial's training is over."""

    number: int
    metrics: EpochMetrics


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialFinished:
    """A trial is over; `tally` and `best` are those of the whole study."""

    trial: TrialRecord
    tally: Tally
    best: TrainedTrial | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OthersAwaited:
    """The budget is spent unless what other searches on the study have in training is stopped early, or left to us."""

    num_running: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalsStarted:
    """The candidates are trained; the best of them are trained again with other seeds, `num_runs` runs in all."""

    trials: tuple[int, ...]
    num_runs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalRunFinished:
    """A finalist's further run has ended; no epochs: its loss was no number, or it failed, for a `reason`."""

    run: Run
    history: tuple[EpochMetrics, ...]
    num_runs: int
    num_done: int
    reason: str = ""


Event = SearchStarted | TrialStarted | EpochFinished | TrialFinished | OthersAwaited | FinalsStarted | FinalRunFinished
