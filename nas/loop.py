"""The loop of a search: ask, discard, train, tell."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import optuna

from nas.constraints import Constraint, worst
from nas.cost import Cost, cost_of
from nas.errors import ArchitectureError, StudyError, first_line
from nas.events import EpochFinished, Event, TrialFinished, TrialStarted
from nas.proposals import proposer
from nas.pruners import CandidatePruner, pruner
from nas.records import StudyRecords
from nas.samplers import FeasibleSampler, NothingNewError
from nas.screening import DUPLICATE
from nas.search_space import Candidate, SearchSpace
from nas.starting import Start
from nas.training import EpochMetrics
from nas.workers import Ended, Job, Progress, Workers

MAX_FAILURES = 3


@dataclass(slots=True, kw_only=True)
class _Running:
    """A trial in training. `index`: of its candidate among those of the study."""

    trial: optuna.Trial
    index: int
    history: list[EpochMetrics] = field(default_factory=list)


class Loop:
    """A study, what it draws from, and who trains."""

    def __init__(
        self,
        records: StudyRecords,
        space: SearchSpace,
        constraints: Sequence[Constraint],
        workers: Workers,
        *,
        starts: Sequence[Start] = (),
        keep_discards: int,
        on_event: Callable[[Event], None],
    ) -> None:
        self.records = records
        self.space = space
        self.constraints = constraints
        self.workers = workers
        self.on_event = on_event
        settings = records.settings
        self.seed, self.epochs = settings.seed, settings.epochs
        self.running: dict[int, _Running] = {}
        self.starts = records.not_had(starts)
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
            seen=records.fingerprints(),
        )
        self.pruner = CandidatePruner(pruner(settings.pruner, self.epochs), records.study, lag=self.lag)
        candidate = len(self.sampler.seen)
        self.sampler.keep = max(0, keep_discards - records.num_kept_discards(lambda index: index < candidate))
        records.study.sampler = self.sampler

    def run(self, budget: int) -> tuple[bool, str]:
        """Trains until the budget, in trials, is spent: whether it was interrupted, and why it ran dry if so."""
        try:
            return False, self._train(budget)
        except KeyboardInterrupt:
            pass
        finally:
            self.workers.close()
        self.records.settle()
        return True, ""

    def _train(self, budget: int) -> str:
        """Starts trials and hears of them until the budget is spent: empty, or why there was nothing more to draw."""
        failures, dry = 0, ""
        while True:
            while not dry and self._may_start(budget):
                try:
                    self._start()
                except NothingNewError as error:
                    dry = str(error)
            if not self.running:
                return dry
            for report in self.workers.reports():
                if report.key not in self.running:  # stopped a moment ago
                    continue
                if isinstance(report, Progress):
                    self._note(report.key, report.metrics)
                    continue
                failure = self._end(report)
                failures = failures + 1 if failure else 0
                if failures == MAX_FAILURES:
                    raise StudyError(f"{failures} trials in a row failed, the last one: {failure}")

    def _may_start(self, budget: int) -> bool:
        """Whether a trial is wanted, a worker is free, and what its candidate is to be drawn from is known."""
        num_running = len(self.running)
        if num_running >= self.workers.capacity or not self.records.tally().admits(budget, running=num_running):
            return False
        needed = len(self.sampler.seen) - self.lag
        return self.records.num_queued() > 0 or all(running.index >= needed for running in self.running.values())

    def _start(self) -> None:
        """Draws a candidate, or takes a queued one, and hands it to the workers unless it is not to be trained."""
        records, study = self.records, self.records.study
        discards: Mapping[str, int] = {}
        if self.starts and not records.num_queued():
            # One at a time: what was interrupted goes back into an empty queue, and so comes first again.
            records.enqueue(self.starts.pop(0))
        queued = records.num_queued() > 0
        index = len(self.sampler.seen)
        if not queued:
            self.sampler.prepare(study)
            discards, kept = self.sampler.take_discards()
            self.sampler.keep -= len(kept)
            records.keep_discards(kept, self.constraints, self.space.distributions(), drawn_for=index)
        trial = study.ask()
        try:
            candidate = self.space.suggest(trial)
            cost = cost_of(candidate.architecture)
        except ArchitectureError as error:  # only parameters that a user enqueued can do this
            records.fail(trial, "unused", first_line(error))
            return
        if queued and (reason := self._why_not(trial, candidate, cost)):
            records.discard(trial, cost, reason, self.constraints)
            return
        seed = _training_seed(self.seed, candidate)
        index = trial.user_attrs.get("candidate", index)  # one that is run again keeps its own
        records.start(trial, candidate, cost, self.constraints, seed=seed, index=index, discards=discards)
        self.on_event(TrialStarted(number=trial.number, candidate=candidate, cost=cost, discards=records.discards()))
        self.running[trial.number] = _Running(trial=trial, index=index)
        job = Job(key=trial.number, architecture=candidate.architecture, recipe=candidate.recipe, seed=seed)
        self.workers.submit(job)

    def _why_not(self, trial: optuna.Trial, candidate: Candidate, cost: Cost) -> str:
        """Why a queued trial is not to be trained: a user may enqueue what the sampler would not hand out."""
        missed = worst(self.constraints, cost)
        if missed is not None:
            return missed.metric
        fingerprint = candidate.fingerprint()
        if fingerprint in self.sampler.seen and trial.user_attrs.get("fingerprint") != fingerprint:
            return DUPLICATE
        self.sampler.seen.add(fingerprint)
        return ""

    def _note(self, number: int, metrics: EpochMetrics) -> None:
        running = self.running[number]
        running.history.append(metrics)
        self.records.report(running.trial, metrics)
        self.on_event(EpochFinished(number=number, metrics=metrics))
        if metrics.epoch < self.epochs and self.pruner.hopeless(running.trial, running.index):
            self.workers.stop(number)
            self.records.prune(running.trial, running.history)
            self._over(number)

    def _end(self, report: Ended) -> str:
        """Stores how a training ended; the cause if it failed, empty for any other outcome."""
        records, running = self.records, self.running[report.key]
        if report.outcome == "trained":
            records.finish(running.trial, running.history, report.weights)
        else:
            records.fail(running.trial, report.outcome, report.reason, running.history)
        self._over(report.key)
        return report.reason if report.outcome == "failed" else ""

    def _over(self, number: int) -> None:
        del self.running[number]
        best = self.records.best(1)
        self.on_event(
            TrialFinished(trial=self.records.trial(number), tally=self.records.tally(), best=best[0] if best else None)
        )


def _training_seed(seed: int, candidate: Candidate) -> int:
    """The seed a candidate is trained with: its own, and the same again when it is run again."""
    return int.from_bytes(hashlib.sha256(f"{seed} {candidate.fingerprint()}".encode()).digest()[:4], "big")
