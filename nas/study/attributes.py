"""Builds the attributes that a study stores for each trial, and reads them through a typed view.

The dashboard shows user attributes. System attributes (`nas:…`) are read by this package only.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from nas.architecture.cost import METRICS, Cost
from nas.errors import StudyError, one_of
from nas.schema import mismatch_text
from nas.space.candidate import Candidate
from nas.training.metrics import EpochMetrics

PREFIX = "nas:"
"""Prefix of this package's system attributes."""

FIXED_PARAMS = "fixed_params"
"""Optuna's system attribute for the parameters that a trial was enqueued with."""


class Outcome(StrEnum):
    """How a trial ended."""

    TRAINED = "trained"  # trained to the last epoch
    DIVERGED = "diverged"  # the loss became infinite or NaN; counts as trained
    PRUNED = "pruned"  # stopped by a pruner
    DISCARDED = "discarded"  # infeasible, a duplicate, or smaller than another draw; not trained
    FAILED = "failed"  # training raised an error, or its workers died
    INTERRUPTED = "interrupted"  # its search ended first; enqueued again if it had a candidate
    UNUSED = "unused"  # no candidate: enqueued with invalid parameters, or another process emptied the queue

    @property
    def state(self) -> TrialState:
        """State that Optuna stores for this outcome."""
        if self is Outcome.TRAINED:
            return TrialState.COMPLETE
        return TrialState.PRUNED if self in (Outcome.PRUNED, Outcome.DISCARDED) else TrialState.FAIL

    @property
    def is_whole_training(self) -> bool:
        """Whether the trial costs the budget one whole training run."""
        return self in (Outcome.TRAINED, Outcome.DIVERGED)

    @property
    def has_files(self) -> bool:
        """Whether the trial has dashboard files: the architecture, its picture and a table of epochs."""
        return self.is_whole_training or self is Outcome.PRUNED


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """User and system attributes of a trial, as they are stored."""

    user: dict[str, Any] = field(default_factory=dict)
    system: dict[str, Any] = field(default_factory=dict)

    def __or__(self, other: "Attributes") -> "Attributes":
        return Attributes(user=self.user | other.user, system=self.system | other.system)


def begin_attrs(
    candidate: Candidate, cost: Cost, *, index: int, seed: int, num_draws: int, fingerprint: str, session: str
) -> Attributes:
    """Returns the attributes of a trial whose training begins.

    Args:
        candidate: Architecture and recipe to train.
        cost: Cost of the architecture.
        index: Number of candidates that the study had before this one.
        seed: Seed of the training run.
        num_draws: Draws until this candidate, itself included.
        fingerprint: Fingerprint of the candidate.
        session: ID of the search that trains it, which holds a lock of this name while it runs.
    """
    return Attributes(
        user=cost.metrics() | {"num_draws": num_draws, "fingerprint": fingerprint, "candidate": index, "seed": seed},
        system={
            f"{PREFIX}architecture": candidate.architecture.to_json(),
            f"{PREFIX}recipe": candidate.recipe.to_json(),
            f"{PREFIX}session": session,
        },
    )


def discard_count_attrs(discards: Mapping[str, int]) -> Attributes:
    """Returns the attribute that counts, by reason, the draws discarded before a trial's candidate was found."""
    return Attributes(system={f"{PREFIX}discards": dict(discards)})


def discard_attrs(reason: str, cost: Cost | None) -> Attributes:
    """Returns the attributes of a trial that is not trained. `cost` is None for an impossible shape."""
    costs = cost.metrics() if cost is not None else {}
    return Attributes(user=costs | {"reason": reason, "outcome": str(Outcome.DISCARDED)})


def drawn_for_attrs(index: int) -> Attributes:
    """Returns the attribute of a stored discard that holds the index of the candidate found after it."""
    return Attributes(system={f"{PREFIX}drawn_for": index})


def end_attrs(outcome: Outcome, history: Sequence[EpochMetrics], *, reason: str = "") -> Attributes:
    """Returns the attributes of a trial that has ended. `history`: the epochs that it was trained for."""
    seconds = round(sum(metrics.seconds for metrics in history), 3)
    user = {"seconds": seconds, "outcome": str(outcome)} | ({"reason": reason} if reason else {})
    return Attributes(user=user, system={f"{PREFIX}history": [metrics.to_json() for metrics in history]})


def completion_attrs(consistent_accuracy: float, weights: str) -> Attributes:
    """Returns further attributes of a completed training run. `weights`: artifact ID of the state dict."""
    return Attributes(user={"consistent_accuracy": consistent_accuracy}, system={f"{PREFIX}weights": weights})


def enqueue_attrs(source: str, fingerprint: str) -> Attributes:
    """Returns the attributes of a known candidate in the queue. `source`: where the candidate comes from."""
    return Attributes(user={"started_from": source, "started_as": fingerprint})


@dataclass(frozen=True, slots=True)
class StoredTrial:
    """Typed view of an Optuna trial. Attributes are read only when they are accessed."""

    frozen: FrozenTrial

    @property
    def number(self) -> int:
        return self.frozen.number

    @property
    def state(self) -> TrialState:
        return self.frozen.state

    @property
    def is_complete(self) -> bool:
        """Whether the trial was trained to the last epoch, and so has an objective."""
        return self.frozen.state == TrialState.COMPLETE

    @property
    def outcome(self) -> Outcome | None:
        """How the trial ended; None before its end. Raises `StudyError` for an unknown outcome."""
        text = self.frozen.user_attrs.get("outcome")
        if text is None:
            return None
        try:
            return Outcome(text)
        except ValueError:
            raise StudyError(f"trial {self.number}: outcome is {mismatch_text(text, one_of(Outcome))}") from None

    @property
    def reason(self) -> str:
        """Why the trial was discarded, stopped or failed; otherwise empty."""
        text: str = self.frozen.user_attrs.get("reason", "")
        return text

    @property
    def objective(self) -> float | None:
        """Mean validation accuracy over the last epochs, a fraction; None unless complete."""
        return self.frozen.values[0] if self.is_complete else None

    @property
    def fingerprint(self) -> str | None:
        """Fingerprint of the candidate; None for a trial without one, such as a stored discard."""
        text: str | None = self.frozen.user_attrs.get("fingerprint")
        return text

    @property
    def index(self) -> int | None:
        """Index of the candidate within the study; None for a trial without one, such as a stored discard."""
        index: int | None = self.frozen.user_attrs.get("candidate")
        return index

    @property
    def enqueued_fingerprint(self) -> str | None:
        """Fingerprint of the known candidate that the trial was enqueued with; otherwise None."""
        text: str | None = self.frozen.user_attrs.get("started_as")
        return text

    @property
    def source(self) -> str:
        """Origin of the known candidate that the trial was enqueued with; otherwise empty."""
        text: str = self.frozen.user_attrs.get("started_from", "")
        return text

    @property
    def retry_of(self) -> int | None:
        """Number of the interrupted trial that this one retries; otherwise None."""
        number: int | None = self.frozen.user_attrs.get("retry_of")
        return number

    @property
    def num_draws(self) -> int:
        """Draws until the candidate, itself included."""
        return int(self.frozen.user_attrs.get("num_draws", 1))

    def numeric_attr(self, name: str) -> Any:
        """Returns a numeric user attribute, such as a metric of the cost; None if the trial lacks it."""
        return self.frozen.user_attrs.get(name)

    @property
    def seconds(self) -> float:
        """Training time in seconds; 0 before the trial has ended."""
        taken: float = self.frozen.user_attrs.get("seconds", 0.0)
        return taken

    @property
    def session(self) -> str | None:
        """ID of the search that trains the trial, which holds a lock of this name; None before training begins."""
        text: str | None = self._system_attr("session")
        return text

    @property
    def weights(self) -> str | None:
        """Artifact ID of the state dict; None unless the trial is complete."""
        text: str | None = self._system_attr("weights")
        return text

    @property
    def drawn_for(self) -> int | None:
        """Index of the candidate found after a stored discard; None for other trials."""
        index: int | None = self._system_attr("drawn_for")
        return index

    @property
    def discards(self) -> Counter[str]:
        """Number of draws discarded before the candidate was found, by reason.

        Empty if the trial has no candidate and is no discard: the same draws will then be repeated.
        """
        counts = self.fingerprint is not None or self.outcome is Outcome.DISCARDED
        return Counter(self._system_attr("discards") if counts else None)

    @property
    def num_epochs(self) -> int:
        """Number of stored epochs; 0 before the trial has ended."""
        return len(self._system_attr("history") or ())

    @property
    def stored_architecture(self) -> Any:
        """Architecture as JSON; None if the trial has none."""
        return self._system_attr("architecture")

    @property
    def stored_recipe(self) -> Any:
        """Recipe as JSON; None if the trial has none."""
        return self._system_attr("recipe")

    @property
    def stored_history(self) -> Sequence[Any]:
        """Metrics of each epoch as JSON; empty before the trial has ended."""
        return self._system_attr("history") or ()

    @property
    def params(self) -> dict[str, Any]:
        """Parameter values, including those that the trial was enqueued with."""
        return {**self.frozen.system_attrs.get(FIXED_PARAMS, {}), **self.frozen.params}

    @property
    def has_candidate(self) -> bool:
        """Whether the trial has a candidate: it was drawn or enqueued."""
        return self.fingerprint is not None or self.is_from_queue

    @property
    def is_from_queue(self) -> bool:
        """Whether the trial comes from the queue; parameters that it was not enqueued with are drawn at random."""
        return FIXED_PARAMS in self.frozen.system_attrs

    def sort_key(self) -> tuple[float, int]:
        """Returns the sort key of a complete trial: highest accuracy first, then fewest parameters."""
        return -self.frozen.values[0], self.frozen.user_attrs["params"]

    def own_system_attrs(self) -> dict[str, Any]:
        """Returns this package's system attributes, without their prefix."""
        attrs = self.frozen.system_attrs
        return {key.removeprefix(PREFIX): value for key, value in attrs.items() if key.startswith(PREFIX)}

    def _system_attr(self, name: str) -> Any:
        return self.frozen.system_attrs.get(PREFIX + name)


def retry_attrs(trial: StoredTrial) -> Attributes:
    """Returns the attributes that a retry in the queue takes over from an interrupted trial."""
    kept = ("fingerprint", "candidate", "num_draws", "started_from", "started_as")
    attrs = trial.frozen.user_attrs
    return Attributes(user={"retry_of": trial.number} | {key: attrs[key] for key in kept if key in attrs})


def typed_trials(trials: Iterable[FrozenTrial]) -> list[StoredTrial]:
    """Returns a typed view of each trial."""
    return [StoredTrial(trial) for trial in trials]


NUMERIC_ATTRS = (*METRICS, "consistent_accuracy", "seconds", "num_draws", "seed")
"""Numeric user attributes that are fields of `TrialRecord`."""
