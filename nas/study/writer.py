"""Writes the trials of a search into its study.

A drawn trial begins in one transaction, and every trial ends in one.
"""

import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import optuna
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from nas.architecture.cost import Cost
from nas.space.candidate import Candidate
from nas.space.constraints import Constraint
from nas.space.drawn import Discard, DrawnCandidate
from nas.space.warm_start import KnownCandidate
from nas.study import attributes
from nas.study.attributes import Attributes, Outcome, StoredTrial, typed_trials
from nas.study.locks import Locks
from nas.study.optuna_storage import StudyStorage, study_id
from nas.study.reader import StudyRecords
from nas.study.trial import RunningTrial, TrialRecord
from nas.training.metrics import EpochMetrics
from nas.training.results import consistent_accuracy, objective
from nas.training.trial_files import files_of_training

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


class StudyWriter:
    """Writes the trials of one search; several searches may work on one study.

    `session` is the name of the search in its trials, and of the lock that it holds while it runs.
    """

    def __init__(self, records: StudyRecords, locks: Locks) -> None:
        self.storage = StudyStorage(records.storage)
        self.study = optuna.load_study(
            study_name=records.name,
            storage=self.storage,
            # Only used for parameters that a trial enqueued by a user lacks.
            sampler=RandomSampler(seed=records.settings.seed % 2**32),
        )
        self.records = StudyRecords(self.study, records.storage, records.ref)
        self.locks = locks
        self.session = uuid.uuid4().hex[:12]
        locks.try_acquire(self.session)
        # Optuna supports no intermediate values with two objectives.
        self._has_intermediate_values = len(self.records.settings.objectives) == 1

    # -- reading ---------------------------------------------------------------------------------------------

    def read_changes(self) -> None:
        """Reads the trials that other searches and users have begun or ended."""
        self.storage.read_changes(study_id(self.study))

    def trials(self) -> Mapping[int, FrozenTrial]:
        """Returns every trial of the study by number, as of the last `read_changes`."""
        return self.storage.trials(study_id(self.study))

    def stored_trial(self, number: int) -> StoredTrial:
        """Returns a typed view of a trial."""
        return StoredTrial(self.trials()[number])

    # -- the queue -------------------------------------------------------------------------------------------

    def missing_from_study(self, candidates: Iterable[KnownCandidate]) -> list[KnownCandidate]:
        """Returns the known candidates that are not in the study yet."""
        trials = typed_trials(self.trials().values())
        stored = {trial.fingerprint for trial in trials} | {trial.enqueued_fingerprint for trial in trials}
        return [candidate for candidate in candidates if candidate.fingerprint not in stored]

    def enqueue(self, candidate: KnownCandidate) -> None:
        """Adds a known candidate to the queue."""
        attrs = attributes.enqueue_attrs(candidate.source, candidate.fingerprint)
        self.study.enqueue_trial(dict(candidate.values), user_attrs=attrs.user)

    # -- beginning -------------------------------------------------------------------------------------------

    def store_discards(
        self,
        discards: Sequence[Discard],
        constraints: Sequence[Constraint],
        distributions: "Mapping[str, BaseDistribution]",
        *,
        drawn_for: int,
    ) -> None:
        """Stores discards as PRUNED trials, so that users can browse them.

        `drawn_for` is the index of the candidate found after them. A resumed search repeats the draws for this index,
        so it can tell which of them are stored already.
        """
        for values, judgement in discards:
            attrs = attributes.discard_attrs(judgement.reason, judgement.cost) | attributes.drawn_for_attrs(drawn_for)
            # An impossible shape has no cost: it counts as violating every limit by 100 %.
            violations = (
                _violations(constraints, judgement.cost) if judgement.cost else {str(c): 1.0 for c in constraints}
            )
            trial = create_trial(
                state=Outcome.DISCARDED.state,
                params=dict(values),
                distributions=dict(distributions),
                user_attrs=attrs.user,
                system_attrs=attrs.system,
                constraints=violations,
            )
            self.study.add_trial(trial)

    def start(
        self,
        drawn: DrawnCandidate,
        distributions: "Mapping[str, BaseDistribution]",
        constraints: Sequence[Constraint],
        *,
        seed: int,
        index: int,
    ) -> RunningTrial:
        """Begins the trial of a drawn candidate. `index`: number of candidates that the study had before this one."""
        attrs = self._begin_attrs(drawn.candidate, drawn.cost, drawn.fingerprint, index, seed, drawn.num_draws)
        attrs |= attributes.discard_count_attrs(drawn.discard_counts)
        trial = create_trial(
            state=TrialState.RUNNING,
            params=dict(drawn.values),
            distributions=dict(distributions),
            user_attrs=attrs.user,
            system_attrs=attrs.system,
            constraints=_violations(constraints, drawn.cost),
        )
        trial_id = self.storage.create_new_trial(study_id(self.study), trial)
        return RunningTrial(
            number=self.storage.get_trial(trial_id).number,
            index=index,
            candidate=drawn.candidate,
            parameters=dict(drawn.values),
            cost=drawn.cost,
            seed=seed,
            num_draws=drawn.num_draws,
        )

    def start_queued(
        self,
        number: int,
        candidate: Candidate,
        cost: Cost,
        constraints: Sequence[Constraint],
        *,
        seed: int,
        index: int,
    ) -> RunningTrial:
        """Begins a trial that was taken from the queue; a retry keeps the number of draws of the interrupted trial."""
        num_draws = self.stored_trial(number).num_draws
        attrs = self._begin_attrs(candidate, cost, candidate.fingerprint(), index, seed, num_draws)
        self.storage.write(
            self._id(number),
            user_attrs=attrs.user,
            system_attrs=attrs.system,
            constraints=_violations(constraints, cost),
        )
        return RunningTrial(
            number=number,
            index=index,
            candidate=candidate,
            parameters=self.stored_trial(number).params,
            cost=cost,
            seed=seed,
            num_draws=num_draws,
            source=self.stored_trial(number).source,
        )

    def discard(self, number: int, cost: Cost, reason: str, constraints: Sequence[Constraint]) -> None:
        """Ends a trial from the queue without training: users may enqueue infeasible or duplicate candidates."""
        attrs = attributes.discard_attrs(reason, cost) | attributes.discard_count_attrs({reason: 1})
        self.storage.end(
            self._id(number),
            Outcome.DISCARDED.state,
            user_attrs=attrs.user,
            system_attrs=attrs.system,
            constraints=_violations(constraints, cost),
        )

    # -- ending ----------------------------------------------------------------------------------------------

    def report(self, epochs: Sequence[tuple[int, EpochMetrics]]) -> None:
        """Stores epochs, as tuples (trial number, metrics), for learning curves and pruners."""
        if self._has_intermediate_values and epochs:
            self.storage.report([(self._id(number), metrics.epoch, metrics.val_accuracy) for number, metrics in epochs])

    def finish(self, trial: RunningTrial, weights: bytes, files: Mapping[str, bytes]) -> TrialRecord:
        """Stores a completed training run; returns its record.

        Args:
            trial: Trial after its last epoch.
            weights: State dict as `torch.save` writes it.
            files: Dashboard files by name.
        """
        settings = self.records.settings
        accuracies = [metrics.val_accuracy for metrics in trial.history]
        mean = objective(accuracies, settings.consistency)
        lowest = consistent_accuracy(accuracies, settings.consistency)
        artifact, link = self.records.artifacts.write(weights)
        attrs = attributes.completion_attrs(lowest, artifact) | Attributes(system=dict(link))
        costs = [getattr(trial.cost, cost) for cost in settings.objectives[1:]]
        self._end(trial.number, Outcome.TRAINED, trial.history, attrs, files=files, values=[mean, *costs])
        seconds = self.stored_trial(trial.number).numeric_attr("seconds")
        return trial.trained_record(objective=mean, consistent_accuracy=lowest, seconds=seconds)

    def prune(self, trial: RunningTrial) -> TrialRecord:
        """Stores a training run that the pruner stopped; returns its record."""
        last = trial.history[-1]
        return self.fail(trial, Outcome.PRUNED, f"stopped after epoch {last.epoch}, val {last.val_accuracy:.2%}")

    def fail(self, trial: RunningTrial, outcome: Outcome, reason: str) -> TrialRecord:
        """Stores a trial that ended without completing its training; returns its record."""
        files = (
            files_of_training(trial.candidate.architecture, trial.history, title=f"Trial {trial.number}")
            if outcome.has_files
            else {}
        )
        self._end(trial.number, outcome, trial.history, Attributes(), files=files, reason=reason)
        return trial.ended_record(
            outcome, reason=reason, seconds=self.stored_trial(trial.number).numeric_attr("seconds")
        )

    def abandon(self, number: int, outcome: Outcome, reason: str) -> None:
        """Ends a trial that was not trained in this process."""
        self._end(number, outcome, (), Attributes(), reason=reason)

    def _end(
        self,
        number: int,
        outcome: Outcome,
        history: Sequence[EpochMetrics],
        attrs: Attributes,
        *,
        reason: str = "",
        files: Mapping[str, bytes] | None = None,
        values: Sequence[float] | None = None,
    ) -> None:
        attrs |= attributes.end_attrs(outcome, history, reason=reason)
        for name, content in (files or {}).items():
            attrs |= Attributes(system=dict(self.records.artifacts.write(content, name=name)[1]))
        known = self.trials()[number].intermediate_values
        epochs = {metrics.epoch: metrics.val_accuracy for metrics in history if metrics.epoch not in known}
        self.storage.end(
            self._id(number),
            outcome.state,
            values,
            user_attrs=attrs.user,
            system_attrs=attrs.system,
            epochs=epochs if self._has_intermediate_values else {},
        )

    # -- other searches --------------------------------------------------------------------------------------

    def requeue_dead_trials(self, running: Collection[int] = ()) -> None:
        """Ends the running trials of dead searches as interrupted, and enqueues their parameters again.

        Call it under the lock "begin".

        Args:
            running: Numbers of the trials that this search trains. Any other running trial of it began in a transaction
                whose answer was lost, and counts as dead.
        """
        trials = typed_trials(self.study.get_trials(deepcopy=False))
        retried = {trial.retry_of for trial in trials}
        # A running trial has no session if its search was killed while the trial began.
        is_dead: dict[str | None, bool] = {None: True, self.session: True}
        for trial in trials:
            if trial.state != TrialState.RUNNING or trial.number in running:
                continue
            session = trial.session
            if session not in is_dead:
                assert session is not None
                is_dead[session] = not self.locks.is_held(session)
            if is_dead[session]:
                self._interrupt(trial, retry=trial.number not in retried)
        if all(is_dead.values()):
            self.records.artifacts.delete_incomplete_files()

    def _interrupt(self, trial: StoredTrial, *, retry: bool) -> None:
        """Ends a trial of a dead search; with `retry`, enqueues its candidate again, if it has one."""
        has_candidate = trial.has_candidate
        # Enqueued before it ends: if the process is killed in between, the trial is found again but not enqueued twice.
        if has_candidate and retry:
            self.study.enqueue_trial(trial.params, user_attrs=attributes.retry_attrs(trial).user)
        what = "its parameters went back into the queue" if has_candidate else "before it began; it is drawn again"
        self.abandon(trial.number, Outcome.INTERRUPTED, f"interrupted; {what}")

    def release_trial(self, number: int) -> None:
        """Gives up a trial of this search that another search has ended, and reads how it ended."""
        self.storage.release_trial(self._id(number))
        self.read_changes()

    def _id(self, number: int) -> int:
        return self.storage.get_trial_id_from_study_id_trial_number(study_id(self.study), number)

    def _begin_attrs(
        self, candidate: Candidate, cost: Cost, fingerprint: str, index: int, seed: int, num_draws: int
    ) -> Attributes:
        return attributes.begin_attrs(
            candidate,
            cost,
            index=index,
            seed=seed,
            num_draws=num_draws,
            fingerprint=fingerprint,
            session=self.session,
        )


def _violations(constraints: Sequence[Constraint], cost: Cost) -> dict[str, float]:
    return {str(constraint): constraint.violation(cost) for constraint in constraints}
