"""The loop of a search: draw, train, store."""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from sqlalchemy.exc import SQLAlchemyError

from nas.architecture.cost import Cost, cost_of
from nas.commands.events import EpochFinished, Event, OthersAwaited, TrialFinished, TrialStarted
from nas.errors import ArchitectureError, StudyError, first_line
from nas.sampling.candidate_view import CandidateView
from nas.sampling.feasible import FeasibleSampler, NothingNewError
from nas.sampling.pruners import CandidatePruner, pruner
from nas.sampling.samplers import proposer
from nas.space.constraints import Constraint, worst
from nas.space.feasibility import DUPLICATE
from nas.space.search_space import SearchSpace
from nas.space.warm_start import Start
from nas.study.attributes import Outcome, StoredTrial
from nas.study.database import is_away
from nas.study.locks import LockLostError
from nas.study.progress import StudyProgress, Tally
from nas.study.trial import PendingTrial, TrainedTrial, TrialRecord, read_trained, read_trial
from nas.study.writer import StudyWriter
from nas.workers.protocol import Ended, Job, Progress, Report, Workers

MAX_FAILURES = 3
SMALLEST = 0.05  # share of the limits that a candidate for a Pareto front fills at the least
PAUSE = 0.5  # seconds between two looks at what other searches have in training
PATROL = 5.0  # seconds between two looks at whether they are alive


class Admits(Protocol):
    """Whether one more training may begin while so many are running."""

    def __call__(self, tally: Tally, *, running: int) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a search draws from and keeps. `starts`: known candidates to train first."""

    space: SearchSpace
    constraints: Sequence[Constraint]
    starts: Sequence[Start] = ()
    keep_discards: int = 100


class Loop:
    """A study, what it draws from, and who trains. Other loops may be at work on the study at the same time."""

    def __init__(self, writer: StudyWriter, task: Task, workers: Workers, *, on_event: Callable[[Event], None]) -> None:
        self.writer = writer
        self.space = task.space
        self.constraints = task.constraints
        self.keep_discards = task.keep_discards
        self.starts = writer.not_had(task.starts)
        self.workers = workers
        self.on_event = on_event
        settings = writer.records.settings
        self.seed, self.epochs = settings.seed, settings.epochs
        self.running: dict[int, PendingTrial] = {}
        self.progress = StudyProgress(self.epochs, writer.records.runs.finals())
        # A candidate is drawn from the results of those that came this far before it, whoever else has ended by then:
        # what is drawn does not depend on who is faster. With one worker there is nobody to wait for.
        self.lag = 2 * (workers.most - 1)
        self.view = CandidateView(writer.trials, writer.study.directions, writer.storage)
        self.sampler = FeasibleSampler(
            self.space,
            self.constraints,
            propose=proposer(settings.sampler),
            num_startup=settings.num_startup,
            choices=settings.choices,
            smallest=SMALLEST if len(settings.objectives) > 1 else 1.0,
            seed=self.seed,
            lag=self.lag,
        )
        self.pruner = CandidatePruner(pruner(settings.pruner, self.epochs), self.view, lag=self.lag)
        self._patrolled = time.monotonic()
        self._best: TrainedTrial | None = None
        self._look()

    def run(self, admits: Admits) -> tuple[bool, str]:
        """Trains until the budget is spent: whether it was interrupted, and why it ran dry if so."""
        try:
            return False, self._train(admits)
        except KeyboardInterrupt:
            self.workers.close()
            self.writer.settle()
            return True, ""

    def _train(self, admits: Admits) -> str:
        """Starts trials and hears of them until the budget is spent: empty, or why there was nothing more to draw."""
        failures, waited, dry = 0, False, ""
        while True:
            try:
                while not dry and self._begin(admits):
                    pass
            except NothingNewError as error:
                dry = str(error)
            if not self.running:
                if dry or not self.progress.running:
                    return dry
                # What others train may be stopped early, or be left to us: only then is the budget known to be spent.
                if not waited:
                    self.on_event(OthersAwaited(num_running=len(self.progress.running)))
                    waited = True
                time.sleep(PAUSE)
                continue
            reports = self.workers.reports()
            # Epochs of a trial that has ended by now are stored with its end.
            going_on = self.running.keys() - {report.key for report in reports if isinstance(report, Ended)}
            epochs = [report for report in reports if isinstance(report, Progress) and report.key in going_on]
            self.writer.report([(report.key, report.metrics) for report in epochs])
            for report in reports:
                if report.key not in self.running:  # stopped a moment ago
                    continue
                failure = self._hear(report)
                if failure is not None:
                    failures = failures + 1 if failure else 0
                if failures == MAX_FAILURES:
                    raise StudyError(f"{failures} trials in a row failed, the last one: {failure}")

    def _begin(self, admits: Admits) -> bool:
        """Begins a trial, or ends one that is not to be trained; False where none is wanted, or nobody is free."""
        # What a candidate is to be drawn from must be known, unless it comes from the queue.
        oldest = min((running.index for running in self.running.values()), default=None)
        if len(self.running) >= self.workers.capacity:
            return False
        if oldest is not None and not self.progress.num_queued and oldest < len(self.progress.fingerprints) - self.lag:
            return False
        # One search at a time, so that none draws what another one has, and the budget is spent once.
        try:
            with self.writer.locks.exclusively("begin") as check:
                self._look()
                self._patrol()
                if not admits(self.progress.tally(), running=len(self.progress.running)):
                    return False
                self._start(check)
                return True
        except LockLostError:
            pass
        except (StorageInternalError, SQLAlchemyError) as error:
            if not is_away(error):
                raise
        # The server was away, and with it the lock. A trial that was made all the same is found like any that is left.
        self._look()
        return True

    def _look(self) -> None:
        """Sees what has begun and ended since the last look, whoever did it."""
        self.writer.look()
        self._count()

    def _count(self) -> None:
        """Counts what this search itself has begun or ended."""
        self.progress.update(self.writer.trials())

    def _patrol(self) -> None:
        """Takes over, from time to time, what searches that are gone have left."""
        if self.progress.running - self.running.keys() and time.monotonic() > self._patrolled + PATROL:
            self.writer.settle(self.running)
            self._count()
            self._patrolled = time.monotonic()

    def _start(self, check: Callable[[], None]) -> None:
        """Draws a candidate, or takes a queued one, and hands it to the workers unless it is not to be trained."""
        writer = self.writer
        if self.starts and not self.progress.num_queued:
            # One at a time: what was interrupted goes back into an empty queue, and so comes first again.
            writer.enqueue(self.starts.pop(0))
            self._count()
        if self.progress.num_queued:
            self._start_queued()
            return
        index = len(self.progress.fingerprints)
        # Those that a killed search stored for this candidate will be drawn again, and not stored again.
        stored = self.progress.stored_discards[index]
        keep = max(0, self.keep_discards - self.progress.stored_discards.total() + stored)
        drawn = self.sampler.draw(self.view, self.progress.fingerprints, keep=keep)
        check()
        distributions = self.space.distributions()
        writer.keep_discards(drawn.discards[stored:], self.constraints, distributions, drawn_for=index)
        seed = _training_seed(self.seed, drawn.fingerprint)
        self._submit(writer.start(drawn, distributions, self.constraints, seed=seed, index=index))

    def _start_queued(self) -> None:
        """Takes a trial from the queue: one that was interrupted, or that somebody enqueued."""
        writer = self.writer
        trial = writer.study.ask()
        if not writer.stored(trial.number).is_from_queue:
            writer.abandon(trial.number, Outcome.UNUSED, "another process took the trial that was in the queue")
            return
        try:
            candidate = self.space.suggest(trial)
            cost = cost_of(candidate.architecture)
        except ArchitectureError as error:  # only parameters that a user enqueued can do this
            writer.abandon(trial.number, Outcome.UNUSED, first_line(error))
            return
        fingerprint = candidate.fingerprint()
        if reason := self._why_not(trial, fingerprint, cost):
            writer.discard(trial.number, cost, reason, self.constraints)
            return
        seed = _training_seed(self.seed, fingerprint)
        index = writer.stored(trial.number).index
        if index is None:  # one that is run again keeps its index
            index = len(self.progress.fingerprints)
        self._submit(writer.start_queued(trial.number, candidate, cost, self.constraints, seed=seed, index=index))

    def _submit(self, trial: PendingTrial) -> None:
        self.running[trial.number] = trial
        self._count()
        candidate = trial.candidate
        discards = self.progress.discards()
        self.on_event(TrialStarted(number=trial.number, candidate=candidate, cost=trial.cost, discards=discards))
        self.workers.submit(
            Job(
                key=trial.number,
                architecture=candidate.architecture,
                recipe=candidate.recipe,
                seed=trial.seed,
                title=f"Trial {trial.number}",
            )
        )

    def _why_not(self, trial: optuna.Trial, fingerprint: str, cost: Cost) -> str:
        """Why a queued trial is not to be trained: a user may enqueue what the sampler would not hand out."""
        missed = worst(self.constraints, cost)
        if missed is not None:
            return missed.metric
        own = self.writer.stored(trial.number).fingerprint
        return DUPLICATE if fingerprint in self.progress.fingerprints and own != fingerprint else ""

    def _hear(self, report: Report) -> str | None:
        """Deals with a report: the cause if a training failed, empty if it ended otherwise, None if it goes on."""
        try:
            if isinstance(report, Ended):
                return self._end(report)
            self._note(report)
        except UpdateFinishedTrialError:  # another search took this one for dead, and has its trial now
            self.workers.stop(report.key)
            self.writer.give_up(report.key)
            self._over(read_trial(self.writer.stored(report.key)))
        return None

    def _note(self, report: Progress) -> None:
        """Hears of an epoch, which is stored already."""
        trial = self.running[report.key]
        trial.history.append(report.metrics)
        self.on_event(EpochFinished(number=trial.number, metrics=report.metrics))
        if report.metrics.epoch < self.epochs and self.pruner.hopeless(trial.number, trial.index):
            self.workers.stop(trial.number)
            self._over(self.writer.prune(trial))

    def _end(self, report: Ended) -> str:
        """Stores how a training ended; the cause if it failed, empty for any other outcome."""
        trial, outcome = self.running[report.key], Outcome(report.outcome)
        if outcome is Outcome.TRAINED:
            self._over(self.writer.finish(trial, report.weights, report.files))
        else:
            self._over(self.writer.fail(trial, outcome, report.reason))
        return report.reason if outcome is Outcome.FAILED else ""

    def _over(self, record: TrialRecord) -> None:
        del self.running[record.number]
        self._count()
        self._best = self._known_best(self.progress.best, record)
        self.on_event(TrialFinished(trial=record, tally=self.progress.tally(), best=self._best))

    def _known_best(self, best: StoredTrial | None, record: TrialRecord) -> TrainedTrial | None:
        """The record of the study's best trial; only what another search has trained is read from the study."""
        if best is None:
            return None
        for known in (record, self._best):
            if isinstance(known, TrainedTrial) and known.number == best.number:
                return known
        return read_trained(best)


def _training_seed(seed: int, fingerprint: str) -> int:
    """The seed a candidate is trained with: its own, and the same again when it is run again."""
    return int.from_bytes(hashlib.sha256(f"{seed} {fingerprint}".encode()).digest()[:4], "big")
