"""What a study stores of a trial: the attributes as they are written, and a typed view to read them.

User attributes are figures for people: the dashboard shows them. System attributes (`nas:…`) are for this package.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from nas.architecture.cost import METRICS, Cost
from nas.errors import StudyError, found
from nas.space.candidate import Candidate
from nas.training.metrics import EpochMetrics

PREFIX = "nas:"
"""How the names of our system attributes begin."""

FIXED_PARAMS = "fixed_params"
"""Optuna's system attribute of a trial from the queue: the parameters that it was enqueued with."""


class Outcome(StrEnum):
    """How a trial ended."""

    TRAINED = "trained"  # to its last epoch
    DIVERGED = "diverged"  # its loss is not finite; counts as trained
    PRUNED = "pruned"  # a pruner stopped it
    DISCARDED = "discarded"  # misses a limit or is a duplicate; not trained
    FAILED = "failed"
    INTERRUPTED = "interrupted"  # its search ended; its parameters went back into the queue
    UNUSED = "unused"  # enqueued with parameters that make no network

    @property
    def state(self) -> TrialState:
        """The state in which Optuna stores such a trial."""
        if self is Outcome.TRAINED:
            return TrialState.COMPLETE
        return TrialState.PRUNED if self in (Outcome.PRUNED, Outcome.DISCARDED) else TrialState.FAIL

    @property
    def is_whole_training(self) -> bool:
        """Whether it costs the budget one training."""
        return self in (Outcome.TRAINED, Outcome.DIVERGED)

    @property
    def has_files(self) -> bool:
        """Whether the dashboard shows a picture and a table of epochs: it was trained, if not to the end."""
        return self.is_whole_training or self is Outcome.PRUNED


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """User and system attributes as they are written."""

    user: dict[str, Any] = field(default_factory=dict)
    system: dict[str, Any] = field(default_factory=dict)

    def __or__(self, other: "Attributes") -> "Attributes":
        return Attributes(user=self.user | other.user, system=self.system | other.system)


def begun(
    candidate: Candidate, cost: Cost, *, index: int, seed: int, num_draws: int, fingerprint: str, session: str
) -> Attributes:
    """Of a trial that goes into training. `index`: how many candidates the study had before this one."""
    return Attributes(
        user=dataclasses.asdict(cost)
        | {"num_draws": num_draws, "fingerprint": fingerprint, "candidate": index, "seed": seed},
        system={
            f"{PREFIX}architecture": candidate.architecture.to_json(),
            f"{PREFIX}recipe": candidate.recipe.to_json(),
            f"{PREFIX}session": session,
        },
    )


def drawn_before(discards: Mapping[str, int]) -> Attributes:
    """Of a trial: how many draws were discarded before its candidate was found, by reason."""
    return Attributes(system={f"{PREFIX}discards": dict(discards)})


def discarded(reason: str, cost: Cost | None) -> Attributes:
    """Of a trial that is not trained; one with an impossible shape has no cost."""
    costs = dataclasses.asdict(cost) if cost is not None else {}
    return Attributes(user=costs | {"reason": reason, "outcome": str(Outcome.DISCARDED)})


def drawn_for(index: int) -> Attributes:
    """Of a stored discard: the index of the candidate that was found after it."""
    return Attributes(system={f"{PREFIX}drawn_for": index})


def ended(outcome: Outcome, history: Sequence[EpochMetrics], *, reason: str = "") -> Attributes:
    """Of a trial that has ended, with the epochs that it was trained for."""
    seconds = round(sum(metrics.seconds for metrics in history), 3)
    user = {"seconds": seconds, "outcome": str(outcome)} | ({"reason": reason} if reason else {})
    return Attributes(user=user, system={f"{PREFIX}history": [metrics.to_json() for metrics in history]})


def trained(consistent_accuracy: float, weights: str) -> Attributes:
    """Of a finished training; `weights` is the artifact that holds its state dict."""
    return Attributes(user={"consistent_accuracy": consistent_accuracy}, system={f"{PREFIX}weights": weights})


def enqueued(source: str, fingerprint: str) -> Attributes:
    """Of a known candidate in the queue."""
    return Attributes(user={"started_from": source, "started_as": fingerprint})


@dataclass(frozen=True, slots=True)
class StoredTrial:
    """Typed view of a trial as Optuna holds it. Nothing is copied or parsed before it is asked for."""

    frozen: FrozenTrial

    @property
    def number(self) -> int:
        return self.frozen.number

    @property
    def state(self) -> TrialState:
        return self.frozen.state

    @property
    def is_complete(self) -> bool:
        """Whether it was trained to its end and so has an objective."""
        return self.frozen.state == TrialState.COMPLETE

    @property
    def outcome(self) -> Outcome | None:
        """None before the trial has ended."""
        text = self.frozen.user_attrs.get("outcome")
        if text is None:
            return None
        try:
            return Outcome(text)
        except ValueError:
            allowed = ", ".join(Outcome)
            raise StudyError(f"trial {self.number}: outcome is {found(text)}, allowed: {allowed}") from None

    @property
    def reason(self) -> str:
        text: str = self.frozen.user_attrs.get("reason", "")
        return text

    @property
    def objective(self) -> float | None:
        """Mean val accuracy of the last epochs, a fraction; None unless complete."""
        return self.frozen.values[0] if self.is_complete else None

    @property
    def fingerprint(self) -> str | None:
        """Of its candidate; None unless that was handed out for training."""
        text: str | None = self.frozen.user_attrs.get("fingerprint")
        return text

    @property
    def index(self) -> int | None:
        """Place of its candidate among those of the study; None where it is no candidate."""
        index: int | None = self.frozen.user_attrs.get("candidate")
        return index

    @property
    def started_as(self) -> str | None:
        """Fingerprint of the known candidate that it was enqueued as."""
        text: str | None = self.frozen.user_attrs.get("started_as")
        return text

    @property
    def source(self) -> str:
        """Where the known candidate comes from that it was enqueued as; empty for one that was drawn."""
        text: str = self.frozen.user_attrs.get("started_from", "")
        return text

    @property
    def retry_of(self) -> int | None:
        """Number of the interrupted trial that it runs again."""
        number: int | None = self.frozen.user_attrs.get("retry_of")
        return number

    @property
    def num_draws(self) -> int:
        """Draws that its candidate took, itself included."""
        return int(self.frozen.user_attrs.get("num_draws", 1))

    def figure(self, name: str) -> Any:
        """A user attribute that is a number, such as a metric of the cost; None where the trial has none."""
        return self.frozen.user_attrs.get(name)

    @property
    def seconds(self) -> float:
        """Seconds of training; 0 before its end."""
        taken: float = self.frozen.user_attrs.get("seconds", 0.0)
        return taken

    @property
    def session(self) -> str | None:
        """The search that trains it."""
        text: str | None = self._note("session")
        return text

    @property
    def weights(self) -> str | None:
        """The artifact that holds its state dict."""
        text: str | None = self._note("weights")
        return text

    @property
    def drawn_for(self) -> int | None:
        """Of a stored discard: the index of the candidate that was found after it."""
        index: int | None = self._note("drawn_for")
        return index

    @property
    def discards(self) -> Counter[str]:
        """Draws discarded before its candidate was found, by reason.

        None of a candidate that was never handed out: the same discards will be drawn again.
        """
        counts = self.fingerprint is not None or self.outcome is Outcome.DISCARDED
        return Counter(self._note("discards") if counts else None)

    @property
    def num_epochs(self) -> int:
        """Epochs stored of an ended trial."""
        return len(self._note("history") or ())

    @property
    def stored_architecture(self) -> Any:
        """JSON of the network; None where the trial has none."""
        return self._note("architecture")

    @property
    def stored_recipe(self) -> Any:
        """JSON of the recipe; None where the trial has none."""
        return self._note("recipe")

    @property
    def stored_history(self) -> Sequence[Any]:
        """JSON of each epoch."""
        return self._note("history") or ()

    @property
    def params(self) -> dict[str, Any]:
        """Values of the search space's parameters, those that it was enqueued with among them."""
        return {**self.frozen.system_attrs.get(FIXED_PARAMS, {}), **self.frozen.params}

    @property
    def has_begun(self) -> bool:
        """Whether it had a candidate: one that was drawn, or came from the queue."""
        return self.fingerprint is not None or self.is_from_queue

    @property
    def is_from_queue(self) -> bool:
        """Whether it was enqueued with parameters."""
        return bool(self.frozen.system_attrs.get(FIXED_PARAMS))

    def rank(self) -> tuple[float, int]:
        """Sorts complete trials: highest accuracy first, of equals the one with fewest parameters."""
        return -self.frozen.values[0], self.frozen.user_attrs["params"]

    def notes(self) -> dict[str, Any]:
        """Our system attributes by name, without the prefix."""
        attrs = self.frozen.system_attrs
        return {key.removeprefix(PREFIX): value for key, value in attrs.items() if key.startswith(PREFIX)}

    def _note(self, name: str) -> Any:
        return self.frozen.system_attrs.get(PREFIX + name)


def again(trial: StoredTrial) -> Attributes:
    """Of a trial in the queue that runs an interrupted one again: what its candidate brings along."""
    kept = ("fingerprint", "candidate", "num_draws", "started_from", "started_as")
    attrs = trial.frozen.user_attrs
    return Attributes(user={"retry_of": trial.number} | {key: attrs[key] for key in kept if key in attrs})


def stored(trials: Iterable[FrozenTrial]) -> list[StoredTrial]:
    """The typed view of each trial."""
    return [StoredTrial(trial) for trial in trials]


FIGURES = (*METRICS, "consistent_accuracy", "seconds", "num_draws", "seed")
"""Names of the user attributes that are numbers and belong to a trial's row."""
