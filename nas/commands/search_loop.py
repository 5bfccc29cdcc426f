"""The loop of a search: ask, discard, train, tell."""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from sqlalchemy.exc import SQLAlchemyError

from nas.architecture.cost import Cost, cost_of
from nas.commands.events import EpochFinished, Event, OthersAwaited, TrialFinished, TrialStarted
from nas.errors import ArchitectureError, StudyError, first_line
from nas.sampling.feasible import FeasibleSampler, NothingNewError
from nas.sampling.pruners import CandidatePruner, pruner
from nas.sampling.samplers import proposer
from nas.space.candidate import Candidate
from nas.space.constraints import Constraint, worst
from nas.space.feasibility import DUPLICATE
from nas.space.search_space import SearchSpace
from nas.space.warm_start import Start
from nas.study.database import is_away
from nas.study.locks import LockLostError
from nas.study.progress import Ledger
from nas.study.trial import TrialRecord, read_trial
from nas.study.writer import Recorder
from nas.training.metrics import EpochMetrics
from nas.workers.protocol import Ended, Job, Progress, Report, Workers

MAX_FAILURES = 3
PAUSE = 0.5  # seconds between two looks at what other searches have in training
PATROL = 5.0  # seconds between two looks at whether they are alive


@dataclass(slots=True)
class _Running:
    """A trial in training. `index`: of its candidate among those of the study."""

    index: int
    history: list[EpochMetrics] = field(default_factory=list)


class Loop:
    """A study, what it draws from, and who trains. Other loops may be at work on the study at the same time."""

    def __init__(
        self,
        recorder: Recorder,
        space: SearchSpace,
        constraints: Sequence[Constraint],
        workers: Workers,
        *,
        starts: Sequence[Start] = (),
        keep_discards: int,
        on_event: Callable[[Event], None],
    ) -> None:
        self.recorder = recorder
        self.space = space
        self.constraints = constraints
        self.workers = workers
        self.on_event = on_event
        settings = recorder.records.settings
        self.seed, self.epochs = settings.seed, settings.epochs
        self.running: dict[int, _Running] = {}
        self.starts = recorder.not_had(starts)
        self.ledger = Ledger(self.epochs)
        # A candidate is drawn from the results of those that came this far before it, whoever else has ended by then:
        # what is drawn does not depend on who is faster. With one worker there is nobody to wait for.
        self.lag = 2 * (workers.most - 1)
        self.sampler = FeasibleSampler(
            space,
            constraints,
            propose=proposer(settings.sampler),
            num_startup=settings.num_startup,
            choices=settings.choices,
            seed=self.seed,
            lag=self.lag,
        )
        self.pruner = CandidatePruner(pruner(settings.pruner, self.epochs), recorder.study, lag=self.lag)
        recorder.study.sampler = self.sampler  # of trials from the queue: it leaves them as they are
        self.keep_discards = keep_discards
        self._patrolled = time.monotonic()
        self._best: TrialRecord | None = None
        self._look()

    def run(self, budget: int) -> tuple[bool, str]:
        """Trains until the budget, in trials, is spent: whether it was interrupted, and why it ran dry if so."""
        try:
            return False, self._train(budget)
        except KeyboardInterrupt:
            pass
        finally:
            self.workers.close()
        self.recorder.settle()
        return True, ""

    def _train(self, budget: int) -> str:
        """Starts trials and hears of them until the budget is spent: empty, or why there was nothing more to draw."""
        failures, waited, dry = 0, False, ""
        while True:
            try:
                while not dry and self._begin(budget):
                    pass
            except NothingNewError as error:
                dry = str(error)
            if not self.running:
                if dry or not self.ledger.running:
                    return dry
                # What others train may be stopped early, or be left to us: only then is the budget known to be spent.
                if not waited:
                    self.on_event(OthersAwaited(num_running=len(self.ledger.running)))
                    waited = True
                time.sleep(PAUSE)
                continue
            reports = self.workers.reports()
            # Epochs of a trial that has ended by now are stored with its end.
            going_on = self.running.keys() - {report.key for report in reports if isinstance(report, Ended)}
            epochs = [report for report in reports if isinstance(report, Progress) and report.key in going_on]
            self.recorder.report([(report.key, report.metrics) for report in epochs])
            for report in reports:
                if report.key not in self.running:  # stopped a moment ago
                    continue
                failure = self._hear(report)
                if failure is not None:
                    failures = failures + 1 if failure else 0
                if failures == MAX_FAILURES:
                    raise StudyError(f"{failures} trials in a row failed, the last one: {failure}")

    def _begin(self, budget: int) -> bool:
        """Begins a trial, or ends one that is not to be trained; False where none is wanted, or nobody is free."""
        # What a candidate is to be drawn from must be known, unless it comes from the queue.
        oldest = min((running.index for running in self.running.values()), default=None)
        if len(self.running) >= self.workers.capacity:
            return False
        if oldest is not None and not self.ledger.num_queued and oldest < len(self.ledger.fingerprints) - self.lag:
            return False
        # One search at a time, so that none draws what another one has, and the budget is spent once.
        try:
            with self.recorder.locks.exclusively("begin") as check:
                self._look()
                self._patrol()
                if not self.ledger.tally().admits(budget, running=len(self.ledger.running)):
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
        self.recorder.look()
        self._count()

    def _count(self) -> None:
        """Counts what this search itself has begun or ended."""
        self.ledger.update(self.recorder.trials())

    def _patrol(self) -> None:
        """Takes over, from time to time, what searches that are gone have left."""
        if self.ledger.running - self.running.keys() and time.monotonic() > self._patrolled + PATROL:
            self.recorder.settle(self.running)
            self._count()
            self._patrolled = time.monotonic()

    def _start(self, check: Callable[[], None]) -> None:
        """Draws a candidate, or takes a queued one, and hands it to the workers unless it is not to be trained."""
        recorder = self.recorder
        if self.starts and not self.ledger.num_queued:
            # One at a time: what was interrupted goes back into an empty queue, and so comes first again.
            recorder.enqueue(self.starts.pop(0))
            self._count()
        if self.ledger.num_queued:
            self._start_queued()
            return
        self.sampler.seen = set(self.ledger.fingerprints)
        index = len(self.sampler.seen)
        # Those that a killed search stored for this candidate will be drawn again, and not stored again.
        stored = self.ledger.kept[index]
        self.sampler.keep = max(0, self.keep_discards - self.ledger.kept.total() + stored)
        values = self.sampler.draw(recorder.study)
        discards, kept = self.sampler.take_discards()
        candidate = self.space.candidate(values)
        cost = cost_of(candidate.architecture)
        seed = _training_seed(self.seed, candidate)
        check()
        recorder.keep_discards(kept[stored:], self.constraints, self.space.distributions(), drawn_for=index)
        number = recorder.start(
            candidate,
            values,
            self.space.distributions(),
            cost,
            self.constraints,
            seed=seed,
            index=index,
            discards=discards,
        )
        self._submit(number, candidate, cost, seed=seed, index=index)

    def _start_queued(self) -> None:
        """Takes a trial from the queue: one that was interrupted, or that somebody enqueued."""
        recorder = self.recorder
        trial = recorder.study.ask()
        try:
            candidate = self.space.suggest(trial)
            cost = cost_of(candidate.architecture)
        except ArchitectureError as error:  # only parameters that a user enqueued can do this
            recorder.fail(trial.number, "unused", first_line(error))
            return
        if reason := self._why_not(trial, candidate, cost):
            recorder.discard(trial.number, cost, reason, self.constraints)
            return
        seed = _training_seed(self.seed, candidate)
        # One that is run again keeps its index.
        index = trial.user_attrs.get("candidate", len(self.ledger.fingerprints))
        recorder.start_queued(trial.number, candidate, cost, self.constraints, seed=seed, index=index)
        self._submit(trial.number, candidate, cost, seed=seed, index=index)

    def _submit(self, number: int, candidate: Candidate, cost: Cost, *, seed: int, index: int) -> None:
        self.running[number] = _Running(index)
        self._count()
        self.on_event(TrialStarted(number=number, candidate=candidate, cost=cost, discards=self.ledger.discards()))
        architecture, recipe = candidate.architecture, candidate.recipe
        self.workers.submit(
            Job(key=number, architecture=architecture, recipe=recipe, seed=seed, title=f"Trial {number}")
        )

    def _why_not(self, trial: optuna.Trial, candidate: Candidate, cost: Cost) -> str:
        """Why a queued trial is not to be trained: a user may enqueue what the sampler would not hand out."""
        missed = worst(self.constraints, cost)
        if missed is not None:
            return missed.metric
        fingerprint = candidate.fingerprint()
        if fingerprint in self.ledger.fingerprints and trial.user_attrs.get("fingerprint") != fingerprint:
            return DUPLICATE
        return ""

    def _hear(self, report: Report) -> str | None:
        """Deals with a report: the cause if a training failed, empty if it ended otherwise, None if it goes on."""
        try:
            if isinstance(report, Ended):
                return self._end(report)
            self._note(report)
        except UpdateFinishedTrialError:  # another search took this one for dead, and has its trial now
            self.workers.stop(report.key)
            self.recorder.give_up(report.key)
            self._over(report.key)
        return None

    def _note(self, report: Progress) -> None:
        """Hears of an epoch, which is stored already."""
        number, running = report.key, self.running[report.key]
        running.history.append(report.metrics)
        self.on_event(EpochFinished(number=number, metrics=report.metrics))
        if report.metrics.epoch < self.epochs and self.pruner.hopeless(number, running.index):
            self.workers.stop(number)
            self.recorder.prune(number, running.history)
            self._over(number)

    def _end(self, report: Ended) -> str:
        """Stores how a training ended; the cause if it failed, empty for any other outcome."""
        history = self.running[report.key].history
        if report.outcome == "trained":
            self.recorder.finish(report.key, history, report.weights, report.files)
        else:
            self.recorder.fail(report.key, report.outcome, report.reason, history)
        self._over(report.key)
        return report.reason if report.outcome == "failed" else ""

    def _over(self, number: int) -> None:
        del self.running[number]
        self._count()
        trial, best = read_trial(self.recorder.trials()[number]), self.ledger.best
        if best is not None and best.number != (self._best.number if self._best else None):
            self._best = trial if best.number == number else read_trial(best)
        self.on_event(
            TrialFinished(
                trial=trial,
                tally=self.ledger.tally(),
                best=self._best,
            )
        )


def _training_seed(seed: int, candidate: Candidate) -> int:
    """The seed a candidate is trained with: its own, and the same again when it is run again."""
    return int.from_bytes(hashlib.sha256(f"{seed} {candidate.fingerprint()}".encode()).digest()[:4], "big")
