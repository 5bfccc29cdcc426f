"""Recording: what a search writes into its study, trial by trial, each of them whole or not at all."""

import dataclasses
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from nas.architecture.architecture import Architecture
from nas.architecture.cost import Cost
from nas.sampling.feasible import Discard
from nas.space.candidate import Candidate
from nas.space.constraints import Constraint
from nas.space.warm_start import Start
from nas.study.locks import Locks
from nas.study.optuna_storage import NONE, Mirror
from nas.study.reader import StudyRecords
from nas.study.trial import DRAWN, NOTE, STOPPED, noted
from nas.training.metrics import EpochMetrics
from nas.training.results import consistent_accuracy, objective
from nas.training.trial_files import files_of_training

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

STATES = {"trained": TrialState.COMPLETE} | dict.fromkeys(STOPPED, TrialState.PRUNED)
"""Optuna's state by outcome; of others it is FAIL."""

KEPT = ("fingerprint", "candidate", "num_draws", "started_from", "started_as")
"""Attributes that a candidate brings along when it is run again."""


class Recorder:
    """The only writer of a study's trials, for one search among perhaps several.

    `session` names the search in its trials, and the lock that it holds while it lives.
    """

    def __init__(self, records: StudyRecords, locks: Locks) -> None:
        self.mirror = Mirror(records.storage)
        self.study = optuna.load_study(study_name=records.study.study_name, storage=self.mirror)
        self.records = StudyRecords(self.study, records.storage, records.artifacts.folder.parent)
        self.locks = locks
        self.session = uuid.uuid4().hex[:12]
        locks.hold(self.session)
        # Optuna has no place for epochs beside two objectives.
        self._curves = len(self.records.settings.objectives) == 1

    def look(self) -> None:
        """Sees what other searches, and users, have begun and ended."""
        self.mirror.look(self.study._study_id)

    def trials(self) -> Mapping[int, FrozenTrial]:
        """Every trial of the study, by number, as it was at the last look."""
        return self.mirror.trials(self.study._study_id)

    def keep_discards(
        self,
        discards: Sequence[Discard],
        constraints: Sequence[Constraint],
        distributions: "Mapping[str, BaseDistribution]",
        *,
        drawn_for: int,
    ) -> None:
        """Stores discards as PRUNED trials, to be browsed.

        `drawn_for` is the index of the candidate that was found after them: the same draws have the same index.
        """
        for values, verdict in discards:
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
        candidate: Candidate,
        values: Mapping[str, Any],
        distributions: "Mapping[str, BaseDistribution]",
        cost: Cost,
        constraints: Sequence[Constraint],
        *,
        seed: int,
        index: int,
        discards: Mapping[str, int],
    ) -> int:
        """Begins the trial of a candidate, with the discards that were drawn before it: its number.

        `index`: how many candidates the study had before this one.
        """
        first = {"num_draws": sum(discards.values()) + 1, "fingerprint": candidate.fingerprint()}
        notes = {f"{NOTE}discards": dict(discards), **self._notes(candidate)}
        trial = create_trial(
            state=TrialState.RUNNING,
            params=dict(values),
            distributions=dict(distributions),
            user_attrs=dataclasses.asdict(cost) | first | {"candidate": index, "seed": seed},
            system_attrs=notes,
            constraints=_violations(constraints, cost),
        )
        trial_id = self.mirror.create_new_trial(self.study._study_id, trial)
        return self.mirror.get_trial(trial_id).number

    def start_queued(
        self,
        number: int,
        candidate: Candidate,
        cost: Cost,
        constraints: Sequence[Constraint],
        *,
        seed: int,
        index: int,
    ) -> None:
        """Begins a trial that was taken from the queue; one that is run again brings its number of draws along."""
        attrs = self._trial(number).user_attrs
        first = {"num_draws": attrs.get("num_draws", 1), "fingerprint": candidate.fingerprint()}
        self.mirror.write(
            self._id(number),
            user_attrs=dataclasses.asdict(cost) | first | {"candidate": index, "seed": seed},
            system_attrs=self._notes(candidate),
            constraints=_violations(constraints, cost),
        )

    def discard(self, number: int, cost: Cost, reason: str, constraints: Sequence[Constraint]) -> None:
        """Ends a trial that is not to be trained: one enqueued by hand, since the sampler hands out no other."""
        self.mirror.end(
            self._id(number),
            TrialState.PRUNED,
            user_attrs=dataclasses.asdict(cost) | {"reason": reason, "outcome": "discarded"},
            system_attrs={f"{NOTE}discards": {reason: 1}},
            constraints=_violations(constraints, cost),
        )

    def report(self, epochs: Sequence[tuple[int, EpochMetrics]]) -> None:
        """Notes epochs, (trial, figures) each, for the learning curves and for pruners."""
        if self._curves and epochs:
            self.mirror.report([(self._id(number), metrics.epoch, metrics.val_accuracy) for number, metrics in epochs])

    def finish(self, number: int, history: Sequence[EpochMetrics], weights: bytes, files: Mapping[str, bytes]) -> None:
        """Stores a finished training.

        `weights`: the state dict, as `torch.save` writes it. `files`: what the dashboard shows, by name.
        """
        settings = self.records.settings
        accuracies = [metrics.val_accuracy for metrics in history]
        artifact, meta = self.records.artifacts.write(weights)
        attrs = self._trial(number).user_attrs
        self._end(
            number,
            "trained",
            history,
            files=files,
            values=[objective(accuracies, settings.consistency), *(attrs[cost] for cost in settings.objectives[1:])],
            user_attrs={"consistent_accuracy": consistent_accuracy(accuracies, settings.consistency)},
            system_attrs={f"{NOTE}weights": artifact, **meta},
        )

    def prune(self, number: int, history: Sequence[EpochMetrics]) -> None:
        """Stores a training that was stopped early."""
        last = history[-1]
        reason = f"stopped after epoch {last.epoch}, val {last.val_accuracy:.2%}"
        self.fail(number, "pruned", reason, history)

    def fail(self, number: int, outcome: str, reason: str, history: Sequence[EpochMetrics] = ()) -> None:
        """Stores a trial that gave no network."""
        files = (
            files_of_training(self._architecture(number), history, title=f"Trial {number}") if outcome in DRAWN else {}
        )
        self._end(number, outcome, history, files=files, user_attrs={"reason": reason})

    def _end(
        self,
        number: int,
        outcome: str,
        history: Sequence[EpochMetrics],
        *,
        files: Mapping[str, bytes],
        values: Sequence[float] | None = None,
        user_attrs: Mapping[str, Any],
        system_attrs: Mapping[str, Any] = NONE,
    ) -> None:
        notes = {f"{NOTE}history": [metrics.to_json() for metrics in history], **system_attrs}
        for name, content in files.items():
            notes |= self.records.artifacts.write(content, name=name)[1]
        seconds = round(sum(metrics.seconds for metrics in history), 3)
        known = self._trial(number).intermediate_values
        epochs = {metrics.epoch: metrics.val_accuracy for metrics in history if metrics.epoch not in known}
        self.mirror.end(
            self._id(number),
            STATES.get(outcome, TrialState.FAIL),
            values,
            user_attrs={**user_attrs, "seconds": seconds, "outcome": outcome},
            system_attrs=notes,
            epochs=epochs if self._curves else {},
        )

    def settle(self, running: Collection[int] = ()) -> None:
        """Ends what a search that is gone left RUNNING; what it had not finished goes back into the queue.

        `running`: the trials that this search has in training. Call it where no other search begins a trial.
        """
        trials = self.study.get_trials(deepcopy=False)
        queued = {trial.user_attrs.get("retry_of") for trial in trials}
        dead: dict[str | None, bool] = {None: True, self.session: True}  # what begins without a name is not ours
        for trial in trials:
            if trial.state != TrialState.RUNNING or trial.number in running:
                continue
            session = noted(trial, "session")
            if session not in dead:
                dead[session] = not self.locks.is_held(session)
            if dead[session]:
                self._interrupt(trial, again=trial.number not in queued)
        if all(dead.values()):
            self.records.artifacts.sweep()

    def _interrupt(self, trial: FrozenTrial, *, again: bool) -> None:
        attrs, fixed = trial.user_attrs, trial.system_attrs.get("fixed_params", {})
        begun = "fingerprint" in attrs or bool(fixed)
        # First queued, then ended: killed in between, the trial is found again and not queued twice.
        if begun and again:
            kept: dict[str, Any] = {key: attrs[key] for key in KEPT if key in attrs}
            self.study.enqueue_trial({**fixed, **trial.params}, user_attrs={"retry_of": trial.number, **kept})
        what = "its parameters went back into the queue" if begun else "before it began; it is drawn again"
        self.fail(trial.number, "interrupted", f"interrupted; {what}")

    def give_up(self, number: int) -> None:
        """Leaves a trial of this search to the one that has ended it."""
        self.mirror.give_up(self._id(number))
        self.look()

    def close(self) -> None:
        """Lets others know that this search is over."""
        self.locks.close()

    def _id(self, number: int) -> int:
        return self.mirror.get_trial_id_from_study_id_trial_number(self.study._study_id, number)

    def _trial(self, number: int) -> FrozenTrial:
        return self.mirror.get_trial(self._id(number))

    def _architecture(self, number: int) -> Architecture:
        return Architecture.from_json(noted(self._trial(number), "architecture"))

    def _notes(self, candidate: Candidate) -> dict[str, Any]:
        """What is for us alone is in system attributes: long texts would bury the figures in the dashboard."""
        return {
            f"{NOTE}architecture": candidate.architecture.to_json(),
            f"{NOTE}recipe": candidate.recipe.to_json(),
            f"{NOTE}session": self.session,
        }


def _violations(constraints: Sequence[Constraint], cost: Cost) -> dict[str, float]:
    return {str(constraint): constraint.violation(cost) for constraint in constraints}
