"""The search: ask, discard, train, tell. One loop, which any number of sessions of one study carry on."""

import hashlib
import platform
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

import optuna

from nas import datasets
from nas.constraints import Constraint, limits, worst
from nas.cost import Cost, cost_of
from nas.errors import ArchitectureError, InfeasibleError, NasError, StudyError, first_line
from nas.records import DEFAULT_STUDY, StudyRecords
from nas.samplers import FeasibleSampler, NothingNewError
from nas.screening import DUPLICATE, survey
from nas.search_space import Candidate, SearchSpace
from nas.storage import default_storage, shown, study_lock, usable
from nas.stored import Settings, TrialRecord
from nas.training import EpochMetrics, TrainingData, describe, num_cores, pick_device
from nas.workers import Ended, Job, Workers, open_workers

CONSISTENCY = 5
MAX_FAILURES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchStarted:
    """The search is about to ask for its first candidate."""

    study: str
    storage: str
    dataset: str
    dataset_note: str
    space: str
    constraints: tuple[str, ...]
    device: str
    workers: int
    epochs: int
    budget: int
    num_trained: int
    num_queued: int
    seed: int
    discards: Mapping[str, int]
    best: TrialRecord | None


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
    """A trial is over; `num_trained` and `best` are those of the whole study."""

    trial: TrialRecord
    num_trained: int
    best: TrialRecord | None


Event = SearchStarted | TrialStarted | EpochFinished | TrialFinished


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """What a search leaves. `interrupted`: it was told to stop; `exhausted`: no feasible, new candidate was left."""

    study: str
    storage: str
    results: Path
    num_trained: int
    budget: int
    discards: Mapping[str, int]
    best: tuple[TrialRecord, ...] = field(repr=False)
    interrupted: bool = False
    exhausted: str = ""


def default_space(input_shape: Sequence[int]) -> str:
    """Name of the shipped space for images of that shape."""
    return "mnist" if input_shape[0] == 1 else "colour"


def search(
    *,
    max_params: int | None = None,
    epochs: int = 15,
    trials: int = 20,
    dataset: str | None = None,
    data_root: str | Path | None = None,
    space: str | SearchSpace | None = None,
    min_receptive_field: int | None = None,
    max_macs: int | None = None,
    max_activation_bytes: int | None = None,
    max_weight_bytes: int | None = None,
    constraints: Sequence[str | Constraint] = (),
    keep_discards: int = 100,
    seed: int | None = None,
    device: str = "auto",
    workers: int | None = None,
    exact: bool = False,
    results: str | Path = "results",
    storage: str | None = None,
    study: str | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
) -> SearchResult:
    """Draws, discards, trains and records until the study has `trials` trained candidates; resumes a study there is.

    Limits are on the metrics of `Cost`; `constraints` takes further ones such as "macs<=200000". `dataset` None is the
    study's own, or MNIST where it can be had, or scikit-learn's digits; `seed` None is the study's own, or 0.
    `workers` is the number of processes that train, None one a core on processors and one for a GPU; `exact` makes
    trainings bitwise repeatable on a GPU, too.
    Accuracies are those on a validation split; the test split is not touched. Ctrl-C ends the search with
    `interrupted` set and the running trial back in the queue. Raises `NasError` for what a user can mend,
    `InfeasibleError` among them where (almost) nothing in the space keeps the limits.
    """
    _check_counts(
        epochs=(epochs, 1),
        trials=(trials, 1),
        keep_discards=(keep_discards, 0),
        seed=(seed or 0, 0),
        workers=(1 if workers is None else workers, 1),
    )
    picked = pick_device(device)
    place: _Place = {"results": results, "storage": storage, "study": study}
    existing = StudyRecords.find(**place)
    if dataset is None and existing is not None:
        name, note = existing.settings.dataset, existing.study.user_attrs["dataset_note"]
    else:
        name, note = datasets.resolve(dataset, data_root=data_root)
    loaded = datasets.load(name, data_root=data_root)
    drawn_from = (
        space if isinstance(space, SearchSpace) else SearchSpace.load(space or default_space(loaded.input_shape))
    )
    bound = drawn_from.bind(input_shape=loaded.input_shape, num_classes=loaded.num_classes, epochs=epochs)
    kept = limits(
        loaded.input_shape,
        max_params=max_params,
        min_receptive_field=min_receptive_field,
        max_macs=max_macs,
        max_activation_bytes=max_activation_bytes,
        max_weight_bytes=max_weight_bytes,
        constraints=constraints,
    )
    settings = Settings(
        dataset=loaded.name,
        data_fingerprint=loaded.fingerprint,
        split=loaded.split_id,
        space=bound.name,
        space_fingerprint=bound.fingerprint(),
        epochs=epochs,
        consistency=CONSISTENCY,
        constraints=tuple(str(constraint) for constraint in kept),
        seed=existing.settings.seed if seed is None and existing is not None else seed or 0,
    )
    if existing is None:
        report = survey(bound, kept)
        if report.num_feasible == 0:
            lines = ["fewer than 1 in 10,000 candidates of the search space keep the limits", *report.lines()]
            raise InfeasibleError("\n".join(lines))
    url = storage or default_storage(results)
    with study_lock(url, study or DEFAULT_STUDY, Path(results)), usable(url):
        # Looked for again: another search may have made it since.
        records = StudyRecords.find(**place) or StudyRecords.create(
            settings,
            **place,
            notes={
                "dataset_note": note,
                "normalisation": {"mean": loaded.mean, "std": loaded.std},
                "classes": loaded.classes,
                "command": shlex.join(sys.argv).replace(url, shown(url)),  # a password is nobody else's business
                "machine": f"{platform.node()}, {describe(picked)}, Python {platform.python_version()}",
            },
        )
        if differences := records.settings.differences(settings):
            raise StudyError(
                f"study {records.study.study_name!r} holds other results: {'; '.join(differences)};"
                " give the options it was begun with, or another --study NAME"
            )
        records.prepare_artifacts()
        records.settle()
        best = records.best(1)
        left = trials - records.num_trained()
        num_workers = workers or (num_cores() if picked.type == "cpu" else 1)
        on_event(
            SearchStarted(
                study=records.study.study_name,
                storage=shown(url),
                dataset=loaded.name,
                dataset_note=note,
                space=bound.name,
                constraints=settings.constraints,
                device=describe(picked),
                workers=num_workers,
                epochs=epochs,
                budget=trials,
                num_trained=records.num_trained(),
                num_queued=records.num_queued(),
                seed=settings.seed,
                discards=records.discards(),
                best=best[0] if best else None,
            )
        )
        interrupted, exhausted = False, ""
        if left > 0:
            opened = open_workers(TrainingData.of(loaded), picked, num=num_workers, exact=exact)
            loop = _Loop(records, bound, kept, opened, settings.seed, keep_discards, on_event)
            interrupted, exhausted = loop.run(trials)
        if exhausted:
            exhausted = "\n".join([exhausted, *survey(bound, kept).lines()])
        return SearchResult(
            study=records.study.study_name,
            storage=shown(url),
            results=Path(results),
            num_trained=records.num_trained(),
            budget=trials,
            discards=records.discards(),
            best=tuple(records.best(10)),
            interrupted=interrupted,
            exhausted=exhausted,
        )


class _Place(TypedDict):
    results: str | Path
    storage: str | None
    study: str | None


def _check_counts(**counts: tuple[int, int]) -> None:
    for name, (value, least) in counts.items():
        if type(value) is not int or value < least:
            raise NasError(f"{name.replace('_', '-')} is {value}, allowed: a whole number of at least {least}")


@dataclass(slots=True, kw_only=True)
class _Running:
    """A trial in training. `index`: of its candidate among those of the study."""

    trial: optuna.Trial
    index: int
    history: list[EpochMetrics] = field(default_factory=list)


class _Loop:
    """The loop's state: a study, what it draws from, and who trains."""

    def __init__(
        self,
        records: StudyRecords,
        space: SearchSpace,
        constraints: Sequence[Constraint],
        workers: Workers,
        seed: int,
        keep_discards: int,
        on_event: Callable[[Event], None],
    ) -> None:
        self.records = records
        self.space = space
        self.constraints = constraints
        self.workers = workers
        self.seed = seed
        self.on_event = on_event
        self.running: dict[int, _Running] = {}
        # A candidate is drawn from the results of those that came this far before it, whoever else has ended by then:
        # what is drawn does not depend on who is faster. With one worker there is nobody to wait for.
        self.lag = 2 * (workers.most - 1)
        self.sampler = FeasibleSampler(space, constraints, seed=seed, lag=self.lag, seen=records.fingerprints())
        candidate = len(self.sampler.seen)
        self.sampler.keep = max(0, keep_discards - records.num_kept_discards(lambda index: index < candidate))
        records.study.sampler = self.sampler

    def run(self, budget: int) -> tuple[bool, str]:
        """Trains until the study has `budget` trained trials: whether it was interrupted, and why it ran dry if so."""
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
                if not isinstance(report, Ended):
                    self._note(report.key, report.metrics)
                    continue
                failure = self._end(report)
                failures = failures + 1 if failure else 0
                if failures == MAX_FAILURES:
                    raise StudyError(f"{failures} trials in a row failed, the last one: {failure}")

    def _may_start(self, budget: int) -> bool:
        """Whether a trial is wanted, a worker is free, and what its candidate is to be drawn from is known."""
        if len(self.running) >= self.workers.capacity or self.records.num_trained() + len(self.running) >= budget:
            return False
        needed = len(self.sampler.seen) - self.lag
        return self.records.num_queued() > 0 or all(running.index >= needed for running in self.running.values())

    def _start(self) -> None:
        """Draws a candidate, or takes a queued one, and hands it to the workers unless it is not to be trained."""
        records, study = self.records, self.records.study
        discards: Mapping[str, int] = {}
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
        running.trial.report(metrics.val_accuracy, metrics.epoch)
        self.on_event(EpochFinished(number=number, metrics=metrics))

    def _end(self, report: Ended) -> str:
        """Stores how a training ended; the cause if it failed, empty for any other outcome."""
        records, running = self.records, self.running[report.key]
        if report.outcome == "trained":
            records.finish(running.trial, running.history, report.weights)
        else:
            records.fail(running.trial, report.outcome, report.reason, running.history)
        del self.running[report.key]
        best = records.best(1)
        self.on_event(
            TrialFinished(
                trial=records.trial(report.key),
                num_trained=records.num_trained(),
                best=best[0] if best else None,
            )
        )
        return report.reason if report.outcome == "failed" else ""


def _training_seed(seed: int, candidate: Candidate) -> int:
    """The seed a candidate is trained with: its own, and the same again when it is run again."""
    return int.from_bytes(hashlib.sha256(f"{seed} {candidate.fingerprint()}".encode()).digest()[:4], "big")
