"""Plan of a search: its arguments, completed by the settings of an existing study and by defaults."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from nas.commands.defaults import PRUNER, SAMPLER, StartupPlan, startup_plan
from nas.commands.search_loop import SearchTask
from nas.data import datasets
from nas.errors import NasError, StudyError, argument_text
from nas.resources import default_space, shipped_spaces
from nas.sampling.pruners import pruner_named
from nas.sampling.samplers import sampler_named
from nas.space.constraints import Constraint, Limits
from nas.space.portfolio import portfolio_candidates
from nas.space.search_space import SearchSpace
from nas.space.warm_start import KnownCandidate, distinct_candidates, known_candidates
from nas.study.reader import StudyRecords
from nas.study.reference import StudyRef
from nas.study.settings import OBJECTIVES, Settings
from nas.training.results import NUM_LAST_EPOCHS


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchArguments:
    """Arguments of `search`; None stands for the study's own setting or a default."""

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
class SearchPlan:
    """What a search does.

    Attributes:
        is_new: Whether the search creates its study.
        settings: Settings of the study.
        dataset: Images to search on.
        dataset_note: Why this dataset was chosen.
        board: Name of the board that limits the networks; None without one.
        board_limits: The limits that come from the board.
        task: What candidates are drawn from.
        unfit: One line for each network of `start_from` that was left out.
        unfit_designs: One line for each design of the portfolio that was left out.
    """

    is_new: bool
    settings: Settings
    dataset: datasets.Dataset
    dataset_note: str
    board: str | None
    board_limits: tuple[str, ...]
    task: SearchTask
    unfit: tuple[str, ...]
    unfit_designs: tuple[str, ...]


def plan_search(ref: StudyRef, arguments: SearchArguments) -> SearchPlan:
    """Returns the plan of a search. What `arguments` leave open comes from the existing study, or from defaults.

    Raises `NasError` for an argument that is not valid, for a dataset or a file that cannot be read, and if none of the
    networks to start from fits.
    """
    study = StudyRecords.find(ref)
    if study is None:
        ref.check_name()
    dataset, dataset_note = _load_dataset(arguments, study)
    space = _load_space(arguments, study, dataset)
    constraints = arguments.limits.constraints_for(dataset.input_shape)
    methods = _choose_methods(arguments, study)
    designs = _choose_designs(arguments, study, space)
    own, unfit = _find_starts(arguments, space, constraints, methods.seed)
    scaled, unfit_designs = portfolio_candidates(designs, space, constraints, seed=methods.seed)
    known = distinct_candidates([*own, *scaled])
    settings = Settings(
        dataset=dataset.name,
        data_fingerprint=dataset.fingerprint,
        split=dataset.split_id,
        space=space.name,
        space_fingerprint=space.fingerprint(),
        epochs=arguments.epochs,
        consistency=NUM_LAST_EPOCHS,
        constraints=tuple(str(constraint) for constraint in constraints),
        portfolio=designs,
        **_startup(study, space, constraints, methods, num_known=len(known))._asdict(),
        **methods._asdict(),
    )
    return SearchPlan(
        is_new=study is None,
        settings=settings,
        dataset=dataset,
        dataset_note=dataset_note,
        board=arguments.limits.board,
        board_limits=tuple(str(each) for each in arguments.limits.board_constraints() if each in constraints),
        task=SearchTask(
            space=space, constraints=constraints, known_candidates=known, keep_discards=arguments.keep_discards
        ),
        unfit=unfit,
        unfit_designs=unfit_designs,
    )


class _Methods(NamedTuple):
    """How a search draws, stops and compares candidates."""

    objectives: tuple[str, ...] = OBJECTIVES[:1]
    sampler: str = SAMPLER
    pruner: str = PRUNER
    seed: int = 0

    def check(self, epochs: int) -> None:
        """Raises `NasError` for an unknown sampler or pruner, and for a pruner with two objectives."""
        sampler_named(self.sampler)
        if len(self.objectives) > 1 and self.pruner != "none":
            text = "expected none with two objectives, since pruners compare accuracies only"
            raise NasError(f"{argument_text('pruner', self.pruner)}: {text}")
        pruner_named(self.pruner, epochs)


def _load_dataset(arguments: SearchArguments, study: StudyRecords | None) -> tuple[datasets.Dataset, str]:
    """Returns the dataset and why it was chosen."""
    if arguments.dataset is None and study is not None:
        name, note = study.settings.dataset, study.notes.dataset_note
    else:
        name, note = datasets.resolve(arguments.dataset, data_root=arguments.data_root)
    return datasets.load(name, data_root=arguments.data_root), note


def _load_space(arguments: SearchArguments, study: StudyRecords | None, dataset: datasets.Dataset) -> SearchSpace:
    """Returns the search space for the images of the dataset.

    A study continues in its own space if that is a shipped one: the default may be another one by now.
    """
    space = arguments.space
    if space is None and study is not None and study.settings.space in shipped_spaces():
        space = study.settings.space
    if not isinstance(space, SearchSpace):
        space = SearchSpace.load(space or default_space(dataset.input_shape))
    return space.bind(input_shape=dataset.input_shape, num_classes=dataset.num_classes, epochs=arguments.epochs)


def _choose_methods(arguments: SearchArguments, study: StudyRecords | None) -> _Methods:
    """Returns the methods that were given, else those of the study, else defaults."""
    methods = _Methods()
    if study is not None:
        methods = _Methods(*(getattr(study.settings, name) for name in _Methods._fields))
    given = {name: value for name in _Methods._fields if (value := getattr(arguments, name)) is not None}
    methods = methods._replace(**given)
    methods.check(arguments.epochs)
    return methods


def _choose_designs(arguments: SearchArguments, study: StudyRecords | None, space: SearchSpace) -> tuple[str, ...]:
    """Returns the names of the known designs to train first."""
    if arguments.portfolio is None and study is not None:
        return study.settings.portfolio
    return () if arguments.portfolio is False else space.portfolio


def _find_starts(
    arguments: SearchArguments, space: SearchSpace, constraints: Sequence[Constraint], seed: int
) -> tuple[list[KnownCandidate], tuple[str, ...]]:
    """Returns the networks of `start_from` that fit, and a message for each one that does not.

    Raises `StudyError` if networks are given and none of them fits.
    """
    fitting, unfit = known_candidates(arguments.start_from, space, constraints, seed=seed)
    if unfit and not fitting:
        place = argument_text("start_from", [str(named) for named in arguments.start_from])
        expected = "expected a network that fits the search space and the limits"
        raise StudyError(f"{place}: {expected}; {'; '.join(unfit)}")
    return fitting, unfit


def _startup(
    study: StudyRecords | None,
    space: SearchSpace,
    constraints: Sequence[Constraint],
    methods: _Methods,
    *,
    num_known: int,
) -> StartupPlan:
    """Returns how the study begins; an existing one keeps the defaults of the version that created it."""
    if study is not None:
        return StartupPlan(study.settings.num_startup, study.settings.choices)
    num_objectives = len(methods.objectives)
    return startup_plan(space, constraints, sampler=methods.sampler, num_objectives=num_objectives, num_known=num_known)
