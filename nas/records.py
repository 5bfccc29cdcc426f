"""Records: the only reader and writer of what a study stores: attributes, trials, weights.

A study is Optuna's, in a database: figures are user attributes, which optuna-dashboard shows; the network, the recipe
and the epochs of a trial are system attributes; its weights, and files for people, lie in Optuna's artifact store.
"""

import dataclasses
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial

from nas.architecture import Architecture
from nas.artifacts import Artifacts, files_of_training
from nas.checking import check_study
from nas.constraints import Constraint
from nas.cost import Cost
from nas.errors import StudyError, found, named
from nas.pareto import front
from nas.samplers import Discard
from nas.search_space import Candidate
from nas.starting import Start
from nas.storage import decoding, default_storage, exists, open_storage, opening, shown, sqlite_file
from nas.stored import NOTE, Settings, Tally, TrialRecord, epochs_of, noted, read_trial
from nas.training import EpochMetrics, consistent_accuracy, objective
from nas.verdict import Verdict

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from torch import Tensor

DEFAULT_STUDY = "search"
MOST_CHARACTERS = 100  # of a study's name

TRAINED = ("trained", "diverged")
"""Outcomes of a whole training: to its end, or until its loss was no number."""

KEPT = ("fingerprint", "candidate", "num_draws", "started_from", "started_as")
"""Attributes that a candidate brings along when it is run again."""

DRAWN = (*TRAINED, "pruned")
"""Outcomes of trials that get a picture and a table of their epochs: they were trained, if not to the end."""

STOPPED = ("discarded", "pruned")
"""Outcomes that are decisions, not failures: before the training, or in its midst."""


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
            created.set_user_attr("discards", {})
            # Last, since it marks the study as whole.
            created.set_user_attr("settings", dataclasses.asdict(settings))
        return cls(created, opened, Path(results))

    # -- reading ---------------------------------------------------------------------------------------------

    @property
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

    def tally(self) -> Tally:
        """What has been trained so far."""
        trials = self.study.get_trials(deepcopy=False)
        num_trained = sum(trial.user_attrs.get("outcome") in TRAINED for trial in trials)
        epochs = [len(noted(trial, "history")) for trial in trials if trial.user_attrs.get("outcome") == "pruned"]
        spent = (num_trained * self.settings.epochs + sum(epochs)) / self.settings.epochs
        return Tally(num_trained=num_trained, num_pruned=len(epochs), spent=spent)

    def fingerprints(self) -> set[str]:
        """Fingerprints of every candidate that was handed out for training."""
        attrs = (trial.user_attrs for trial in self.study.get_trials(deepcopy=False))
        return {trial["fingerprint"] for trial in attrs if "fingerprint" in trial}

    def discards_by_candidate(self) -> list[Counter[str]]:
        """Number of discards by reason that each candidate took, in the order of candidates."""
        found: dict[int, Counter[str]] = {}
        index = 0
        for trial in self.study.get_trials(deepcopy=False):
            # Without a fingerprint the candidate was never handed out: the same discards will be drawn again.
            if "fingerprint" in trial.user_attrs or trial.user_attrs.get("outcome") == "discarded":
                # What a user enqueued and was discarded is no candidate: it counts with the one before it.
                index = trial.user_attrs.get("candidate", index)
                found.setdefault(index, Counter()).update(noted(trial, "discards") or {})
        return [found[index] for index in sorted(found)]

    def discards(self) -> Counter[str]:
        """Number of discards by reason, over all sessions of the study: the sum of what its candidates took."""
        return sum(self.discards_by_candidate(), Counter())

    def shape(self) -> tuple[int, int]:
        """Numbers of objectives, and of parameters that any trial has."""
        trials = self.study.get_trials(deepcopy=False)
        return len(self.study.directions), len({name for trial in trials for name in trial.params})

    def num_queued(self) -> int:
        """Number of trials that wait to be run: interrupted ones, or some that a user enqueued."""
        return len(self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))

    def num_kept_discards(self, drawn_for: Callable[[int], bool]) -> int:
        """Number of stored discards that were drawn for candidates of such an index."""
        trials = self.study.get_trials(deepcopy=False, states=(TrialState.PRUNED,))
        indices = (noted(trial, "drawn_for") for trial in trials)
        return sum(index is not None and drawn_for(index) for index in indices)

    def weights(self, number: int) -> "dict[str, Tensor]":
        """The trained weights of a trial, a state dict on the CPU."""
        trial = self.study.get_trials(deepcopy=False)[number]
        artifact = noted(trial, "weights")
        if artifact is None or trial.state != TrialState.COMPLETE:
            raise StudyError(f"trial {number} has no weights: it is {trial.state.name}, not a finished training")
        architecture = read_trial(trial).architecture
        assert architecture is not None  # a finished trial has one
        return self.artifacts.download(artifact, f"the weights of trial {number}", architecture)

    # -- writing ---------------------------------------------------------------------------------------------

    def keep_discards(
        self,
        discards: Sequence[Discard],
        constraints: Sequence[Constraint],
        distributions: "Mapping[str, BaseDistribution]",
        *,
        drawn_for: int,
    ) -> None:
        """Stores discards as PRUNED trials, to be browsed; those that a killed session stored are not stored again.

        `drawn_for` is the index of the candidate that was found after them: the same draws have the same index.
        """
        stored = self.num_kept_discards(lambda index: index == drawn_for)
        for values, verdict in discards[stored:]:
            attrs: dict[str, Any] = {"outcome": "discarded", "reason": verdict.reason}
            # An impossible shape has no cost to measure: it counts as missing every limit by all of it.
            violations = {str(c): c.violation(verdict.cost) if verdict.cost else 1.0 for c in constraints}
            if verdict.cost is not None:
                attrs |= dataclasses.asdict(verdict.cost)
            trial = create_trial(
                state=TrialState.PRUNED,
                params=dict(values),
                distributions=dict(distributions),
                user_attrs=attrs,
                system_attrs={f"{NOTE}drawn_for": drawn_for},
                constraints=violations,
            )
            self.study.add_trial(trial)

    def not_had(self, starts: Iterable[Start]) -> list[Start]:
        """Those of known candidates that the study has not had yet, each once."""
        attrs = [trial.user_attrs for trial in self.study.get_trials(deepcopy=False)]
        had = {trial.get("fingerprint") for trial in attrs} | {trial.get("started_as") for trial in attrs}
        return [
            start for start in {start.fingerprint: start for start in starts}.values() if start.fingerprint not in had
        ]

    def enqueue(self, start: Start) -> None:
        """Puts a known candidate into the queue."""
        notes = {"started_from": start.source, "started_as": start.fingerprint}
        self.study.enqueue_trial(dict(start.values), user_attrs=notes)

    def start(
        self,
        trial: optuna.Trial,
        candidate: Candidate,
        cost: Cost,
        constraints: Sequence[Constraint],
        *,
        seed: int,
        index: int,
        discards: Mapping[str, int],
    ) -> None:
        """Notes what the trial is about to train, and the discards that were drawn before it.

        `index`: how many candidates the study had before this one.
        """
        _set_cost(trial, cost, constraints)
        if "num_draws" not in trial.user_attrs:  # a trial that is run again brings it along
            trial.set_user_attr("num_draws", sum(discards.values()) + 1)
            self._note(trial, "discards", dict(discards))
        trial.set_user_attr("candidate", index)
        trial.set_user_attr("seed", seed)
        self._note(trial, "architecture", candidate.architecture.to_json())
        self._note(trial, "recipe", candidate.recipe.to_json())
        # Last: a trial without it was killed before it began, and is drawn again rather than run again.
        trial.set_user_attr("fingerprint", candidate.fingerprint())
        self.study.set_user_attr("discards", dict(self.discards()))

    def discard(self, trial: optuna.Trial, cost: Cost, reason: str, constraints: Sequence[Constraint]) -> None:
        """Ends a trial that is not to be trained: one enqueued by hand, since the sampler hands out no other."""
        _set_cost(trial, cost, constraints)
        trial.set_user_attr("reason", reason)
        self._note(trial, "discards", {reason: 1})
        trial.set_user_attr("outcome", "discarded")
        self._tell(trial.number, "discarded")

    def report(self, trial: optuna.Trial, metrics: EpochMetrics) -> None:
        """Notes an epoch for the learning curves and for pruners; Optuna has no place for it beside two objectives."""
        if len(self.settings.objectives) == 1:
            trial.report(metrics.val_accuracy, metrics.epoch)

    def finish(self, trial: optuna.Trial, history: Sequence[EpochMetrics], weights: bytes) -> None:
        """Stores a finished training; the trial is COMPLETE only once everything else is stored.

        `weights`: the state dict, as `torch.save` writes it.
        """
        artifact = self.artifacts.upload(weights, trial)
        accuracies = [metrics.val_accuracy for metrics in history]
        self._note(trial, "weights", artifact)
        trial.set_user_attr("consistent_accuracy", consistent_accuracy(accuracies, self.settings.consistency))
        self._end(trial, "trained", history)
        self._tell(trial.number, "trained", accuracies)

    def prune(self, trial: optuna.Trial, history: Sequence[EpochMetrics]) -> None:
        """Stores a training that was stopped early."""
        last = history[-1]
        trial.set_user_attr("reason", f"stopped after epoch {last.epoch}, val {last.val_accuracy:.2%}")
        self._end(trial, "pruned", history)
        self._tell(trial.number, "pruned")

    def fail(self, trial: optuna.Trial, outcome: str, reason: str, history: Sequence[EpochMetrics] = ()) -> None:
        """Stores a trial that gave no network."""
        trial.set_user_attr("reason", reason)
        self._end(trial, outcome, history)
        self._tell(trial.number, outcome)

    def _end(self, trial: optuna.Trial, outcome: str, history: Sequence[EpochMetrics]) -> None:
        self._note(trial, "history", [metrics.to_json() for metrics in history])
        if outcome in DRAWN:
            self._upload(trial, history)
        trial.set_user_attr("seconds", round(sum(metrics.seconds for metrics in history), 3))
        trial.set_user_attr("outcome", outcome)

    def _upload(self, trial: optuna.Trial, history: Sequence[EpochMetrics]) -> None:
        """Stores what the dashboard shows on a trial's page."""
        network = self.study._storage.get_trial_system_attrs(trial._trial_id)[f"{NOTE}architecture"]
        architecture = Architecture.from_json(network)
        files = files_of_training(architecture, history, title=f"Trial {trial.number}")
        for name, content in files.items():
            self.artifacts.upload(content, trial, name=name)

    def _note(self, trial: optuna.Trial, key: str, value: Any) -> None:
        """Keeps what is for us alone in a system attribute: long texts would bury the figures in the dashboard."""
        self.study._storage.set_trial_system_attr(trial._trial_id, NOTE + key, value)

    def settle(self) -> None:
        """Ends what a session that is gone left RUNNING; what it had not finished goes back into the queue.

        Call it while the study is locked: then no trial is running.
        """
        queued = {trial.user_attrs.get("retry_of") for trial in self.study.get_trials(deepcopy=False)}
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            attrs = trial.user_attrs
            if "outcome" in attrs:  # everything was stored, only the last word was missing
                history = epochs_of(noted(trial, "history") or [], where=f"trial {trial.number}: history")
                self._tell(trial.number, attrs["outcome"], [metrics.val_accuracy for metrics in history])
                continue
            fixed = trial.system_attrs.get("fixed_params", {})
            again = "fingerprint" in attrs or bool(fixed)
            # First queued, then ended: killed in between, the trial is found again and not queued twice.
            if again and trial.number not in queued:
                kept: dict[str, Any] = {key: attrs[key] for key in KEPT if key in attrs}
                self.study.enqueue_trial({**fixed, **trial.params}, user_attrs={"retry_of": trial.number, **kept})
            what = "its parameters went back into the queue" if again else "before it began; it is drawn again"
            self.fail(optuna.Trial(self.study, trial._trial_id), "interrupted", f"interrupted; {what}")

    def _tell(self, number: int, outcome: str, accuracies: Sequence[float] = ()) -> None:
        """The last word on a trial, whichever session has it: Optuna's state follows from the outcome."""
        if outcome == "trained":
            attrs = self.study.get_trials(deepcopy=False)[number].user_attrs
            accuracy, costs = objective(accuracies, self.settings.consistency), self.settings.objectives[1:]
            self.study.tell(number, [accuracy, *(attrs[cost] for cost in costs)])
        else:
            self.study.tell(number, state=TrialState.PRUNED if outcome in STOPPED else TrialState.FAIL)


def _set_cost(trial: optuna.Trial, cost: Cost, constraints: Sequence[Constraint]) -> None:
    for constraint in constraints:
        trial.set_constraint(str(constraint), constraint.violation(cost))
    for key, value in dataclasses.asdict(cost).items():
        trial.set_user_attr(key, value)


def trials(
    *, results: str | Path = "results", storage: str | None = None, study: str | None = None
) -> list[TrialRecord]:
    """Every trial of a study, stored discards included, by number."""
    return StudyRecords.open(results=results, storage=storage, study=study).trials()
