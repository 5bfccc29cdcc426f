"""Runs a search: resolves settings, checks limits, opens the study, trains candidates and returns the result."""

import inspect
import platform
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nas.commands.defaults import NUM_TRIALS
from nas.commands.display import event_display
from nas.commands.events import Event, SearchStarted
from nas.commands.finals import run_finals
from nas.commands.search_loop import SearchLoop
from nas.commands.search_plan import SearchArguments, SearchPlan, plan_search
from nas.commands.trials import Trials
from nas.errors import InfeasibleError, NasError, StudyError, argument_text, one_of
from nas.reports.overview import update_note_and_figures
from nas.resources import shipped_spaces
from nas.schema import Interval, check_counts, sequence_of
from nas.space.constraints import Constraint, Limits
from nas.space.portfolio import SOURCE_PREFIX
from nas.space.search_space import SearchSpace
from nas.space.survey import any_feasible, survey
from nas.study.budget import Budget, tally_text
from nas.study.database import errors_on_use, masked_url, quiet_optuna
from nas.study.locks import Locks, open_locks
from nas.study.progress import Tally, discards_text
from nas.study.reader import StudyNotes, StudyRecords
from nas.study.reference import StudyRef
from nas.study.settings import OBJECTIVES
from nas.study.trial import TrainedTrial
from nas.study.writer import StudyWriter
from nas.text import call_text, html_lines, table_text
from nas.training.data import TrainingData
from nas.workers.backend import Backend, Compute

MINUTES = Interval(float, 0, open_low=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """Result of a search; all counts are those of the whole study.

    Attributes:
        study: Name of the study.
        storage: Database URL without its password.
        results: Results folder.
        objectives: "accuracy", and a cost if the search was for a Pareto front.
        tally: What has been trained.
        budget: Budget of the search.
        discards: Number of discards by reason.
        best: Up to ten best trials, best first.
        interrupted: Whether Ctrl-C ended the search.
        exhausted: Reason and survey of the limits if the search ended because no feasible, new candidate was found;
            empty otherwise.
        num_stored_discards: Number of discards that the study stores as trials; they take trial numbers, too.
        export_arguments: Arguments of an export that follow from the search: the board, if there is one.
    """

    study: str
    storage: str
    results: Path
    objectives: tuple[str, ...]
    tally: Tally
    budget: Budget
    discards: Mapping[str, int]
    best: Trials[TrainedTrial] = field(repr=False)
    interrupted: bool = False
    exhausted: str = ""
    num_stored_discards: int = 0
    export_arguments: Mapping[str, str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Returns what was trained and discarded as lines of text."""
        discards = discards_text(self.discards, num_stored=self.num_stored_discards)
        lines = [f"{tally_text(self.tally, self.budget)}, {discards}"]
        if self.budget.spent_share(self.tally) < 1 and not (self.interrupted or self.exhausted):
            lines.append("The rest of the budget is less than one whole training.")
        return lines

    def __str__(self) -> str:
        """Returns the counts, the best trials and the place of the study as lines of text."""
        from nas.tables import trial_table

        lines = self._lines_with_end()
        if self.best:
            lines += [table_text(trial_table(self.best, title=BEST_TITLE)), self._location()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """Returns the counts, the best trials and the next calls as HTML, for notebooks."""
        from nas.tables import table_html, trial_table

        shown = html_lines(self._lines_with_end())
        if self.best:
            ref = StudyRef(self.results, self.storage, self.study)
            further = {"export_trial": self.export_arguments}
            calls = (call_text(name, {**further.get(name, {}), **ref.study_arguments()}) for name in NEXT_CALLS)
            table = table_html(trial_table(self.best, title=BEST_TITLE))
            shown += table + html_lines([self._location(), f"Next: {', '.join(calls)}"])
        return shown

    def _lines_with_end(self) -> list[str]:
        """Returns `lines`, and why the search ended if its budget is not spent."""
        lines = self.lines()
        if self.interrupted:
            lines.append("Interrupted: finished trials are kept, the same call goes on.")
        if self.exhausted:
            lines += f"The search ended early: {self.exhausted}".splitlines()
        return lines

    def _location(self) -> str:
        return f"The study is in {self.storage}, weights in {self.results / 'artifacts'}."


BEST_TITLE = "Best by mean val accuracy of the last epochs"
NEXT_CALLS = ("trials", "confirm", "export_trial", "report", "serve_dashboard")


def search(
    study: str | None = None,
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
    board: str | None = None,
    max_latency_ms: float | None = None,
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
    command: str | None = None,
    progress: bool = False,
    on_event: Callable[[Event], None] = lambda event: None,
) -> SearchResult:
    """Searches for accurate networks within limits: draws candidates, discards infeasible ones and trains the others.

    Creates the study, or resumes it if it exists. The budget, `trials` and `minutes`, is that of the whole study. The
    objective is the mean accuracy of the last epochs on the validation split; the test split is never read. Ctrl-C ends
    the training: running trials return to the study's queue, and the result has `interrupted` set.

    In a search for accuracy alone, a fifth of a budget of at least 20 runs goes to finalists: the best candidates are
    retrained with other seeds.

    Dataset, space, epochs, limits, objective, sampler, pruner, portfolio and seed of an existing study cannot change.
    "Default: the study's, or X" means the setting of an existing study, or X for a new one.

    Args:
        study (str | None): Name of the study. Default: "search".
        max_params (int | None): Maximum number of trainable parameters. Default: no limit.
        epochs (int): Number of epochs per candidate. Default: 15.
        trials (int | None): Number of training runs, finalists' runs included; a pruned one counts as its share of the
            epochs. Default: 20, or no limit if `minutes` is given.
        minutes (float | None): Training time per worker in minutes, above 0; runs that would end later are not started.
            Default: no limit.
        dataset (str | None): "mnist", "fashion-mnist", "kmnist", "emnist-digits", "cifar10", "digits", or "folder:PATH"
            with images in train/CLASS and optionally in test/CLASS. Default: the study's, or MNIST if available, else
            digits.
        data_root (str | Path | None): Folder that datasets are read from and downloaded to. Default: `$NAS_DATA`, or
            the user's cache.
        space (str | SearchSpace | None): Name of a shipped search space, path of a TOML file, or a `SearchSpace`.
            Default: the study's if it is a shipped one, or "grey" for images with one channel and "rgb" for others.
        min_receptive_field (int | None): Minimum receptive field in pixels. Default: the longer side of the images.
        max_macs (int | None): Maximum number of multiply-accumulates for one image. Default: no limit.
        max_activation_bytes (int | None): Maximum bytes of float32 activations alive at once, for one image. Default:
            no limit.
        max_weight_bytes (int | None): Maximum bytes of stored float32 parameters and buffers. Default: no limit.
        board (str | None): Name of a board, such as "pico", or "FILE.toml:NAME". The network's int8 C code must fit
            into half of its RAM and of its flash. Default: no board.
        max_latency_ms (float | None): Longest time of one image on the board, in ms, if every instruction takes one
            cycle; needs `board`. Default: no limit.
        constraints (Sequence[str | Constraint]): Further limits on metrics of `FullCost`, such as "macs<=200000".
            Default: none.
        objective (str | None): "accuracy", or "accuracy,COST" for a Pareto front, with "params" or another metric as
            COST. Default: the study's, or "accuracy".
        sampler (str | None): Proposes candidates: "elite", "evolution", "tpe", "gp", "nsga2" or "random". Default: the
            study's, or "elite".
        pruner (str | None): Stops unpromising trials early: "none", "median", "asha" or "hyperband"; "none" for a
            Pareto front. Default: the study's, or "none".
        start_from (Sequence[str | Path]): Networks to train first, as they are: architecture files, folders of them,
            exports, or names of known networks. Those that do not fit the space or the limits are left out; at least
            one must fit. Default: none.
        portfolio (bool | None): Whether to train the space's known designs first, scaled to fit. Default: the study's,
            or True.
        keep_discards (int): Maximum number of discards that the study stores as trials; all are counted. Default: 100.
        seed (int | None): Seed of the search, at least 0. Default: the study's, or 0.
        device (str): "auto" (CUDA, then MPS, then CPU), "cuda" (all GPUs), "cuda:N", "mps" or "cpu". Default: "auto".
        workers (int | None): Number of worker processes. Default: one per CPU core, or one per GPU; with `ray`, as many
            as fit.
        ray (str | None): Ray cluster to train on: "auto", "local" or "HOST:PORT". Default: None, this machine.
        gpus_per_trial (float | None): GPUs per run, 0 or 0.01 to 1, only with `ray`. Default: 1 if the cluster has
            GPUs, else 0.
        exact (bool): Whether training on a GPU is bitwise reproducible, which is slower. Default: False.
        results (str | Path): Results folder of the study. Default: "results".
        storage (str | None): Database URL of the study. Default: the SQLite file `studies.db` in `results`.
        command (str | None): Command that repeats the search, which the study stores. Default: this call as Python
            code.
        progress (bool): Whether to show the progress, in a terminal or in a notebook. Default: False.
        on_event (Callable[[Event], None]): Called with each event. Default: does nothing.

    Returns:
        The best trials and the counts of the whole study.

    Raises:
        InfeasibleError: If fewer than about 1 in 10,000 candidates of a new study keep the limits.
        StudyError: If the study is damaged or has other settings, if no network of `start_from` fits, or if three runs
            in a row fail.
        NasError: If an argument is not valid, or the dataset or the device is not available.
    """
    check_counts(
        epochs=(epochs, 1), trials=(trials, 1), keep_discards=(keep_discards, 0), seed=(seed, 0), workers=(workers, 1)
    )
    ref = StudyRef(results, storage, study)
    compute = Compute(device=device, workers=workers, ray=ray, gpus_per_trial=gpus_per_trial, exact=exact)
    backend = compute.backend()
    if minutes is not None and not MINUTES.accepts(minutes):
        raise NasError(f"{argument_text('minutes', minutes)}: expected {MINUTES}")
    arguments = SearchArguments(
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
            board=board,
            max_latency_ms=max_latency_ms,
            constraints=constraints,
        ),
        objectives=_objectives(objective),
        sampler=sampler,
        pruner=pruner,
        seed=seed,
        start_from=sequence_of(start_from),
        portfolio=portfolio,
        keep_discards=keep_discards,
    )
    with quiet_optuna(), event_display(on_event, progress=progress) as show:
        plan = plan_search(ref, arguments)
        _check_feasible(plan)
        with backend, errors_on_use(ref.url), closing(open_locks(ref)) as locks:
            budget = _budget(trials, minutes, backend)
            writer = _open_study(ref, plan, locks, backend, budget, command, _python_call(locals()))
            interrupted, exhausted = _run(writer, plan, backend, compute, budget=budget, on_event=show)
            return _summarise(writer, plan, budget, interrupted=interrupted, exhausted=exhausted)


def _budget(trials: int | None, minutes: float | None, backend: Backend) -> Budget:
    """Returns the budget, by default `NUM_TRIALS` trials.

    `backend` must be open: then its number of workers is known.
    """
    if trials is None and minutes is None:
        trials = NUM_TRIALS
    return Budget(trials=trials, minutes=minutes, workers=backend.num_workers)


def _check_feasible(plan: SearchPlan) -> None:
    """Raises `InfeasibleError` with a survey of the limits if (almost) no candidate of a new study keeps them."""
    if not plan.is_new:
        return
    space, constraints = plan.task.space, plan.task.constraints
    if any_feasible(space, constraints):
        return
    report = survey(space, constraints)
    if not report.num_feasible:
        lines = ["fewer than 1 in 10,000 candidates of the search space keep the limits", *report.lines()]
        raise InfeasibleError("\n".join(lines))


def _open_study(
    ref: StudyRef,
    plan: SearchPlan,
    locks: Locks,
    backend: Backend,
    budget: Budget,
    command: str | None,
    python_call: str,
) -> StudyWriter:
    """Opens or creates the study for writing, and returns trials of dead searches to its queue.

    The study stores `command`, or the Python call of the search if there is none, unless nothing is left to train.
    """
    notes = StudyNotes(
        dataset_note=plan.dataset_note,
        mean=tuple(plan.dataset.mean),
        std=tuple(plan.dataset.std),
        classes=plan.dataset.classes,
        command=command or python_call,
        board=plan.board,
        board_limits=plan.board_limits,
        machine=f"{platform.node()}, {backend.description}, Python {platform.python_version()}",
    )
    with locks.exclusively("begin"):
        # Looked up again under the lock: another search may have created the study since `plan_search`.
        records = StudyRecords.find(ref) or StudyRecords.create(ref, plan.settings, notes)
        if differences := records.settings.differences(plan.settings):
            raise StudyError(
                f"study {records.name!r}: {'; '.join(differences)}; repeat the settings of its first search, or give"
                " another `study`"
            )
        if budget.admits(records.tally()):
            script = shlex.join(["python", "-c", f"import nas; {python_call}"])
            records.add_command(command or script, python_call)
        records.artifacts.prepare()
        writer = StudyWriter(records, locks)
        writer.requeue_dead_trials()
    return writer


def _run(
    writer: StudyWriter,
    plan: SearchPlan,
    backend: Backend,
    compute: Compute,
    *,
    budget: Budget,
    on_event: Callable[[Event], None],
) -> tuple[bool, str]:
    """Trains until the budget is spent.

    Returns whether Ctrl-C ended it, and the reason if no new feasible candidate was found ("" otherwise).
    """
    records = writer.records
    on_event(_started_event(writer, plan, backend, budget))
    if not budget.admits(records.tally()):
        return False, ""
    with closing(backend.open(TrainingData.from_dataset(plan.dataset), exact=compute.exact)) as workers:
        loop = SearchLoop(writer, plan.task, workers, on_event=on_event)
        if len(plan.settings.objectives) > 1:  # a front has no single best
            return loop.run(budget.admits)
        interrupted, exhausted = loop.run(budget.admits_candidate)
        # Another search on this study may be training the finalists already.
        if interrupted or not writer.locks.try_acquire("finals"):
            return interrupted, exhausted
        try:
            run_finals(records, budget, workers, on_event)
        except KeyboardInterrupt:
            return True, exhausted
        if exhausted or not budget.admits(records.tally()):
            return False, exhausted
        # Budget is left if a run of a finalist has failed, or if trainings took so long that the runs of two finalists
        # no longer fit. It goes to candidates, in a new loop: a loop counts the finalists' runs when it is created.
        return SearchLoop(writer, plan.task, workers, on_event=on_event).run(budget.admits)


def _started_event(writer: StudyWriter, plan: SearchPlan, backend: Backend, budget: Budget) -> SearchStarted:
    """Returns the event that tells what the search will do, and what the study holds already."""
    records, settings = writer.records, plan.settings
    progress, best = records.progress(), records.best(1)
    sources = [start.source for start in plan.task.known_candidates]
    return SearchStarted(
        study=records.name,
        storage=records.ref.masked_url,
        dataset=plan.dataset.name,
        dataset_note=plan.dataset_note,
        space=settings.space,
        constraints=settings.constraints,
        device=backend.description,
        workers=backend.num_workers,
        epochs=settings.epochs,
        budget=budget,
        tally=progress.tally(),
        num_queued=progress.num_queued + len(writer.missing_from_study(plan.task.known_candidates)),
        objectives=settings.objectives,
        unfit=plan.unfit,
        unfit_designs=plan.unfit_designs,
        sampler=settings.sampler,
        pruner=settings.pruner,
        start_from=tuple(source for source in sources if not source.startswith(SOURCE_PREFIX)),
        portfolio=tuple(source.removeprefix(SOURCE_PREFIX) for source in sources if source.startswith(SOURCE_PREFIX)),
        seed=settings.seed,
        discards=progress.discards(),
        best=best[0] if best else None,
    )


def _summarise(
    writer: StudyWriter, plan: SearchPlan, budget: Budget, *, interrupted: bool, exhausted: str
) -> SearchResult:
    """Updates the study's note and figures for the dashboard, and returns the result."""
    writer.read_changes()
    records = writer.records
    update_note_and_figures(records)
    if exhausted:
        exhausted = "\n".join([exhausted, *survey(plan.task.space, plan.task.constraints).lines()])
    return SearchResult(
        study=records.name,
        storage=records.ref.masked_url,
        results=records.ref.folder,
        objectives=plan.settings.objectives,
        tally=records.tally(),
        budget=budget,
        discards=records.discards(),
        best=Trials(records.best(10)),
        interrupted=interrupted,
        exhausted=exhausted,
        num_stored_discards=records.progress().stored_discards.total(),
        export_arguments=records.notes.export_arguments,
    )


def _objectives(text: str | None) -> tuple[str, ...] | None:
    """Parses `objective`; None if it was not given. Raises `NasError` unless it is "accuracy" or "accuracy,COST"."""
    if text is None:
        return None
    parts = tuple(part.strip() for part in text.split(","))
    first, *costs = OBJECTIVES
    if parts[0] != first or len(parts) > 2 or any(part not in costs for part in parts[1:]):
        raise NasError(
            f"{argument_text('objective', text)}: expected {first}, or {first},COST with COST {one_of(costs)}"
        )
    return parts


class _Variable(str):
    """Text that stands for itself in Python code."""

    __slots__ = ()
    __repr__ = str.__str__


def _python_call(arguments: Mapping[str, Any]) -> str:
    """Returns a call of `search` as Python code, without defaults and without the password in a database URL.

    A search space that was given as an object and is not a shipped one becomes a variable, which a comment explains.
    """
    given: dict[str, Any] = {}
    for name, parameter in inspect.signature(search).parameters.items():
        value = arguments[name]
        if name not in ("command", "progress", "on_event") and value is not None and value != parameter.default:
            given[name] = masked_url(value) if name == "storage" else _as_literal(value)
    variable = isinstance(given.get("space"), _Variable)
    return call_text("search", given) + (f"  # space: the SearchSpace {arguments['space'].name!r}" if variable else "")


def _as_literal(value: Any) -> Any:
    """Returns the value of an argument in a form whose `repr` is Python code without imports."""
    match value:
        case SearchSpace():
            is_shipped = value.name in shipped_spaces() and value == SearchSpace.load(value.name)
            return value.name if is_shipped else _Variable("space")
        case Constraint() | Path():
            return str(value)
        case list() | tuple():
            return [_as_literal(each) for each in value]
    return value
