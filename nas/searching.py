"""The search: ask, discard, train, tell. One loop, which any number of sessions of one study carry on."""

import hashlib
import platform
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import optuna

from nas import datasets
from nas.constraints import Constraint, limits, worst
from nas.cost import Cost, cost_of
from nas.errors import InfeasibleError, NasError, ShapeError, StudyError, TrainingDiverged
from nas.records import Settings, StudyRecords, TrialRecord
from nas.samplers import FeasibleSampler, NothingNewError
from nas.screening import survey
from nas.search_space import Candidate, SearchSpace
from nas.storage import default_storage
from nas.training import (
    EpochMetrics,
    TrainingData,
    describe,
    initialise,
    pick_device,
    state_dict_on_cpu,
    train,
)

if TYPE_CHECKING:
    import torch

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
    epochs: int
    budget: int
    num_trained: int
    num_requeued: int
    seed: int


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
    seed: int = 0,
    device: str = "auto",
    results: str | Path = "results",
    storage: str | None = None,
    study: str | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
) -> SearchResult:
    """Draws, discards, trains and records until the study has `trials` trained candidates; resumes a study there is.

    Limits are on the metrics of `Cost`; `constraints` takes further ones such as "macs<=200000". `dataset` None
    is the study's own, or MNIST where it can be had, or scikit-learn's digits. Accuracies are those on a
    validation split; the test split is not touched. Ctrl-C ends the search with `interrupted` set and the
    running trial back in the queue. Raises `NasError` for what a user can mend, `InfeasibleError` among them
    where (almost) nothing in the space keeps the limits.
    """
    _check_counts(epochs=(epochs, 1), trials=(trials, 1), keep_discards=(keep_discards, 0), seed=(seed, 0))
    picked = pick_device(device)
    existing = StudyRecords.find(results=results, storage=storage, study=study)
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
    )
    if existing is not None:
        if differences := existing.settings.differences(settings):
            raise StudyError(
                f"study {existing.study.study_name!r} holds other results: {'; '.join(differences)};"
                " give the options it was begun with, or another --study NAME"
            )
        records = existing
    else:
        _refuse_infeasible(bound, kept)
        notes = {
            "dataset_note": note,
            "normalisation": {"mean": loaded.mean, "std": loaded.std},
            "seed": seed,
            "command": shlex.join(sys.argv),
            "machine": f"{platform.node()}, {describe(picked)}, Python {platform.python_version()}",
        }
        records = StudyRecords.create(settings, results=results, storage=storage, study=study, notes=notes)
    with records.lock():
        loop = _Loop(records, bound, kept, TrainingData.of(loaded).to(picked), picked, seed, keep_discards, on_event)
        started = SearchStarted(
            study=records.study.study_name,
            storage=storage or default_storage(results),
            dataset=loaded.name,
            dataset_note=note,
            space=bound.name,
            constraints=settings.constraints,
            device=describe(picked),
            epochs=epochs,
            budget=trials,
            num_trained=records.num_trained(),
            num_requeued=records.requeue_interrupted(),
            seed=seed,
        )
        on_event(started)
        interrupted, exhausted = loop.run(trials)
        return SearchResult(
            study=started.study,
            storage=started.storage,
            results=Path(results),
            num_trained=records.num_trained(),
            budget=trials,
            discards=records.discards(),
            best=tuple(records.best(10)),
            interrupted=interrupted,
            exhausted=exhausted,
        )


def _check_counts(**counts: tuple[int, int]) -> None:
    for name, (value, least) in counts.items():
        if type(value) is not int or value < least:
            raise NasError(f"{name.replace('_', '-')} is {value}, allowed: a whole number of at least {least}")


def _refuse_infeasible(space: SearchSpace, constraints: Sequence[Constraint]) -> None:
    report = survey(space, constraints)
    if report.num_feasible == 0:
        raise InfeasibleError("(almost) nothing in the search space keeps the limits\n" + "\n".join(report.lines()))


class _Loop:
    """The loop's state: a study, what it draws from, and what it trains on."""

    def __init__(
        self,
        records: StudyRecords,
        space: SearchSpace,
        constraints: Sequence[Constraint],
        data: TrainingData,
        device: "torch.device",
        seed: int,
        keep_discards: int,
        on_event: Callable[[Event], None],
    ) -> None:
        self.records = records
        self.space = space
        self.constraints = constraints
        self.data = data
        self.device = device
        self.seed = seed
        self.on_event = on_event
        self.sampler = FeasibleSampler(space, constraints, seed=seed, seen=records.fingerprints())
        self.sampler.keep = max(0, keep_discards - records.num_kept_discards())
        records.study.sampler = self.sampler

    def run(self, budget: int) -> tuple[bool, str]:
        """Trains until the study has `budget` trained trials: whether it was interrupted, and why it ran dry if so."""
        failures = 0
        try:
            while self.records.num_trained() < budget:
                try:
                    failure = self._one_trial()
                except NothingNewError as error:
                    return False, str(error)
                failures = failures + 1 if failure else 0
                if failures == MAX_FAILURES:
                    raise StudyError(f"{failures} trials in a row failed, the last one: {failure}")
        except KeyboardInterrupt:
            self.records.requeue_interrupted()
            return True, ""
        return False, ""

    def _one_trial(self) -> str:
        """Trains one candidate; the cause if it failed, empty for any other outcome."""
        study = self.records.study
        trial = study.ask()
        try:
            candidate = self.space.suggest(trial)
        except ShapeError as error:  # like a missed limit: only parameters that someone else enqueued can do this
            self.records.fail(trial, "unused", str(error))
            return ""
        except NothingNewError as error:
            # Optuna's trial is there already; it ends unused, so that none stays RUNNING.
            self._take_discards()
            self.records.fail(trial, "unused", str(error))
            raise
        num_draws = self._take_discards() + 1
        cost = cost_of(candidate.architecture)
        if (missed := worst(self.constraints, cost)) is not None:
            self.records.discard(trial, cost, missed, self.constraints)
            return ""
        seed = _training_seed(self.seed, candidate)
        self.records.start(trial, candidate, cost, self.constraints, seed=seed, num_draws=num_draws)
        self.on_event(
            TrialStarted(number=trial.number, candidate=candidate, cost=cost, discards=self.records.discards())
        )
        failure = self._train(trial, candidate, seed)
        record = self.records.trial(trial.number)
        best = self.records.best(1)
        self.on_event(
            TrialFinished(trial=record, num_trained=self.records.num_trained(), best=best[0] if best else None)
        )
        return failure

    def _train(self, trial: optuna.Trial, candidate: Candidate, seed: int) -> str:
        history: list[EpochMetrics] = []
        try:
            module = initialise(candidate.architecture, seed=seed)
            for metrics in train(module, candidate.recipe, self.data, seed=seed, device=self.device):
                history.append(metrics)
                trial.report(metrics.val_accuracy, metrics.epoch)
                self.on_event(EpochFinished(number=trial.number, metrics=metrics))
            weights = state_dict_on_cpu(module)
        except TrainingDiverged as error:
            self.records.fail(trial, "diverged", str(error), history)
            return ""
        except Exception as error:  # whatever a network does to torch belongs to its trial, not to the search
            cause = f"{type(error).__name__}: {error}"
            self.records.fail(trial, "failed", cause, history)
            return cause
        self.records.finish(trial, history, weights)
        return ""

    def _take_discards(self) -> int:
        """Stores the discards since the last call; how many there were."""
        counts, discards = self.sampler.take_discards()
        self.sampler.keep -= len(discards)
        self.records.add_discards(counts, discards, self.constraints, self.space.distributions())
        return sum(counts.values())


def _training_seed(seed: int, candidate: Candidate) -> int:
    """The seed a candidate is trained with: its own, and the same again when it is run again."""
    return int.from_bytes(hashlib.sha256(f"{seed} {candidate.fingerprint()}".encode()).digest()[:4], "big")
