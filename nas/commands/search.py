"""The search: what is asked for is checked, the study opened or made, and the loop run until the budget is spent."""

import platform
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from nas.commands.events import Event, SearchStarted
from nas.commands.search_loop import Loop
from nas.dashboard.overview import refresh
from nas.data import datasets
from nas.errors import InfeasibleError, NasError, StudyError
from nas.sampling.pruners import pruner as pruner_of
from nas.sampling.samplers import NUM_CHOICES, NUM_STARTUP, proposer
from nas.schema import check_counts
from nas.space.constraints import Constraint, limits
from nas.space.search_space import SearchSpace
from nas.space.survey import survey
from nas.space.warm_start import starts
from nas.study.database import default_storage, shown, usable
from nas.study.locks import Locks, locks
from nas.study.reader import DEFAULT_STUDY, StudyRecords, check_name
from nas.study.trial import OBJECTIVES, Settings, Tally, TrialRecord
from nas.study.writer import Recorder
from nas.training.data import TrainingData
from nas.training.results import CONSISTENCY
from nas.workers.backend import pick_place

DEFAULT_SAMPLER = "evolution"


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """What a search leaves. `interrupted`: it was told to stop; `exhausted`: no feasible, new candidate was left."""

    study: str
    storage: str
    results: Path
    objectives: tuple[str, ...]
    tally: Tally
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
    objective: str | None = None,
    sampler: str | None = None,
    pruner: str | None = None,
    start_from: Sequence[str | Path] = (),
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
    """Draws, discards, trains and records until the study has `trials` trained candidates; resumes a study there is.

    Limits are on the metrics of `Cost`; `constraints` takes further ones such as "macs<=200000". `dataset` None is the
    study's own, or MNIST where it can be had, or scikit-learn's digits; `seed`, `objective`, `sampler` and `pruner`
    None are the study's own, or 0, "accuracy", "evolution" and "none". `objective` "accuracy,params" (or another cost)
    looks for a Pareto front. What a pruner stops costs the budget the share of its epochs. `start_from`: architecture
    files, exports or names of published networks to train first, where they fit the space and the limits.
    `workers` is the number of processes that train, None one a core on processors and one for each GPU; `exact` makes
    trainings bitwise repeatable on a GPU, too. `ray` "auto", "local" or HOST:PORT trains on that Ray cluster instead,
    a task a candidate with one CPU and `gpus_per_trial` of a GPU, 0 to 1, None a whole one where the cluster has any.
    Accuracies are those on a validation split; the test split is not touched. Ctrl-C ends the search with
    `interrupted` set and the running trial back in the queue. Raises `NasError` for what a user can mend,
    `InfeasibleError` among them where (almost) nothing in the space keeps the limits.
    """
    check_counts(
        epochs=(epochs, 1),
        trials=(trials, 1),
        keep_discards=(keep_discards, 0),
        seed=(seed, 0),
        workers=(workers, 1),
    )
    trained_on = pick_place(device=device, workers=workers, ray=ray, gpus_per_trial=gpus_per_trial)
    asked: dict[str, Any] = {"objectives": _objectives(objective), "sampler": sampler, "pruner": pruner, "seed": seed}
    place: _Place = {"results": results, "storage": storage, "study": study}
    existing = StudyRecords.find(**place)
    if existing is None:
        check_name(study or DEFAULT_STUDY)
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
    chosen: dict[str, Any] = {"objectives": OBJECTIVES[:1], "sampler": DEFAULT_SAMPLER, "pruner": "none", "seed": 0}
    if existing is not None:
        chosen = {name: getattr(existing.settings, name) for name in chosen}
    chosen |= {name: value for name, value in asked.items() if value is not None}
    known, unfit = starts(start_from, bound, kept, seed=chosen["seed"])
    chosen |= _start_up(chosen, kept, len(known)) if existing is None else _start_up_of(existing.settings)
    settings = Settings(
        dataset=loaded.name,
        data_fingerprint=loaded.fingerprint,
        split=loaded.split_id,
        space=bound.name,
        space_fingerprint=bound.fingerprint(),
        epochs=epochs,
        consistency=CONSISTENCY,
        constraints=tuple(str(constraint) for constraint in kept),
        **chosen,
    )
    proposer(settings.sampler)
    if len(settings.objectives) > 1 and settings.pruner != "none":
        raise NasError(f"--pruner {settings.pruner} with two objectives, allowed: none: it compares accuracies alone")
    pruner_of(settings.pruner, epochs)
    if existing is None:
        report = survey(bound, kept)
        if report.num_feasible == 0:
            lines = ["fewer than 1 in 10,000 candidates of the search space keep the limits", *report.lines()]
            raise InfeasibleError("\n".join(lines))
    url = storage or default_storage(results)
    with trained_on, usable(url), closing(locks(url, study or DEFAULT_STUDY, Path(results))) as held:
        notes = {
            "dataset_note": note,
            "normalisation": {"mean": loaded.mean, "std": loaded.std},
            "classes": loaded.classes,
            "command": _command(url, shown(url)),  # a password is nobody else's business
            "machine": f"{platform.node()}, {trained_on.description}, Python {platform.python_version()}",
        }
        recorder = _recorder(held, place, settings, notes)
        records = recorder.records
        ledger = records.ledger()
        best = records.best(1)
        on_event(
            SearchStarted(
                study=records.study.study_name,
                storage=shown(url),
                dataset=loaded.name,
                dataset_note=note,
                space=bound.name,
                constraints=settings.constraints,
                device=trained_on.description,
                workers=trained_on.num_workers,
                epochs=epochs,
                budget=trials,
                tally=ledger.tally(),
                num_queued=ledger.num_queued + len(recorder.not_had(known)),
                objectives=settings.objectives,
                unfit=unfit,
                sampler=settings.sampler,
                pruner=settings.pruner,
                seed=settings.seed,
                discards=ledger.discards(),
                best=best[0] if best else None,
            )
        )
        interrupted, exhausted = False, ""
        if ledger.tally().admits(trials):
            opened = trained_on.open(TrainingData.of(loaded), exact=exact)
            loop = Loop(recorder, bound, kept, opened, starts=known, keep_discards=keep_discards, on_event=on_event)
            interrupted, exhausted = loop.run(trials)
        recorder.look()
        refresh(records)
        if exhausted:
            exhausted = "\n".join([exhausted, *survey(bound, kept).lines()])
        return SearchResult(
            study=records.study.study_name,
            storage=shown(url),
            results=Path(results),
            objectives=settings.objectives,
            tally=records.tally(),
            budget=trials,
            discards=records.discards(),
            best=tuple(records.best(10)),
            interrupted=interrupted,
            exhausted=exhausted,
        )


def _recorder(held: Locks, place: "_Place", settings: Settings, notes: Mapping[str, Any]) -> Recorder:
    """What writes to the study, made where there is none; what dead searches left is back in its queue."""
    with held.exclusively("begin"):
        # Looked for again: another search may have made it since.
        records = StudyRecords.find(**place) or StudyRecords.create(settings, **place, notes=notes)
        if differences := records.settings.differences(settings):
            raise StudyError(
                f"study {records.study.study_name!r} holds other results: {'; '.join(differences)};"
                " give the options it was begun with, or another --study NAME"
            )
        records.artifacts.prepare()
        recorder = Recorder(records, held)
        recorder.settle()
    return recorder


def _objectives(text: str | None) -> tuple[str, ...] | None:
    """What `--objective` names, None where it was not given."""
    if text is None:
        return None
    parts = tuple(part.strip() for part in text.split(","))
    first, *costs = OBJECTIVES
    if parts[0] != first or len(parts) > 2 or any(part not in costs for part in parts[1:]):
        raise NasError(f"--objective {text!r}, allowed: {first}, {', '.join(f'{first},{cost}' for cost in costs)}")
    return parts


def _start_up(chosen: Mapping[str, Any], constraints: Sequence[Constraint], num_known: int) -> dict[str, int]:
    """How a new study begins: with large networks, unless it is random search or a front, which needs all sizes."""
    limited = any((constraint.metric, constraint.relation) == ("params", "<=") for constraint in constraints)
    large = limited and len(chosen["objectives"]) == 1 and chosen["sampler"] != "random"
    # Whoever brings networks wants better ones than those: random candidates would hardly be.
    num_startup = min(num_known, NUM_STARTUP) if num_known else NUM_STARTUP
    return {"num_startup": num_startup, "choices": NUM_CHOICES if large else 1}


def _start_up_of(settings: Settings) -> dict[str, int]:
    """How a study began: later versions may choose otherwise."""
    return {"num_startup": settings.num_startup, "choices": settings.choices}


def _command(url: str, shown_url: str) -> str:
    """The command line, without the place that the program lies in and without a password in a database's URL."""
    program = Path(sys.argv[0])
    words = ["nas" if program.stem == "__main__" else program.name, *sys.argv[1:]]
    return shlex.join(word.replace(url, shown_url) for word in words)


class _Place(TypedDict):
    results: str | Path
    storage: str | None
    study: str | None
