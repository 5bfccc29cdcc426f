"""Opens a study, or makes a new one, and reads its settings, trials, counts and weights.

A study is Optuna's, in a database: figures are user attributes, which optuna-dashboard shows; the network, the recipe
and the epochs of a trial are system attributes; its weights, and files for people, lie in Optuna's artifact store.
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

from nas.errors import StudyError, named
from nas.pareto import front
from nas.seed_stats import Verdict
from nas.study.artifacts import Artifacts
from nas.study.attributes import StoredTrial, stored
from nas.study.database import decoding, exists, open_storage, opening, sqlite_file
from nas.study.progress import StudyProgress, Tally
from nas.study.reference import StudyRef
from nas.study.runs import StudyRuns
from nas.study.settings import Settings
from nas.study.trial import TrainedTrial, TrialRecord, read_trained, read_trial
from nas.study.validation import check_study
from nas.training.results import objective, val_accuracies

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyNotes:
    """What a study says of itself for people and exports. `mean`, `std`: of the training pixels, one a channel."""

    dataset_note: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    command: str
    machine: str

    def to_attributes(self) -> dict[str, Any]:
        """As user attributes of the study."""
        return {
            "dataset_note": self.dataset_note,
            "normalisation": {"mean": self.mean, "std": self.std},
            "classes": self.classes,
            "command": self.command,
            "machine": self.machine,
        }

    @classmethod
    def from_attributes(cls, attrs: Mapping[str, Any]) -> Self:
        """The notes in the user attributes of a checked study."""
        return cls(
            dataset_note=attrs["dataset_note"],
            mean=tuple(attrs["normalisation"]["mean"]),
            std=tuple(attrs["normalisation"]["std"]),
            classes=tuple(attrs["classes"]),
            command=attrs["command"],
            machine=attrs["machine"],
        )


class StudyRecords:
    """One study, opened."""

    def __init__(self, study: optuna.Study, storage: optuna.storages.RDBStorage, ref: StudyRef) -> None:
        self.study = study
        self.storage = storage
        self.ref = ref
        self.artifacts = Artifacts(ref.folder)

    # -- opening ---------------------------------------------------------------------------------------------

    @classmethod
    def find(cls, ref: StudyRef) -> "StudyRecords | None":
        """The study, or None where there is none (nothing is created then)."""
        database = sqlite_file(ref.url)
        if database is not None and not exists(database):
            return None
        with opening(ref.url):
            opened = open_storage(ref.url)
            with decoding(ref.url):
                if ref.name not in optuna.get_all_study_names(opened):
                    return None
                loaded = optuna.load_study(study_name=ref.name, storage=opened)
                attrs, trials, directions = loaded.user_attrs, loaded.get_trials(deepcopy=False), loaded.directions
            if "settings" not in attrs:
                if not trials:
                    return None  # killed while it was created
                raise StudyError(f"{ref.shown_url}: study {ref.name!r} was not made by nas; take another --study NAME")
        check_study(attrs, trials, len(directions), f"{ref.shown_url}: study {ref.name!r}")
        return cls(loaded, opened, ref)

    @classmethod
    def open(cls, ref: StudyRef) -> "StudyRecords":
        """The study; a `StudyError` that lists those there are, where it is missing."""
        if (records := cls.find(ref)) is not None:
            return records
        database = sqlite_file(ref.url)
        if database is not None and not exists(database):
            raise StudyError(
                f"{database}: no such database; `nas search` makes one, --results or --storage names another"
            )
        with opening(ref.url), decoding(ref.url):
            names = optuna.get_all_study_names(open_storage(ref.url))
        raise StudyError(f"{ref.shown_url}: no study {ref.name!r}, allowed: {named(names) or 'none yet'}")

    @classmethod
    def create(cls, ref: StudyRef, settings: Settings, notes: StudyNotes) -> "StudyRecords":
        """A new study."""
        with opening(ref.url), decoding(ref.url):
            opened = open_storage(ref.url)
            # Where one is there already it has neither settings nor trials: it was killed while it was created.
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
            # Last, since it marks the study as whole.
            created.set_user_attr("settings", dataclasses.asdict(settings))
        return cls(created, opened, ref)

    # -- reading ---------------------------------------------------------------------------------------------

    @cached_property
    def settings(self) -> Settings:
        """What the study was begun with."""
        return Settings.from_json(self.study.user_attrs["settings"])

    @property
    def name(self) -> str:
        """The study's name."""
        return self.study.study_name

    @cached_property
    def notes(self) -> StudyNotes:
        """What the study says of itself."""
        return StudyNotes.from_attributes(self.study.user_attrs)

    @property
    def verdict(self) -> Verdict | None:
        """What its confirmation came to; None before there is one."""
        summary = self.study.user_attrs.get("confirmed")
        return None if summary is None else Verdict.from_json(summary, self.settings.consistency)

    def stored(self) -> list[StoredTrial]:
        """Every trial, stored discards included, by number, as it is stored."""
        return stored(self.study.get_trials(deepcopy=False))

    def trials(self) -> list[TrialRecord]:
        """Every trial, stored discards included, by number."""
        further = self._further()
        return [replace(read_trial(trial), further=further.get(trial.number, ())) for trial in self.stored()]

    def trial(self, number: int) -> TrialRecord:
        """The trial of that number."""
        return read_trial(self._numbered(number))

    def trained(self, number: int) -> TrainedTrial:
        """The trained trial of that number; raises `StudyError` for any other."""
        trial = self._numbered(number)
        if not trial.is_complete:
            outcome = trial.outcome or trial.state.name.lower()
            raise StudyError(f"trial {number} has no weights: it is {outcome}, allowed: a trial that is trained")
        return read_trained(trial)

    def best(self, count: int) -> list[TrainedTrial]:
        """Finished trials, the best first, smaller networks first among equals.

        Finalists come first, by the mean over their runs; the others by their one run, which may have been lucky.
        """
        return self._ranked(count, finalists_first=True)

    def contenders(self, count: int) -> list[TrainedTrial]:
        """Finished trials by the mean over the runs that they have had, be it one: who should be finalists."""
        return self._ranked(count, finalists_first=False)

    def _ranked(self, count: int, *, finalists_first: bool) -> list[TrainedTrial]:
        further = self._further()

        def standing(trial: StoredTrial) -> tuple[bool, float, int]:
            objective, params = trial.rank()
            runs = further.get(trial.number, ())
            return finalists_first and not runs, fmean((objective, *(-run for run in runs))), params

        first = sorted(self._complete(), key=standing)[:count]
        return [replace(read_trained(trial), further=further.get(trial.number, ())) for trial in first]

    def pareto(self) -> list[TrainedTrial]:
        """The finished trials that no other one beats in accuracy and cost, cheapest first.

        The cost is the study's second objective, or parameters where it has one alone.
        """
        cost = self.settings.cost
        done = sorted(map(read_trained, self._complete()), key=lambda trial: int(getattr(trial, cost)))
        return front((trial, (trial.objective, -getattr(trial, cost))) for trial in done)

    def progress(self) -> StudyProgress:
        """What the study has come to so far."""
        progress = StudyProgress(self.settings.epochs, self.runs.finals())
        progress.update({trial.number: trial for trial in self.study.get_trials(deepcopy=False)})
        return progress

    def tally(self) -> Tally:
        """What has been trained so far."""
        return self.progress().tally()

    def discards_by_candidate(self) -> list[Counter[str]]:
        """Number of discards by reason that each candidate took, in the order of candidates."""
        counts: dict[int, Counter[str]] = {}
        index = 0
        for trial in self.stored():
            # What a user enqueued and was discarded is no candidate: it counts with the one before it.
            index = index if trial.index is None else trial.index
            if taken := trial.discards:
                counts.setdefault(index, Counter()).update(taken)
        return [counts[index] for index in sorted(counts)]

    def discards(self) -> Counter[str]:
        """Number of discards by reason, over all sessions of the study: the sum of what its candidates took."""
        return self.progress().discards()

    def shape(self) -> tuple[int, int]:
        """Numbers of objectives, and of parameters that any trial has."""
        trials = self.study.get_trials(deepcopy=False)
        return len(self.study.directions), len({name for trial in trials for name in trial.params})

    def weights(self, number: int) -> "dict[str, Tensor]":
        """The trained weights of a trial, a state dict on the CPU."""
        record, artifact = self.trained(number), self._numbered(number).weights
        if artifact is None:
            raise StudyError(f"trial {number} has no weights, allowed: a trial that is trained")
        return self.artifacts.download(artifact, f"the weights of trial {number}", record.architecture)

    @property
    def runs(self) -> StudyRuns:
        """Further runs of its trials."""
        return StudyRuns(self.study, self.settings.epochs)

    def _further(self) -> dict[int, tuple[float, ...]]:
        """Objectives of the further runs of each finalist, by trial."""
        settings = self.settings
        return {
            trial: tuple(
                objective(val_accuracies(history, settings.epochs), settings.consistency) for history in histories
            )
            for trial, histories in self.runs.finals().items()
        }

    def _numbered(self, number: int) -> StoredTrial:
        trials = self.study.get_trials(deepcopy=False)
        if not 0 <= number < len(trials):
            raise StudyError(f"no trial {number}, allowed: 0 to {len(trials) - 1}")
        return StoredTrial(trials[number])

    def _complete(self) -> list[StoredTrial]:
        return stored(self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
