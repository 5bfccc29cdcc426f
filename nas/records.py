"""Records: the only reader and writer of what a study stores: attributes, trials, weights.

A study is Optuna's, in a database: figures are user attributes, which optuna-dashboard shows; the network, the recipe
and the epochs of a trial are system attributes; its weights lie in Optuna's artifact store beside the database.
"""

import dataclasses
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from filelock import FileLock, Timeout  # torch brings it
from optuna.artifacts import FileSystemArtifactStore, download_artifact, upload_artifact
from optuna.trial import FrozenTrial, TrialState, create_trial

from nas.architecture import Architecture
from nas.constraints import Constraint
from nas.cost import Cost
from nas.errors import StudyError
from nas.recipe import Recipe
from nas.samplers import Discard
from nas.search_space import Candidate
from nas.storage import default_storage, open_storage, readable, sqlite_file
from nas.training import EpochMetrics, consistent_accuracy, objective

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from torch import Tensor

DEFAULT_STUDY = "search"
ARTIFACTS = "artifacts"

TRAINED = ("trained", "diverged")
"""Outcomes that cost budget: the candidate was trained, to its end or until its loss was no number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What all trials of a study have in common; results under different settings are not comparable."""

    dataset: str
    data_fingerprint: str
    split: str
    space: str
    space_fingerprint: str
    epochs: int
    consistency: int
    constraints: tuple[str, ...]

    def differences(self, other: "Settings") -> list[str]:
        """Where the other settings differ, as `field: this, not that`."""
        return [
            f"{field.name}: {_text(getattr(self, field.name))}, not {_text(getattr(other, field.name))}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != getattr(other, field.name)
        ]


def _text(value: object) -> str:
    return " and ".join(value) if isinstance(value, tuple) else str(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRecord:
    """A trial as people and scripts read it. `state` is Optuna's name; accuracies are fractions."""

    number: int
    state: str
    outcome: str
    objective: float | None
    consistent_accuracy: float | None
    params: int | None
    macs: int | None
    receptive_field: int | None
    peak_activation_bytes: int | None
    weight_bytes: int | None
    seconds: float | None
    num_draws: int | None
    seed: int | None
    reason: str
    recipe: Recipe | None
    architecture: Architecture | None
    history: tuple[EpochMetrics, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dump`."""
        row = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        row["recipe"] = self.recipe.to_json() if self.recipe else None
        row["architecture"] = self.architecture.to_json() if self.architecture else None
        row["history"] = [metrics.to_json() for metrics in self.history]
        return row


def read_trial(trial: FrozenTrial) -> TrialRecord:
    """The record in a trial of Optuna's."""
    attrs = trial.user_attrs
    network, recipe, history = (_noted(trial, key) for key in ("architecture", "recipe", "history"))
    numbers = {
        key: attrs.get(key)
        for key in (*Cost.__dataclass_fields__, "consistent_accuracy", "seconds", "num_draws", "seed")
    }
    return TrialRecord(
        number=trial.number,
        state=trial.state.name,
        outcome=attrs.get("outcome", ""),
        objective=trial.value if trial.state == TrialState.COMPLETE else None,
        reason=attrs.get("reason", ""),
        recipe=Recipe.from_json(recipe) if recipe else None,
        architecture=Architecture.from_json(network) if network else None,
        history=tuple(EpochMetrics.from_json(row) for row in history or []),
        **numbers,
    )


def _noted(trial: FrozenTrial, key: str) -> Any:
    """What `StudyRecords` noted under the key, None if nothing."""
    return trial.system_attrs.get(f"nas:{key}")


class StudyRecords:
    """One study, opened."""

    def __init__(self, study: optuna.Study, storage: optuna.storages.RDBStorage, results: Path) -> None:
        self.study = study
        self.storage = storage
        self.results = results

    # -- opening ---------------------------------------------------------------------------------------------

    @classmethod
    def find(
        cls, *, results: str | Path, storage: str | None = None, study: str | None = None
    ) -> "StudyRecords | None":
        """The study of that name, or None where there is none (nothing is created then)."""
        url = storage or default_storage(results)
        name = study or DEFAULT_STUDY
        database = sqlite_file(url)
        if database is not None and not database.exists():
            return None
        with readable(url):
            opened = open_storage(url)
            if name not in optuna.get_all_study_names(opened):
                return None
            loaded = optuna.load_study(study_name=name, storage=opened)
            if "settings" not in loaded.user_attrs:
                raise StudyError(f"{url}: study {name!r} was not made by nas; take another --study NAME")
        return cls(loaded, opened, Path(results))

    @classmethod
    def open(cls, *, results: str | Path, storage: str | None = None, study: str | None = None) -> "StudyRecords":
        """The study of that name; a `StudyError` that lists those there are, where it is missing."""
        found = cls.find(results=results, storage=storage, study=study)
        if found is not None:
            return found
        url = storage or default_storage(results)
        database = sqlite_file(url)
        if database is not None and not database.exists():
            raise StudyError(
                f"{database}: no such database; `nas search` makes one, --results or --storage names another"
            )
        with readable(url):
            names = optuna.get_all_study_names(open_storage(url))
        raise StudyError(f"{url}: no study {study or DEFAULT_STUDY!r}, allowed: {', '.join(names) or 'none yet'}")

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
        with readable(url):
            opened = open_storage(url)
            created = optuna.create_study(study_name=study or DEFAULT_STUDY, storage=opened, direction="maximize")
            metric = f"mean val accuracy, last {settings.consistency} epochs"
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                created.set_metric_names([metric])
            for key, value in notes.items():
                created.set_user_attr(key, value)
            created.set_user_attr("discards", {})
            # Last, since it marks the study as whole.
            created.set_user_attr("settings", dataclasses.asdict(settings))
        return cls(created, opened, Path(results))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the study for one search; released by the system when the process dies, however it dies."""
        path = self.results / f"{self.study.study_name.replace('/', '_')}.lock"
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise StudyError(f"{path}: another search is at work on study {self.study.study_name!r}") from None
        except OSError as error:
            raise StudyError(f"{path}: {error.strerror}") from None
        try:
            yield
        finally:
            lock.release()

    # -- reading ---------------------------------------------------------------------------------------------

    @property
    def settings(self) -> Settings:
        """What the study was begun with."""
        data = dict(self.study.user_attrs["settings"])
        return Settings(**{**data, "constraints": tuple(data["constraints"])})

    @property
    def seed(self) -> int:
        """The seed the study was begun with."""
        return int(self.study.user_attrs["seed"])

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
        """The finished trials with the highest objective, smaller networks first among equals."""
        done = [trial for trial in self.trials() if trial.state == "COMPLETE"]
        return sorted(done, key=lambda trial: (-(trial.objective or 0.0), trial.params or 0))[:count]

    def num_trained(self) -> int:
        """Trials that cost budget."""
        return sum(trial.user_attrs.get("outcome") in TRAINED for trial in self.study.get_trials(deepcopy=False))

    def fingerprints(self) -> set[str]:
        """Fingerprints of every candidate that was handed out for training."""
        attrs = (trial.user_attrs for trial in self.study.get_trials(deepcopy=False))
        return {trial["fingerprint"] for trial in attrs if "fingerprint" in trial}

    def discards(self) -> Counter[str]:
        """Number of discards by reason, over all sessions of the study."""
        return Counter(self.study.user_attrs.get("discards", {}))

    def num_kept_discards(self) -> int:
        """Number of discards that are stored as trials."""
        trials = self.study.get_trials(deepcopy=False, states=(TrialState.PRUNED,))
        return sum(trial.user_attrs.get("outcome") == "discarded" for trial in trials)

    def weights(self, number: int) -> "dict[str, Tensor]":
        """The trained weights of a trial, a state dict on the CPU."""
        import torch

        trial = self.study.get_trials(deepcopy=False)[number]
        artifact = _noted(trial, "weights")
        if artifact is None:
            raise StudyError(f"trial {number} has no weights: it is {trial.state.name}, not a finished training")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "weights.pt"
            try:
                download_artifact(artifact_store=self._artifacts(), file_path=str(path), artifact_id=artifact)
            except optuna.artifacts.exceptions.ArtifactNotFound:
                where = self.results / ARTIFACTS / artifact
                raise StudyError(f"{where}: missing, it held the weights of trial {number}") from None
            state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        return state

    # -- writing ---------------------------------------------------------------------------------------------

    def add_discards(
        self,
        counts: Mapping[str, int],
        discards: Sequence[Discard],
        constraints: Sequence[Constraint],
        distributions: "Mapping[str, BaseDistribution]",
    ) -> None:
        """Counts discards by reason and stores those given as PRUNED trials, to be browsed."""
        if not counts:
            return
        stored = []
        for values, verdict in discards:
            attrs: dict[str, Any] = {"outcome": "discarded", "reason": verdict.reason}
            violations: dict[str, float] | None = None
            if verdict.cost is not None:
                attrs |= dataclasses.asdict(verdict.cost)
                violations = {str(c): c.violation(verdict.cost) for c in constraints}
            else:
                # No cost, so no violation to measure: as bad as missing every limit by all of it.
                violations = {str(c): 1.0 for c in constraints}
            stored.append(
                create_trial(
                    state=TrialState.PRUNED,
                    params=dict(values),
                    distributions=dict(distributions),
                    user_attrs=attrs,
                    constraints=violations,
                )
            )
        self.study.add_trials(stored)
        self.study.set_user_attr("discards", dict(self.discards() + Counter(counts)))

    def start(
        self,
        trial: optuna.Trial,
        candidate: Candidate,
        cost: Cost,
        constraints: Sequence[Constraint],
        *,
        seed: int,
        num_draws: int,
    ) -> None:
        """Notes what the trial is about to train."""
        for constraint in constraints:
            trial.set_constraint(str(constraint), constraint.violation(cost))
        for key, value in dataclasses.asdict(cost).items():
            trial.set_user_attr(key, value)
        trial.set_user_attr("num_draws", num_draws)
        trial.set_user_attr("seed", seed)
        self._note(trial, "architecture", candidate.architecture.to_json())
        self._note(trial, "recipe", candidate.recipe.to_json())
        # Last: a trial without it was killed before it began, and is drawn again rather than run again.
        trial.set_user_attr("fingerprint", candidate.fingerprint())

    def discard(self, trial: optuna.Trial, cost: Cost, missed: Constraint, constraints: Sequence[Constraint]) -> None:
        """Ends a trial that misses a limit: one that was enqueued by hand, since the sampler hands out none."""
        for constraint in constraints:
            trial.set_constraint(str(constraint), constraint.violation(cost))
        for key, value in {**dataclasses.asdict(cost), "outcome": "discarded", "reason": missed.metric}.items():
            trial.set_user_attr(key, value)
        self.study.tell(trial, state=TrialState.PRUNED)

    def finish(self, trial: optuna.Trial, history: Sequence[EpochMetrics], weights: "Mapping[str, Tensor]") -> None:
        """Stores a finished training; the trial is COMPLETE only once everything else is stored."""
        import torch

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "weights.pt"
            torch.save(dict(weights), path)
            artifact = upload_artifact(
                artifact_store=self._artifacts(),
                file_path=str(path),
                study_or_trial=trial,
                mimetype="application/octet-stream",
            )
        consistency = self.settings.consistency
        accuracies = [metrics.val_accuracy for metrics in history]
        self._note(trial, "weights", artifact)
        trial.set_user_attr("consistent_accuracy", consistent_accuracy(accuracies, consistency))
        self._end(trial, "trained", history)
        self.study.tell(trial, objective(accuracies, consistency))

    def fail(self, trial: optuna.Trial, outcome: str, reason: str, history: Sequence[EpochMetrics] = ()) -> None:
        """Stores a trial that gave no network: diverged, failed, or interrupted; an interrupted one is queued again."""
        trial.set_user_attr("reason", reason)
        self._end(trial, outcome, history)
        self.study.tell(trial, state=TrialState.FAIL)

    def _end(self, trial: optuna.Trial, outcome: str, history: Sequence[EpochMetrics]) -> None:
        self._note(trial, "history", [metrics.to_json() for metrics in history])
        trial.set_user_attr("seconds", round(sum(metrics.seconds for metrics in history), 3))
        trial.set_user_attr("outcome", outcome)

    def _note(self, trial: optuna.Trial, key: str, value: Any) -> None:
        """Keeps what is for us alone in a system attribute: long texts would bury the figures in the dashboard."""
        self.study._storage.set_trial_system_attr(trial._trial_id, f"nas:{key}", value)

    def requeue_interrupted(self) -> int:
        """Puts the trials that no process finished back into the queue, with their parameters; how many.

        Call it under `lock`: what is RUNNING then was left by a process that is gone.
        """
        requeued = 0
        queued = {trial.user_attrs.get("retry_of") for trial in self.study.get_trials(deepcopy=False)}
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            fingerprint = trial.user_attrs.get("fingerprint")
            # First queued, then ended: killed in between, the trial is found again and not queued twice.
            if fingerprint is not None and trial.number not in queued:
                params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
                self.study.enqueue_trial(params, user_attrs={"retry_of": trial.number, "fingerprint": fingerprint})
            requeued += fingerprint is not None
            handle = optuna.Trial(self.study, trial._trial_id)
            self.fail(handle, "interrupted", "interrupted; its parameters went back into the queue")
        return requeued

    def _artifacts(self) -> FileSystemArtifactStore:
        folder = self.results / ARTIFACTS
        folder.mkdir(parents=True, exist_ok=True)
        return FileSystemArtifactStore(str(folder))


def trials(
    *, results: str | Path = "results", storage: str | None = None, study: str | None = None
) -> list[TrialRecord]:
    """Every trial of a study, stored discards included, by number."""
    return StudyRecords.open(results=results, storage=storage, study=study).trials()
