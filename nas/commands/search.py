"""The search: settings are resolved, limits checked, the study opened, candidates trained, the result summed up."""

import platform
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nas.commands.defaults import NUM_TRIALS, PRUNER, SAMPLER, StartUp, start_up
from nas.commands.events import Event, SearchStarted
from nas.commands.finals import run_finals
from nas.commands.search_loop import Loop, Task
from nas.data import datasets
from nas.errors import InfeasibleError, NasError, StudyError
from nas.reports.overview import refresh
from nas.resources import default_space, shipped_spaces
from nas.sampling.pruners import pruner as pruner_of
from nas.sampling.samplers import proposer
from nas.schema import Interval, check_counts, refusal
from nas.space.constraints import Constraint, Limits
from nas.space.portfolio import SOURCE, portfolio
from nas.space.search_space import SearchSpace
from nas.space.survey import any_feasible, survey
from nas.space.warm_start import starts
from nas.study.budget import Budget
from nas.study.database import usable
from nas.study.locks import Locks, locks
from nas.study.progress import Tally
from nas.study.reader import StudyNotes, StudyRecords
from nas.study.reference import StudyRef
from nas.study.settings import OBJECTIVES, Settings
from nas.study.trial import TrainedTrial
from nas.study.writer import StudyWriter
from nas.training.data import TrainingData
from nas.training.results import CONSISTENCY
from nas.workers.backend import Compute, Place

MINUTES = Interval(float, 0, open_low=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """What a search leaves. `interrupted`: it was told to stop; `exhausted`: no feasible, new candidate was left."""

    study: str
    storage: str
    results: Path
    objectives: tuple[str, ...]
    tally: Tally
    budget: Budget
    discards: Mapping[str, int]
    best: tuple[TrainedTrial, ...] = field(repr=False)
    interrupted: bool = False
    exhausted: str = ""


def search(
    *,
    max_params: int | None = None,
    epochs: int = 15,
    trials: int | None = None,
    minutes: float | None = None,
    dataset: str | None = None,
    data_root: str | Path | None = None,
    space: str | SearchSpace | None = None,
    min_receptive_field: int | None = None,
    max_macs: int | None = None,
    max_activation_bytes: int | None = None,
    max_weight_bytes: int | None = None,
    constraints: Sequence[str | Constraint] = (),
    objective: str | None = None,
    sampler: str | None = None,
    pruner: str | None = None,
    start_from: Sequence[str | Path] = (),
    portfolio: bool | None = None,
    keep_discards: int = 100,
    seed: int | None = None,
    device: str = "auto",
    workers: int | None = None,
    ray: str | None = None,
    gpus_per_trial: float | None = None,
    exact: bool = False,
    results: str | Path = "results",
    storage: str | None = None,
    study: str | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
) -> SearchResult:
    """Draws, discards, trains and records until `trials` candidates are trained; resumes a study that is there.

    `minutes` is so much training for each worker, instead or whichever is spent first: no candidate is begun that would
    not end in time, going by those before it. With neither it is 20 trials. Both count over the whole study.

    Limits are on the metrics of `Cost`; `constraints` takes further ones such as "macs<=200000". `dataset` None is the
    study's own, or MNIST where it can be had, or scikit-learn's digits; `seed`, `objective`, `sampler` and `pruner`
    None are the study's own, or 0, "accuracy", "elite" and "none". `objective` "accuracy,params" (or another cost)
    looks for a Pareto front. What a pruner stops costs the budget the share of its epochs. `start_from`: architecture
    files, exports or names of published networks to train first, where they fit the space and the limits. `portfolio`
    False leaves out the known designs that a new study in a shipped space begins with, scaled to its limits.
    `workers` is the number of processes that train, None one a core on processors and one for each GPU; `exact` makes
    trainings bitwise repeatable on a GPU, too. `ray` "auto", "local" or HOST:PORT trains on that Ray cluster instead,
    a task a candidate with one CPU and `gpus_per_trial` of a GPU, 0 to 1, None a whole one where the cluster has any.
    Accuracies are those on a validation split; the test split is not touched. Ctrl-C ends the search with
    `interrupted` set and the running trial back in the queue. Raises `NasError` for what a user can mend,
    `InfeasibleError` among them where (almost) nothing in the space keeps the limits.
    """
    check_counts(
        epochs=(epochs, 1), trials=(trials, 1), keep_discards=(keep_discards, 0), seed=(seed, 0), workers=(workers, 1)
    )
    ref = StudyRef(results, storage, study)
    compute = Compute(device=device, workers=workers, ray=ray, gpus_per_trial=gpus_per_trial, exact=exact)
    place = compute.place()
    if minutes is not None and not MINUTES.holds(minutes):
        raise NasError(f"minutes is {refusal(minutes, MINUTES)}")
    plan = _resolve(
        ref,
        _Asked(
            epochs=epochs,
            dataset=dataset,
            data_root=data_root,
            space=space,
            limits=Limits(
                max_params=max_params,
                min_receptive_field=min_receptive_field,
                max_macs=max_macs,
                max_activation_bytes=max_activation_bytes,
                max_weight_bytes=max_weight_bytes,
                constraints=constraints,
            ),
            objectives=_objectives(objective),
            sampler=sampler,
            pruner=pruner,
            seed=seed,
            start_from=start_from,
            portfolio=portfolio,
            keep_discards=keep_discards,
        ),
    )
    _check_feasible(plan)
    with place, usable(ref.url), closing(locks(ref)) as held:
        budget = _budget(trials, minutes, place)
        writer = _open_study(ref, plan, held, place)
        interrupted, exhausted = _run(writer, plan, place, compute, budget=budget, on_event=on_event)
        return _summarise(writer, plan, budget, interrupted=interrupted, exhausted=exhausted)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What the caller asked for; None is left to the study, or to a default."""

    epochs: int
    dataset: str | None
    data_root: str | Path | None
    space: str | SearchSpace | None
    limits: Limits
    objectives: tuple[str, ...] | None
    sampler: str | None
    pruner: str | None
    seed: int | None
    start_from: Sequence[str | Path]
    portfolio: bool | None
    keep_discards: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What is going to be searched. `unfit`: a line on each network to start from that was left out."""

    is_new: bool
    settings: Settings
    dataset: datasets.Dataset
    dataset_note: str
    task: Task
    unfit: tuple[str, ...]


def _resolve(ref: StudyRef, asked: _Asked) -> _Plan:
    """Settings, data, space and limits: those asked for, else those of the study there is, else the defaults."""
    existing = StudyRecords.find(ref)
    if existing is None:
        ref.check_name()
    if asked.dataset is None and existing is not None:
        name, note = existing.settings.dataset, existing.notes.dataset_note
    else:
        name, note = datasets.resolve(asked.dataset, data_root=asked.data_root)
    dataset = datasets.load(name, data_root=asked.data_root)
    space = asked.space
    if not isinstance(space, SearchSpace):
        space = SearchSpace.load(space or _space_of(existing) or default_space(dataset.input_shape))
    space = space.bind(input_shape=dataset.input_shape, num_classes=dataset.num_classes, epochs=asked.epochs)
    constraints = asked.limits.constraints_for(dataset.input_shape)
    chosen: dict[str, Any] = {"objectives": OBJECTIVES[:1], "sampler": SAMPLER, "pruner": PRUNER, "seed": 0}
    if existing is not None:
        chosen = {name: getattr(existing.settings, name) for name in chosen}
    chosen |= {name: value for name in chosen if (value := getattr(asked, name)) is not None}
    known, unfit = starts(asked.start_from, space, constraints, seed=chosen["seed"])
    if asked.portfolio is not None or existing is None:
        chosen["portfolio"] = () if asked.portfolio is False else space.portfolio
    else:
        chosen["portfolio"] = existing.settings.portfolio
    designs, unfit_designs = portfolio(chosen["portfolio"], space, constraints, seed=chosen["seed"])
    known += designs
    if existing is not None:  # as that version of the product began it
        start = StartUp(existing.settings.num_startup, existing.settings.choices)
    else:
        num_objectives = len(chosen["objectives"])
        start = start_up(
            space, constraints, sampler=chosen["sampler"], num_objectives=num_objectives, num_known=len(known)
        )
    settings = Settings(
        dataset=dataset.name,
        data_fingerprint=dataset.fingerprint,
        split=dataset.split_id,
        space=space.name,
        space_fingerprint=space.fingerprint(),
        epochs=asked.epochs,
        consistency=CONSISTENCY,
        constraints=tuple(str(constraint) for constraint in constraints),
        **start._asdict(),
        **chosen,
    )
    proposer(settings.sampler)
    if len(settings.objectives) > 1 and settings.pruner != "none":
        raise NasError(f"--pruner {settings.pruner} with two objectives, allowed: none: it compares accuracies alone")
    pruner_of(settings.pruner, asked.epochs)
    return _Plan(
        is_new=existing is None,
        settings=settings,
        dataset=dataset,
        dataset_note=note,
        task=Task(space=space, constraints=constraints, starts=known, keep_discards=asked.keep_discards),
        unfit=(*unfit, *unfit_designs),
    )


def _budget(trials: int | None, minutes: float | None, place: Place) -> Budget:
    """What the options allow, `NUM_TRIALS` where they name neither. `place` is open, and so knows its workers."""
    if trials is None and minutes is None:
        trials = NUM_TRIALS
    return Budget(trials=trials, minutes=minutes, workers=place.num_workers)


def _space_of(existing: StudyRecords | None) -> str | None:
    """The space that the study was begun in, if it is one that comes along, whatever the default has become since."""
    name = existing.settings.space if existing is not None else ""
    return name if name in shipped_spaces() else None


def _check_feasible(plan: _Plan) -> None:
    """Raises `InfeasibleError`, with what binds, where a new study's limits leave (almost) nothing of the space."""
    if not plan.is_new:
        return
    space, constraints = plan.task.space, plan.task.constraints
    if any_feasible(space, constraints):
        return
    report = survey(space, constraints)
    if not report.num_feasible:
        lines = ["fewer than 1 in 10,000 candidates of the search space keep the limits", *report.lines()]
        raise InfeasibleError("\n".join(lines))


def _open_study(ref: StudyRef, plan: _Plan, held: Locks, place: Place) -> StudyWriter:
    """What writes to the study, made where there is none; what dead searches left is back in its queue."""
    notes = StudyNotes(
        dataset_note=plan.dataset_note,
        mean=tuple(plan.dataset.mean),
        std=tuple(plan.dataset.std),
        classes=plan.dataset.classes,
        command=_command(ref),
        machine=f"{platform.node()}, {place.description}, Python {platform.python_version()}",
    )
    with held.exclusively("begin"):
        # Looked for again: another search may have made it since.
        records = StudyRecords.find(ref) or StudyRecords.create(ref, plan.settings, notes)
        if differences := records.settings.differences(plan.settings):
            raise StudyError(
                f"study {records.name!r} holds other results: {'; '.join(differences)};"
                " give the options it was begun with, or another --study NAME"
            )
        records.artifacts.prepare()
        writer = StudyWriter(records, held)
        writer.settle()
    return writer


def _run(
    writer: StudyWriter,
    plan: _Plan,
    place: Place,
    compute: Compute,
    *,
    budget: Budget,
    on_event: Callable[[Event], None],
) -> tuple[bool, str]:
    """Trains until the budget is spent: whether it was interrupted, and why it ran dry if so."""
    records, settings = writer.records, plan.settings
    progress, best = records.progress(), records.best(1)
    on_event(
        SearchStarted(
            study=records.name,
            storage=records.ref.shown_url,
            dataset=plan.dataset.name,
            dataset_note=plan.dataset_note,
            space=settings.space,
            constraints=settings.constraints,
            device=place.description,
            workers=place.num_workers,
            epochs=settings.epochs,
            budget=budget,
            tally=progress.tally(),
            num_queued=progress.num_queued + len(writer.not_had(plan.task.starts)),
            objectives=settings.objectives,
            unfit=plan.unfit,
            sampler=settings.sampler,
            pruner=settings.pruner,
            portfolio=tuple(
                start.source.removeprefix(SOURCE) for start in plan.task.starts if start.source.startswith(SOURCE)
            ),
            seed=settings.seed,
            discards=progress.discards(),
            best=best[0] if best else None,
        )
    )
    if not budget.admits(progress.tally()):
        return False, ""
    with closing(place.open(TrainingData.of(plan.dataset), exact=compute.exact)) as workers:
        loop = Loop(writer, plan.task, workers, on_event=on_event)
        if len(settings.objectives) > 1:  # a front has no single best
            return loop.run(budget.admits)
        interrupted, exhausted = loop.run(budget.admits_candidate)
        # Another search on this study may be at its finals already.
        if interrupted or not writer.locks.hold("finals"):
            return interrupted, exhausted
        try:
            run_finals(records, budget, workers, on_event)
        except KeyboardInterrupt:
            return True, exhausted
        if exhausted or not budget.admits(records.tally()):
            return False, exhausted
        # What finalists leave goes to candidates: a run has failed, or trainings took longer than expected, and two
        # finalists no longer fit. A new loop counts the runs that finalists have had.
        return Loop(writer, plan.task, workers, on_event=on_event).run(budget.admits)


def _summarise(writer: StudyWriter, plan: _Plan, budget: Budget, *, interrupted: bool, exhausted: str) -> SearchResult:
    """The result; note and figures of the study are brought up to date."""
    writer.look()
    records = writer.records
    refresh(records)
    if exhausted:
        exhausted = "\n".join([exhausted, *survey(plan.task.space, plan.task.constraints).lines()])
    return SearchResult(
        study=records.name,
        storage=records.ref.shown_url,
        results=records.ref.folder,
        objectives=plan.settings.objectives,
        tally=records.tally(),
        budget=budget,
        discards=records.discards(),
        best=tuple(records.best(10)),
        interrupted=interrupted,
        exhausted=exhausted,
    )


def _objectives(text: str | None) -> tuple[str, ...] | None:
    """What `--objective` names, None where it was not given."""
    if text is None:
        return None
    parts = tuple(part.strip() for part in text.split(","))
    first, *costs = OBJECTIVES
    if parts[0] != first or len(parts) > 2 or any(part not in costs for part in parts[1:]):
        raise NasError(f"--objective {text!r}, allowed: {first}, {', '.join(f'{first},{cost}' for cost in costs)}")
    return parts


def _command(ref: StudyRef) -> str:
    """The command line, without the place that the program lies in and without a password in a database's URL."""
    program = Path(sys.argv[0])
    words = ["nas" if program.stem == "__main__" else program.name, *sys.argv[1:]]
    return shlex.join(word.replace(ref.url, ref.shown_url) for word in words)
