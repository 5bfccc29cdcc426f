"""Events that a search and a confirmation pass to their `on_event` callback."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from nas.architecture.cost import Cost
from nas.seed_stats import Ranking
from nas.space.candidate import Candidate
from nas.study.budget import Budget
from nas.study.progress import Tally
from nas.study.runs import EvalSplit, Run
from nas.study.trial import TrainedTrial, TrialRecord
from nas.training.metrics import EpochMetrics


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchStarted:
    """The search is about to train its first candidate.

    Attributes:
        study: Name of the study.
        storage: Database URL without its password.
        dataset: Name of the dataset.
        dataset_note: Why this dataset was chosen, in a sentence.
        space: Name of the search space.
        constraints: Limits, such as "params<=8000".
        device: Description of the hardware.
        workers: Number of worker processes or tasks.
        epochs: Number of epochs per candidate.
        budget: Budget of the whole study.
        tally: What the study has trained so far.
        num_queued: Number of trials in the queue, plus known candidates that will be enqueued.
        unfit: One line for each network of `start_from` that was left out, with the reason.
        unfit_designs: One line for each design of the portfolio that was left out, with the reason.
        objectives: "accuracy", and a cost if the search is for a Pareto front.
        sampler: Name of the sampler.
        pruner: Name of the pruner.
        start_from: Networks of `start_from` that fit the space and the limits.
        portfolio: Names of the portfolio's designs that fit the space and the limits.
        seed: Seed of the study.
        discards: Number of discards so far, by reason.
        best: Best trial so far; None if none is trained.
    """

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
    unfit_designs: tuple[str, ...]
    objectives: tuple[str, ...]
    sampler: str
    pruner: str
    start_from: tuple[str, ...]
    portfolio: tuple[str, ...]
    seed: int
    discards: Mapping[str, int]
    best: TrainedTrial | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialStarted:
    """The training of a candidate starts.

    Attributes:
        number: Number of the trial.
        candidate: Network and recipe.
        cost: Cost of the network.
        discards: Number of discards in the whole study, by reason.
        num_stored_discards: Number of them that the study stores as trials; they take trial numbers, too.
    """

    number: int
    candidate: Candidate
    cost: Cost
    discards: Mapping[str, int]
    num_stored_discards: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochFinished:
    """An epoch of a trial has ended.

    Attributes:
        number: Number of the trial.
        metrics: Metrics of the epoch.
    """

    number: int
    metrics: EpochMetrics


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialFinished:
    """A trial has ended.

    Attributes:
        trial: Record of the trial.
        tally: What the whole study has trained.
        best: Best trial of the whole study; None if none is trained to the end.
    """

    trial: TrialRecord
    tally: Tally
    best: TrainedTrial | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OthersAwaited:
    """The search waits: trials that run in other searches may still free some budget.

    Attributes:
        num_running: Number of these trials.
    """

    num_running: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalsStarted:
    """The finalists, the best candidates, are about to be retrained with other seeds.

    Attributes:
        trials: Numbers of the finalists' trials.
        num_runs: Number of further runs that this search has to train.
    """

    trials: tuple[int, ...]
    num_runs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalRunFinished:
    """A training run of a finalist with another seed has ended.

    Attributes:
        run: Trial and seed.
        history: Metrics of each epoch; empty if the loss was not finite or the run failed.
        num_runs: Number of further runs that this search has to train.
        num_done: Number of them that have ended.
        tally: What the whole study has trained.
        reason: Why the run failed; empty if it did not.
    """

    run: Run
    history: tuple[EpochMetrics, ...]
    num_runs: int
    num_done: int
    tally: Tally
    reason: str = ""


Event = SearchStarted | TrialStarted | EpochFinished | TrialFinished | OthersAwaited | FinalsStarted | FinalRunFinished


TargetSource = Literal["given", "study", "default"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfirmStarted:
    """The confirmation starts: it has chosen its target and its finalists.

    Attributes:
        target: Accuracy to reach in each of the last epochs, a fraction.
        target_source: Where the target comes from: "given", "study" (its last confirmation) or "default".
        trials: Numbers of the finalists, best first.
        seeds: Number of seeds that each of them, and then the winner, is trained with.
        epochs: Number of epochs of a training run.
        consistency: Number of last epochs that must reach the target.
        num_runs: Number of training runs of both stages.
        num_done: Number of them that have ended before.
        seconds: Estimated time for the others in seconds, if they take as long as in the search.
    """

    target: float
    target_source: TargetSource
    trials: tuple[int, ...]
    seeds: int
    epochs: int
    consistency: int
    num_runs: int
    num_done: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStarted:
    """A stage of the confirmation starts: the ranking or the test.

    Attributes:
        judged_on: Split on which the stage measures accuracy: "val" for the ranking, "test" for the winner.
        trials: Numbers of the trials that the stage trains.
        num_runs: Number of training runs of the stage.
        num_done: Number of them that have ended before.
        device: Description of the hardware.
    """

    judged_on: EvalSplit
    trials: tuple[int, ...]
    num_runs: int
    num_done: int
    device: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFinished:
    """A training run has ended.

    Attributes:
        run: Trial, split and seed.
        history: Metrics of each epoch; empty if the loss was not finite.
        consistency: Number of last epochs that the objective is the mean of.
        num_runs: Number of training runs of the stage.
        num_done: Number of them that have ended.
    """

    run: Run
    history: tuple[EpochMetrics, ...]
    consistency: int
    num_runs: int
    num_done: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """The finalists are ranked by val accuracy.

    Attributes:
        ranking: Finalists, best first, and the winner.
        cost: Metric that decides among finalists whose accuracies are tied.
    """

    ranking: Ranking
    cost: str


ConfirmEvent = ConfirmStarted | StageStarted | RunFinished | Ranked
