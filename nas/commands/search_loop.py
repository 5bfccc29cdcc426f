"""The main loop of a search: draws candidates, trains them and stores the results."""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from sqlalchemy.exc import SQLAlchemyError

from nas.architecture.cost import Cost
from nas.commands.events import EpochFinished, Event, OthersAwaited, TrialFinished, TrialStarted
from nas.errors import ArchitectureError, SearchSpaceError, StudyError, first_line
from nas.sampling.candidate_view import CandidateView
from nas.sampling.feasible import FeasibleSampler, NoNewCandidateError
from nas.sampling.pruners import CandidatePruner, pruner_named
from nas.sampling.samplers import sampler_named
from nas.space.constraints import Constraint, most_violated
from nas.space.feasibility import DUPLICATE, cost_for
from nas.space.search_space import SearchSpace
from nas.space.warm_start import KnownCandidate
from nas.study.attributes import Outcome, StoredTrial
from nas.study.database import is_server_unavailable
from nas.study.locks import LockLostError
from nas.study.progress import StudyProgress, Tally
from nas.study.trial import RunningTrial, TrainedTrial, TrialRecord, read_trained, read_trial
from nas.study.writer import StudyWriter
from nas.workers.protocol import EndReport, EpochReport, Job, Report, Workers

MAX_FAILURES = 3
MIN_LIMIT_SHARE = 0.05  # smallest share of the limits that a candidate for a Pareto front fills
STUDY_POLL_SECONDS = 0.5  # seconds between two reads of the study while waiting for other searches
DEAD_SEARCH_CHECK_SECONDS = 5.0  # seconds between two checks for dead searches


class BudgetCheck(Protocol):
    """Decides whether the budget admits one more training while `running` others are in progress."""

    def __call__(self, tally: Tally, *, running: int) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchTask:
    """What a search draws candidates from.

    Attributes:
        space: Search space.
        constraints: Limits that candidates must keep.
        known_candidates: Known candidates to train first.
        keep_discards: Maximum number of discards stored in the study.
    """

    space: SearchSpace
    constraints: Sequence[Constraint]
    known_candidates: Sequence[KnownCandidate] = ()
    keep_discards: int = 100


class SearchLoop:
    """Draws, trains and stores the candidates of one search; other searches may work on the same study."""

    def __init__(
        self, writer: StudyWriter, task: SearchTask, workers: Workers, *, on_event: Callable[[Event], None]
    ) -> None:
        self.writer = writer
        self.space = task.space
        self.constraints = task.constraints
        self.keep_discards = task.keep_discards
        self.known_candidates = writer.missing_from_study(task.known_candidates)
        self.workers = workers
        self.on_event = on_event
        settings = writer.records.settings
        self.seed, self.epochs = settings.seed, settings.epochs
        self.running: dict[int, RunningTrial] = {}
        self.progress = StudyProgress(self.epochs, writer.records.runs.finalist_histories())
        # A draw or a pruner's decision ignores the last few candidates, even those that have ended, so that it does not
        # depend on which worker is faster. With one worker all earlier candidates have ended.
        lag = 2 * (workers.max_capacity - 1)
        self.view = CandidateView(writer.trials, writer.study.directions, writer.storage)
        self.sampler = FeasibleSampler(
            self.space,
            self.constraints,
            propose=sampler_named(settings.sampler),
            num_startup=settings.num_startup,
            num_choices=settings.choices,
            min_share=MIN_LIMIT_SHARE if len(settings.objectives) > 1 else 1.0,
            seed=self.seed,
            max_lag=lag,
        )
        self.pruner = CandidatePruner(pruner_named(settings.pruner, self.epochs), self.view, lag=lag)
        self._dead_search_check_time = time.monotonic()
        self._has_awaited_others = False
        self._num_failures = 0  # number of trials in a row that failed
        self._best: TrainedTrial | None = None
        self._read_changes()

    def run(self, admits: BudgetCheck) -> tuple[bool, str]:
        """Trains until the budget is spent.

        Returns whether Ctrl-C ended it, and the reason if no new feasible candidate was found ("" otherwise).
        """
        try:
            return False, self._train(admits)
        except KeyboardInterrupt:
            self.workers.close()
            with self.writer.locks.exclusively("begin"):
                self.writer.requeue_dead_trials()
            return True, ""

    def _train(self, admits: BudgetCheck) -> str:
        """Starts trials and handles reports until the budget is spent.

        Returns the reason if no new feasible candidate was found ("" otherwise).
        """
        exhausted = ""
        while True:
            exhausted = exhausted or self._begin_all(admits)
            if self.running:
                self._handle_reports(self.workers.reports())
            elif exhausted or not self.progress.running:
                return exhausted
            else:
                self._await_others()

    def _begin_all(self, admits: BudgetCheck) -> str:
        """Starts all trials that can start now; returns the reason if no new feasible candidate was found, else ""."""
        try:
            while self._begin(admits):
                pass
        except NoNewCandidateError as error:
            return str(error)
        return ""

    def _await_others(self) -> None:
        """Waits: trials in other searches may still be pruned or interrupted, which frees budget."""
        if not self._has_awaited_others:
            self.on_event(OthersAwaited(num_running=len(self.progress.running)))
            self._has_awaited_others = True
        time.sleep(STUDY_POLL_SECONDS)

    def _begin(self, admits: BudgetCheck) -> bool:
        """Starts a trial, or ends a queued one that is not to be trained; False if none can start now."""
        if len(self.running) >= self.workers.capacity or self._must_wait_for_results():
            return False
        # Under a lock, so that two searches neither draw the same candidate nor spend the same budget.
        try:
            with self.writer.locks.exclusively("begin") as check:
                self._read_changes()
                self._requeue_dead_trials()
                if not admits(self.progress.tally(), running=len(self.progress.running)):
                    return False
                self._start(check)
                return True
        except LockLostError:
            pass
        except (StorageInternalError, SQLAlchemyError) as error:
            if not is_server_unavailable(error):
                raise
        # The server was unavailable and the lock is lost. If the trial was created, `_requeue_dead_trials` puts it into
        # the queue again.
        self._read_changes()
        return True

    def _must_wait_for_results(self) -> bool:
        """Returns whether the next candidate depends on one in training.

        A queued trial depends on none. A known candidate depends on those that the pruner needs, not the sampler.
        """
        if self.progress.num_queued or not self.running:
            return False
        index = len(self.progress.fingerprints)
        needed = max(
            self.pruner.num_results_needed(index),
            0 if self.known_candidates else self.sampler.num_results_needed(index),
        )
        return min(running.index for running in self.running.values()) < needed

    def _read_changes(self) -> None:
        """Reads the trials that any process has started or ended since the last call, and updates the counts."""
        self.writer.read_changes()
        self._update_counts()

    def _update_counts(self) -> None:
        """Updates the counts from the trials in memory, without a query."""
        self.progress.update(self.writer.trials())

    def _requeue_dead_trials(self) -> None:
        """Returns trials of dead searches to the queue; checks at most every `DEAD_SEARCH_CHECK_SECONDS` seconds."""
        if (
            self.progress.running - self.running.keys()
            and time.monotonic() > self._dead_search_check_time + DEAD_SEARCH_CHECK_SECONDS
        ):
            self.writer.requeue_dead_trials(self.running)
            self._update_counts()
            self._dead_search_check_time = time.monotonic()

    def _start(self, check: Callable[[], None]) -> None:
        """Draws a candidate or takes a queued one, and submits it to the workers unless it is to be discarded."""
        writer = self.writer
        self.known_candidates = writer.missing_from_study(
            self.known_candidates
        )  # another search may have begun some of them
        if self.known_candidates and not self.progress.num_queued:
            # One at a time, so that an interrupted trial returns to an empty queue and is the next one again.
            writer.enqueue(self.known_candidates.pop(0))
            self._update_counts()
        if self.progress.num_queued:
            self._start_queued()
            return
        index = len(self.progress.fingerprints)
        # A killed search may have stored some discards of this candidate. They are drawn again, but not stored again.
        stored = self.progress.stored_discards[index]
        keep = max(0, self.keep_discards - self.progress.stored_discards.total() + stored)
        drawn = self.sampler.draw(self.view, self.progress.fingerprints, max_discards=keep)
        check()
        distributions = self.space.distributions()
        writer.store_discards(drawn.discards[stored:], self.constraints, distributions, drawn_for=index)
        seed = _training_seed(self.seed, drawn.fingerprint)
        self._submit(writer.start(drawn, distributions, self.constraints, seed=seed, index=index))

    def _start_queued(self) -> None:
        """Starts a trial from the queue: an interrupted one, a known candidate, or one that a user enqueued."""
        writer = self.writer
        trial = writer.study.ask()
        if not writer.stored_trial(trial.number).is_from_queue:
            writer.abandon(trial.number, Outcome.UNUSED, "another process took the trial that was in the queue")
            return
        try:
            self.space.check(writer.stored_trial(trial.number).params)
            candidate = self.space.suggest(trial)
            cost = cost_for(self.constraints, candidate.architecture)
        except (ArchitectureError, SearchSpaceError) as error:  # only with parameters that a user enqueued
            writer.abandon(trial.number, Outcome.UNUSED, first_line(error))
            return
        fingerprint = candidate.fingerprint()
        if reason := self._discard_reason(trial, fingerprint, cost):
            writer.discard(trial.number, cost, reason, self.constraints)
            return
        seed = _training_seed(self.seed, fingerprint)
        index = writer.stored_trial(trial.number).index
        if index is None:  # an interrupted trial keeps its index
            index = len(self.progress.fingerprints)
        self._submit(writer.start_queued(trial.number, candidate, cost, self.constraints, seed=seed, index=index))

    def _submit(self, trial: RunningTrial) -> None:
        self.running[trial.number] = trial
        self._update_counts()
        candidate = trial.candidate
        self.on_event(
            TrialStarted(
                number=trial.number,
                candidate=candidate,
                cost=trial.cost,
                discards=self.progress.discards(),
                num_stored_discards=self.progress.stored_discards.total(),
            )
        )
        self.workers.submit(
            Job(
                key=trial.number,
                architecture=candidate.architecture,
                recipe=candidate.recipe,
                seed=trial.seed,
                title=f"Trial {trial.number}",
            )
        )

    def _discard_reason(self, trial: optuna.Trial, fingerprint: str, cost: Cost) -> str:
        """Returns why a queued trial is discarded, else empty: users may enqueue infeasible trials and duplicates."""
        missed = most_violated(self.constraints, cost)
        if missed is not None:
            return missed.metric
        own = self.writer.stored_trial(trial.number).fingerprint
        return DUPLICATE if fingerprint in self.progress.fingerprints and own != fingerprint else ""

    def _handle_reports(self, reports: Sequence[Report]) -> None:
        """Stores the reported epochs and ends of trials; raises `StudyError` if too many trials in a row failed."""
        # Epochs of a trial whose end is among the reports are stored with its end.
        going_on = self.running.keys() - {report.key for report in reports if isinstance(report, EndReport)}
        epochs = [report for report in reports if isinstance(report, EpochReport) and report.key in going_on]
        self.writer.report([(report.key, report.metrics) for report in epochs])
        for report in reports:
            if report.key not in self.running:  # already pruned or given up
                continue
            try:
                if isinstance(report, EndReport):
                    self._handle_end(report)
                else:
                    self._handle_epoch(report)
            except UpdateFinishedTrialError:
                self._give_up(report.key)

    def _handle_epoch(self, report: EpochReport) -> None:
        """Handles an epoch, which is stored already, and ends the trial if the pruner says so."""
        trial = self.running[report.key]
        trial.history.append(report.metrics)
        self.on_event(EpochFinished(number=trial.number, metrics=report.metrics))
        if report.metrics.epoch < self.epochs and self.pruner.should_prune(trial.number, trial.index):
            self.workers.stop(trial.number)
            self._finish_trial(self.writer.prune(trial))
            self._num_failures = 0

    def _handle_end(self, report: EndReport) -> None:
        """Stores how a training ended; raises `StudyError` if it is one of too many in a row that failed."""
        trial, outcome = self.running[report.key], Outcome(report.outcome)
        if outcome is Outcome.TRAINED:
            self._finish_trial(self.writer.finish(trial, report.weights, report.files))
        else:
            self._finish_trial(self.writer.fail(trial, outcome, report.reason))
        self._num_failures = self._num_failures + 1 if outcome is Outcome.FAILED else 0
        if self._num_failures == MAX_FAILURES:
            raise StudyError(f"{MAX_FAILURES} trials in a row failed, the last one: {report.reason}")

    def _give_up(self, number: int) -> None:
        """Stops a trial that another search took for dead and requeued."""
        self.workers.stop(number)
        self.writer.release_trial(number)
        self._finish_trial(read_trial(self.writer.stored_trial(number)))

    def _finish_trial(self, record: TrialRecord) -> None:
        del self.running[record.number]
        self._update_counts()
        self._best = self._known_best(self.progress.best, record)
        self.on_event(TrialFinished(trial=record, tally=self.progress.tally(), best=self._best))

    def _known_best(self, best: StoredTrial | None, record: TrialRecord) -> TrainedTrial | None:
        """Returns the record of the study's best trial, from memory if this search has trained it."""
        if best is None:
            return None
        for known in (record, self._best):
            if isinstance(known, TrainedTrial) and known.number == best.number:
                return known
        return read_trained(best)


def _training_seed(seed: int, fingerprint: str) -> int:
    """Returns the training seed of a candidate, which is the same when it is trained again."""
    return int.from_bytes(hashlib.sha256(f"{seed} {fingerprint}".encode()).digest()[:4], "big")
