"""Opens or creates a study, and reads its settings, trials, counts and weights.

A study is an Optuna study in a database. The figures of a trial are user attributes, which optuna-dashboard shows. Its
architecture, recipe and epochs are system attributes. Its weights and dashboard files lie in Optuna's artifact store.
"""

import dataclasses
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean
from typing import TYPE_CHECKING, Any, Self

import optuna
from optuna.study import StudyDirection
from optuna.trial import TrialState

from nas.errors import StudyError, one_of
from nas.pareto import pareto_front
from nas.seed_stats import StoredConfirmation
from nas.study.artifacts import Artifacts
from nas.study.attributes import StoredTrial, typed_trials
from nas.study.database import errors_on_decode, errors_on_open, file_exists, open_storage, sqlite_file
from nas.study.progress import StudyProgress, Tally
from nas.study.reference import StudyRef
from nas.study.runs import StudyRuns
from nas.study.settings import Settings
from nas.study.trial import TrainedTrial, TrialRecord, read_trained, read_trial
from nas.study.validation import check_study
from nas.text import call_text, options_text
from nas.training.results import objective, val_accuracies

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyNotes:
    """Description of a study for people and exports.

    Attributes:
        dataset_note: Sentence that says why this dataset was chosen.
        mean: Mean of the training pixels for each channel, 0 to 1.
        std: Standard deviation of the training pixels for each channel.
        classes: Names of the classes.
        command: Command line that created the study, or Python call.
        machine: Machine and devices on which the study was created.
        further_commands: Those that continued it, such as with a larger budget; each once, in order.
        board: Name of the board that limits the networks; None without one.
        board_limits: Those limits of the study that come from the board.
    """

    dataset_note: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    command: str
    machine: str
    further_commands: tuple[str, ...] = ()
    board: str | None = None
    board_limits: tuple[str, ...] = ()

    @property
    def commands(self) -> tuple[str, ...]:
        """The commands that lead to the study as it is, in order."""
        return self.command, *self.further_commands

    @property
    def is_python(self) -> bool:
        """Whether the command is a Python call, because the study was begun from Python."""
        return self.command.startswith("nas.search(")

    @property
    def export_arguments(self) -> dict[str, str]:
        """Arguments of an export that follow from the search: the board, if there is one."""
        return {"board": self.board} if self.board else {}

    def to_attributes(self) -> dict[str, Any]:
        """Returns the notes as user attributes of the study."""
        return {
            "dataset_note": self.dataset_note,
            "normalisation": {"mean": self.mean, "std": self.std},
            "classes": self.classes,
            "command": self.command,
            "machine": self.machine,
            **({"board": self.board, "board_limits": self.board_limits} if self.board else {}),
        }

    @classmethod
    def from_attributes(cls, attrs: Mapping[str, Any]) -> Self:
        """Returns the notes in the user attributes of a checked study."""
        return cls(
            dataset_note=attrs["dataset_note"],
            mean=tuple(attrs["normalisation"]["mean"]),
            std=tuple(attrs["normalisation"]["std"]),
            classes=tuple(attrs["classes"]),
            command=attrs["command"],
            machine=attrs["machine"],
            further_commands=tuple(attrs.get("further_commands", ())),
            board=attrs.get("board"),
            board_limits=tuple(attrs.get("board_limits", ())),
        )


class StudyRecords:
    """Reads an open study: settings, trials, counts and weights."""

    def __init__(self, study: optuna.Study, storage: optuna.storages.RDBStorage, ref: StudyRef) -> None:
        self.study = study
        self.storage = storage
        self.ref = ref
        self.artifacts = Artifacts(ref.folder)

    # -- opening ---------------------------------------------------------------------------------------------

    @classmethod
    def find(cls, ref: StudyRef) -> "StudyRecords | None":
        """Opens the study; returns None if it does not exist, without creating it.

        Raises `StudyError` if the study or its database is damaged or was made by another program.
        """
        database = sqlite_file(ref.url)
        if database is not None and not file_exists(database):
            return None
        with errors_on_open(ref.url):
            opened = open_storage(ref.url)
            with errors_on_decode(ref.url):
                if ref.name not in optuna.get_all_study_names(opened):
                    return None
                loaded = optuna.load_study(study_name=ref.name, storage=opened)
                attrs, trials, directions = loaded.user_attrs, loaded.get_trials(deepcopy=False), loaded.directions
            if "settings" not in attrs:
                if not trials:
                    return None  # its creation was interrupted
                raise StudyError(f"{ref.masked_url}: study {ref.name!r} was not made by nas; give another `study`")
        check_study(attrs, trials, len(directions), f"{ref.masked_url}: study {ref.name!r}")
        return cls(loaded, opened, ref)

    @classmethod
    def open(cls, ref: StudyRef) -> "StudyRecords":
        """Opens the study; raises `StudyError`, which lists the existing studies, if it does not exist."""
        if (records := cls.find(ref)) is not None:
            return records
        database = sqlite_file(ref.url)
        if database is not None and not file_exists(database):
            mend = f"run {ref.call('search')} first, or name another one with `results` or `storage`"
            raise StudyError(f"{database}: no database found; {mend}")
        with errors_on_open(ref.url), errors_on_decode(ref.url):
            names = [name for name in optuna.get_all_study_names(open_storage(ref.url)) if name != ref.name]
        known = f"expected {one_of(sorted(names))}" if names else "the database has no other study"
        raise StudyError(f"{ref.masked_url}: no study {ref.name!r} found, {known}")

    @classmethod
    def create(cls, ref: StudyRef, settings: Settings, notes: StudyNotes) -> "StudyRecords":
        """Creates a study."""
        with errors_on_open(ref.url), errors_on_decode(ref.url):
            opened = open_storage(ref.url)
            # A study of this name has neither settings nor trials if it exists: its creation was interrupted.
            costs = settings.objectives[1:]
            created = optuna.create_study(
                study_name=ref.name,
                storage=opened,
                directions=[StudyDirection.MAXIMIZE, *(StudyDirection.MINIMIZE for _ in costs)],
                load_if_exists=True,
            )
            metric = f"mean val accuracy, last {min(settings.consistency, settings.epochs)} epochs"
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                created.set_metric_names([metric, *costs])
            for key, value in notes.to_attributes().items():
                created.set_user_attr(key, value)
            # Last: a study without settings counts as not created.
            created.set_user_attr("settings", dataclasses.asdict(settings))
        return cls(created, opened, ref)

    def add_command(self, command: str, python_call: str) -> None:
        """Stores the command of a search that continues the study, unless the study has it already.

        Stores the Python call instead if the study was begun from Python.
        """
        commands = self.notes.commands
        text = python_call if self.notes.is_python else command
        if text not in commands:
            self.study.set_user_attr("further_commands", [*commands[1:], text])
            del self.notes

    # -- reading ---------------------------------------------------------------------------------------------

    @cached_property
    def settings(self) -> Settings:
        """Settings with which the study was created."""
        return Settings.from_json(self.study.user_attrs["settings"])

    @property
    def name(self) -> str:
        """Name of the study."""
        return self.study.study_name

    @cached_property
    def notes(self) -> StudyNotes:
        """Description of the study for people and exports."""
        return StudyNotes.from_attributes(self.study.user_attrs)

    @property
    def stored_confirmation(self) -> StoredConfirmation | None:
        """Result of the confirmation; None if the study is not confirmed."""
        summary = self.study.user_attrs.get("confirmed")
        return None if summary is None else StoredConfirmation.from_json(summary, self.settings.consistency)

    def commands(self, *further: tuple[str, Mapping[str, object]]) -> list[str]:
        """Returns the commands that lead to the study as it is and further ones, as Python code or as command lines.

        Args:
            further: Name of each further command, such as "export", and its arguments without those that name the
                study.
        """
        named = self.ref.study_arguments()
        if self.notes.is_python:
            functions = {"export": "export_trial"}
            calls = (call_text(functions.get(name, name), {**given, **named}) for name, given in further)
            return ["import nas", *self.notes.commands, *calls]
        return [*self.notes.commands, *(f"nas {name}{options_text({**given, **named})}" for name, given in further)]

    def stored_trials(self) -> list[StoredTrial]:
        """Returns a typed view of every trial, stored discards included, sorted by number."""
        return typed_trials(self.study.get_trials(deepcopy=False))

    def trials(self) -> list[TrialRecord]:
        """Returns the record of every trial, stored discards included, sorted by number."""
        further = self._further_objectives()
        return [replace(read_trial(trial), further=further.get(trial.number, ())) for trial in self.stored_trials()]

    def trial(self, number: int) -> TrialRecord:
        """Returns the record of a trial, without its further runs; raises `StudyError` if it does not exist."""
        return read_trial(self._stored_trial(number))

    def trained_trial(self, number: int) -> TrainedTrial:
        """Returns the record of a trained trial, without its further runs; raises `StudyError` for any other trial."""
        trial = self._stored_trial(number)
        if not trial.is_complete:
            outcome = trial.outcome or trial.state.name.lower()
            raise StudyError(f"trial {number}: it is {outcome} and has no weights, expected a trained trial")
        return read_trained(trial)

    def best(self, count: int) -> list[TrainedTrial]:
        """Returns the `count` best trained trials, best first; among equals, smaller networks come first.

        Finalists with further runs come first, by the mean over their runs. The others follow by their single run,
        which may have been lucky.
        """
        return self._ranked(count, finalists_first=True)

    def best_by_mean(self, count: int) -> list[TrainedTrial]:
        """Returns the `count` best trained trials by the mean over their runs, from which finalists are chosen."""
        return self._ranked(count, finalists_first=False)

    def _ranked(self, count: int, *, finalists_first: bool) -> list[TrainedTrial]:
        further = self._further_objectives()

        def standing(trial: StoredTrial) -> tuple[bool, float, int]:
            minus_objective, params = trial.sort_key()
            runs = further.get(trial.number, ())
            return finalists_first and not runs, fmean((minus_objective, *(-run for run in runs))), params

        best = sorted(self._complete_trials(), key=standing)[:count]
        return [replace(read_trained(trial), further=further.get(trial.number, ())) for trial in best]

    def pareto(self) -> list[TrainedTrial]:
        """Returns the Pareto front of the trained trials in accuracy and cost, cheapest first.

        The cost is the study's second objective, or the number of parameters if it has only one objective.
        """
        cost = self.settings.cost
        done = sorted(map(read_trained, self._complete_trials()), key=lambda trial: int(getattr(trial, cost)))
        return pareto_front((trial, (trial.objective, -getattr(trial, cost))) for trial in done)

    def progress(self) -> StudyProgress:
        """Returns the counts of the study's trials so far."""
        progress = StudyProgress(self.settings.epochs, self.runs.finalist_histories())
        progress.update({trial.number: trial for trial in self.study.get_trials(deepcopy=False)})
        return progress

    def tally(self) -> Tally:
        """Returns what has been trained so far."""
        return self.progress().tally()

    def discards_by_candidate(self) -> list[Counter[str]]:
        """Returns for each candidate, in order, the number of discards by reason that were drawn before it."""
        counts: dict[int, Counter[str]] = {}
        index = 0
        for trial in self.stored_trials():
            # A discarded trial from the queue has no candidate: it counts with the candidate before it.
            index = index if trial.index is None else trial.index
            counts.setdefault(index, Counter()).update(trial.discards)
        return [counts[index] for index in sorted(counts)]

    def discards(self) -> Counter[str]:
        """Returns the number of discards by reason, over all searches of the study."""
        return self.progress().discards()

    def weights(self, number: int) -> "dict[str, Tensor]":
        """Returns the state dict of a trained trial, on the CPU; raises `StudyError` if it is missing or damaged."""
        record, artifact = self.trained_trial(number), self._stored_trial(number).weights
        if artifact is None:
            raise StudyError(f"trial {number} has no weights, expected a trained trial")
        return self.artifacts.read_state_dict(artifact, f"the weights of trial {number}", record.architecture)

    @property
    def runs(self) -> StudyRuns:
        """Further runs of the study's trials."""
        return StudyRuns(self.study, self.settings.epochs)

    def _further_objectives(self) -> dict[int, tuple[float, ...]]:
        """Returns the objectives of the further runs of each finalist, by trial."""
        settings = self.settings
        return {
            trial: tuple(
                objective(val_accuracies(history, settings.epochs), settings.consistency) for history in histories
            )
            for trial, histories in self.runs.finalist_histories().items()
        }

    def _stored_trial(self, number: int) -> StoredTrial:
        trials = self.study.get_trials(deepcopy=False)
        if not 0 <= number < len(trials):
            known = f"expected 0 to {len(trials) - 1}" if trials else "the study has no trials yet"
            raise StudyError(f"no trial {number} found, {known}")
        return StoredTrial(trials[number])

    def _complete_trials(self) -> list[StoredTrial]:
        return typed_trials(self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
