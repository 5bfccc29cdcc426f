"""Records: the only reader and writer of what a study stores: attributes, trials, weights.

A study is Optuna's, in a database: figures are user attributes, which optuna-dashboard shows; the network, the recipe
and the epochs of a trial are system attributes; its weights, and files for people, lie in Optuna's artifact store.
"""

import dataclasses
import warnings
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import TrialState

from nas.errors import StudyError, found, named
from nas.pareto import front
from nas.seed_stats import Verdict
from nas.study.artifacts import Artifacts
from nas.study.database import decoding, default_storage, exists, open_storage, opening, shown, sqlite_file
from nas.study.progress import Ledger, discards_of
from nas.study.trial import Settings, Tally, TrialRecord, noted, read_trial
from nas.study.validation import check_study

if TYPE_CHECKING:
    from torch import Tensor

DEFAULT_STUDY = "search"
MOST_CHARACTERS = 100  # of a study's name


def check_name(study: str) -> None:
    """Raises unless a new study may be called so: its name becomes part of file names, and of what is printed."""
    if not study.isprintable() or len(study) > MOST_CHARACTERS or "/" in study:
        allowed = f"at most {MOST_CHARACTERS} printable characters without /"
        raise StudyError(f"--study {found(study)}, allowed: {allowed}")


class StudyRecords:
    """One study, opened."""

    def __init__(self, study: optuna.Study, storage: optuna.storages.RDBStorage, results: Path) -> None:
        self.study = study
        self.storage = storage
        self.artifacts = Artifacts(results)

    # -- opening ---------------------------------------------------------------------------------------------

    @classmethod
    def find(
        cls, *, results: str | Path, storage: str | None = None, study: str | None = None
    ) -> "StudyRecords | None":
        """The study of that name, or None where there is none (nothing is created then)."""
        url = storage or default_storage(results)
        name = study or DEFAULT_STUDY
        database = sqlite_file(url)
        if database is not None and not exists(database):
            return None
        with opening(url):
            opened = open_storage(url)
            with decoding(url):
                if name not in optuna.get_all_study_names(opened):
                    return None
                loaded = optuna.load_study(study_name=name, storage=opened)
                attrs, trials, directions = loaded.user_attrs, loaded.get_trials(deepcopy=False), loaded.directions
            if "settings" not in attrs:
                if not trials:
                    return None  # killed while it was created
                raise StudyError(f"{shown(url)}: study {name!r} was not made by nas; take another --study NAME")
        check_study(attrs, trials, len(directions), f"{shown(url)}: study {name!r}")
        return cls(loaded, opened, Path(results))

    @classmethod
    def open(cls, *, results: str | Path, storage: str | None = None, study: str | None = None) -> "StudyRecords":
        """The study of that name; a `StudyError` that lists those there are, where it is missing."""
        found = cls.find(results=results, storage=storage, study=study)
        if found is not None:
            return found
        url = storage or default_storage(results)
        database = sqlite_file(url)
        if database is not None and not exists(database):
            raise StudyError(
                f"{database}: no such database; `nas search` makes one, --results or --storage names another"
            )
        with opening(url), decoding(url):
            names = optuna.get_all_study_names(open_storage(url))
        raise StudyError(f"{shown(url)}: no study {study or DEFAULT_STUDY!r}, allowed: {named(names) or 'none yet'}")

    @classmethod
    def create(
        cls,
        settings: Settings,
        *,
        results: str | Path,
        storage: str | None = None,
        study: str | None = None,
        notes: Mapping[str, Any],
    ) -> "StudyRecords":
        """A new study; `notes` are further attributes for people to read."""
        url = storage or default_storage(results)
        name = study or DEFAULT_STUDY
        with opening(url), decoding(url):
            opened = open_storage(url)
            # Where one is there already it has neither settings nor trials: it was killed while it was created.
            costs = settings.objectives[1:]
            created = optuna.create_study(
                study_name=name,
                storage=opened,
                directions=[StudyDirection.MAXIMIZE, *(StudyDirection.MINIMIZE for _ in costs)],
                load_if_exists=True,
            )
            metric = f"mean val accuracy, last {min(settings.consistency, settings.epochs)} epochs"
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                created.set_metric_names([metric, *costs])
            for key, value in notes.items():
                created.set_user_attr(key, value)
            # Last, since it marks the study as whole.
            created.set_user_attr("settings", dataclasses.asdict(settings))
        return cls(created, opened, Path(results))

    # -- reading ---------------------------------------------------------------------------------------------

    @cached_property
    def settings(self) -> Settings:
        """What the study was begun with."""
        return Settings.from_json(self.study.user_attrs["settings"])

    @property
    def verdict(self) -> Verdict | None:
        """What its confirmation came to; None before there is one."""
        stored = self.study.user_attrs.get("confirmed")
        return None if stored is None else Verdict.from_json(stored, self.settings.consistency)

    def trials(self) -> list[TrialRecord]:
        """Every trial, stored discards included, by number."""
        return [read_trial(trial) for trial in self.study.get_trials(deepcopy=False)]

    def trial(self, number: int) -> TrialRecord:
        """The trial of that number."""
        trials = self.study.get_trials(deepcopy=False)
        if not 0 <= number < len(trials):
            raise StudyError(f"no trial {number}, allowed: 0 to {len(trials) - 1}")
        return read_trial(trials[number])

    def best(self, count: int) -> list[TrialRecord]:
        """The finished trials with the highest accuracy, smaller networks first among equals."""
        done = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        done.sort(key=lambda trial: (-trial.values[0], trial.user_attrs["params"]))
        return [read_trial(trial) for trial in done[:count]]

    def pareto(self) -> list[TrialRecord]:
        """The finished trials that no other one beats in accuracy and cost, cheapest first.

        The cost is the study's second objective, or parameters where it has one alone.
        """
        cost = self.settings.cost
        done = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        done.sort(key=lambda trial: trial.user_attrs[cost])
        return front((read_trial(trial), (trial.values[0], -trial.user_attrs[cost])) for trial in done)

    def ledger(self) -> Ledger:
        """What the study has come to so far."""
        found = Ledger(self.settings.epochs)
        found.update({trial.number: trial for trial in self.study.get_trials(deepcopy=False)})
        return found

    def tally(self) -> Tally:
        """What has been trained so far."""
        return self.ledger().tally()

    def discards_by_candidate(self) -> list[Counter[str]]:
        """Number of discards by reason that each candidate took, in the order of candidates."""
        found: dict[int, Counter[str]] = {}
        index = 0
        for trial in self.study.get_trials(deepcopy=False):
            # What a user enqueued and was discarded is no candidate: it counts with the one before it.
            index = trial.user_attrs.get("candidate", index)
            if taken := discards_of(trial):
                found.setdefault(index, Counter()).update(taken)
        return [found[index] for index in sorted(found)]

    def discards(self) -> Counter[str]:
        """Number of discards by reason, over all sessions of the study: the sum of what its candidates took."""
        return self.ledger().discards()

    def shape(self) -> tuple[int, int]:
        """Numbers of objectives, and of parameters that any trial has."""
        trials = self.study.get_trials(deepcopy=False)
        return len(self.study.directions), len({name for trial in trials for name in trial.params})

    def weights(self, number: int) -> "dict[str, Tensor]":
        """The trained weights of a trial, a state dict on the CPU."""
        trial = self.study.get_trials(deepcopy=False)[number]
        artifact = noted(trial, "weights")
        if artifact is None or trial.state != TrialState.COMPLETE:
            outcome = trial.user_attrs.get("outcome") or trial.state.name.lower()
            raise StudyError(f"trial {number} has no weights: it is {outcome}, allowed: a trial that is trained")
        architecture = read_trial(trial).architecture
        assert architecture is not None  # a finished trial has one
        return self.artifacts.download(artifact, f"the weights of trial {number}", architecture)


def trials(
    *, results: str | Path = "results", storage: str | None = None, study: str | None = None
) -> list[TrialRecord]:
    """Every trial of a study, stored discards included, by number."""
    return StudyRecords.open(results=results, storage=storage, study=study).trials()
