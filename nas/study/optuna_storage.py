"""All that relies on Optuna's private names: its tables, its cache, its attributes. Contract tests watch them.

`StudyStorage` holds a study's trials in memory, beside the database. Optuna's own storage writes each parameter and
attribute in a transaction of its own, and reads every unfinished trial at every look: with 64 workers that takes
seconds a trial. Here a trial begins and ends in one transaction each, and a look reads what other processes have begun
or ended since the last one. Optuna's tables have been the same since its version 3.
"""

import json
import time
from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import optuna
import sqlalchemy
from optuna.artifacts._upload import ARTIFACTS_ATTR_PREFIX, ArtifactMeta
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.storages._cached_storage import _CachedStorage, _StudyInfo
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import RDBStorage, _create_scoped_session
from optuna.study._constrained_optimization import _CONSTRAINTS_KEY
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.orm import Session

from nas.study.attributes import StoredTrial
from nas.study.database import patiently

Attrs = Mapping[str, Any]

NONE: Attrs = MappingProxyType({})
NO_EPOCHS: Mapping[int, float] = MappingProxyType({})

EPOCHS_PAUSE = 1.0  # seconds at least between two writes of epochs: many workers report hundreds a second


class StudyStorage(_CachedStorage):
    """Optuna's storage for a process that writes to a study: its trials in one table in memory, beside the database.

    It shows the study as it was at the last `look`, and what this process has written since. Unfinished trials of other
    processes stay as they were first seen: their epochs are not followed. While a database server is away, `look`,
    `end`, `write`, `report` and what concerns the study as a whole wait for it, up to `PATIENCE`.
    """

    def __init__(self, backend: RDBStorage) -> None:
        super().__init__(backend)
        self._ours: set[int] = set()  # trials that are for this process alone to write to, until they have ended
        self._theirs: dict[int, set[int]] = {}  # of each study: trials of others that have not ended
        self._last: dict[int, int] = {}  # of each study: the highest identifier of a trial seen
        self._unwritten: dict[int, dict[int, float]] = {}  # of trials of ours: epochs that are in memory alone
        self._epochs_written = float("-inf")  # when some were last written

    def _read_trials_from_remote_storage(self, study_id: int) -> None:
        if study_id not in self._last:
            self.look(study_id)

    @patiently
    def look(self, study_id: int) -> None:
        """Reads trials that are new, and those of others that have ended."""
        last, theirs = self._last.get(study_id, -1), self._theirs.setdefault(study_id, set())
        table = models.TrialModel.__table__.c
        # One query needs no transaction, whose beginning and end are two more messages to a server.
        with self._backend.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            if last < 0:  # Optuna's way of saying that there is no such study
                self._backend.get_study_name_from_id(study_id)
            condition = table.trial_id > last
            if theirs:
                condition |= table.trial_id.in_(theirs)
            query = sqlalchemy.select(table.trial_id, table.state).where(table.study_id == study_id, condition)
            states: dict[int, TrialState] = {row.trial_id: row.state for row in connection.execute(query)}
        with self._lock:
            self._add_study(study_id)
            changed = {trial_id for trial_id, state in states.items() if self._is_new(study_id, trial_id, state)}
            self._last[study_id] = max([last, *states])
            if not changed:
                return
            # It reads those included up to the last one, and all beyond.
            beyond = self._last[study_id]
            news = self._backend._get_trials(
                study_id, states=None, included_trial_ids=changed, trial_id_greater_than=beyond
            )
            self._add_trials_to_cache(study_id, news)
            theirs -= {trial._trial_id for trial in news if trial.state.is_finished()}
            theirs |= {trial._trial_id for trial in news if not trial.state.is_finished()}

    def _is_new(self, study_id: int, trial_id: int, state: TrialState) -> bool:
        if trial_id in self._ours:
            return False
        if trial_id not in self._trial_id_to_study_id_and_number:
            return True
        number = self._trial_id_to_study_id_and_number[trial_id][1]
        known = self._studies[study_id].trials[number]
        # A trial that another process takes from the queue says only a little later what it trains.
        return known.state != state or (state == TrialState.RUNNING and StoredTrial(known).fingerprint is None)

    def _get_cached_trial(self, trial_id: int) -> FrozenTrial | None:
        if trial_id in self._ours:
            return self._cached(trial_id)
        return super()._get_cached_trial(trial_id)

    def trials(self, study_id: int) -> Mapping[int, FrozenTrial]:
        """The trials of a study by number: `get_all_trials`, without a list to be made of them."""
        self._read_trials_from_remote_storage(study_id)
        return self._studies[study_id].trials

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """A trial as it is begun, queued, or already ended: all of it in one transaction."""
        template = template_trial or create_trial(state=TrialState.RUNNING)
        with _create_scoped_session(self._backend.scoped_session) as session:
            # As Optuna does: numbers follow each other, and so who makes trials waits for who does.
            models.StudyModel.find_or_raise_by_id(study_id, session, for_update=True)
            others = sqlalchemy.select(sqlalchemy.func.count()).where(models.TrialModel.study_id == study_id)
            number: int = session.execute(others).scalar_one()
            row: Any = models.TrialModel(
                study_id=study_id,
                number=number,
                state=template.state,
                datetime_start=template.datetime_start,
                datetime_complete=template.datetime_complete,
            )
            session.add(row)
            session.flush()
            trial_id: int = row.trial_id
            params = [
                {
                    "trial_id": trial_id,
                    "param_name": name,
                    "param_value": template.distributions[name].to_internal_repr(value),
                    "distribution_json": _as_json(template.distributions[name]),
                }
                for name, value in template.params.items()
            ]
            _add(session, models.TrialParamModel, params)
            _add(session, models.TrialValueModel, _stored_values(trial_id, template.values or ()))
            _add(session, models.TrialUserAttributeModel, _stored_attrs(trial_id, template.user_attrs))
            _add(session, models.TrialSystemAttributeModel, _stored_attrs(trial_id, template.system_attrs))
            _add(session, models.TrialIntermediateValueModel, _stored_epochs(trial_id, template.intermediate_values))
        trial = _copied(template, number, trial_id)
        with self._lock:
            self._add_study(study_id)
            self._add_trials_to_cache(study_id, [trial])
            if trial.state == TrialState.RUNNING:
                self._ours.add(trial_id)
            elif not trial.state.is_finished():
                self._theirs.setdefault(study_id, set()).add(trial_id)
        return trial_id

    @patiently
    def end(
        self,
        trial_id: int,
        state: TrialState,
        values: Sequence[float] | None = None,
        *,
        user_attrs: Attrs,
        system_attrs: Attrs,
        constraints: Attrs = NONE,
        epochs: Mapping[int, float] = NO_EPOCHS,
    ) -> None:
        """Ends a trial, with the attributes and intermediate values that belong to its end, in one transaction.

        Raises Optuna's `UpdateFinishedTrialError` where another process has ended it.
        """
        system_attrs = {**system_attrs, **_as_attrs(constraints)}
        epochs = {**self._unwritten.get(trial_id, NO_EPOCHS), **epochs}
        trial = self._cached(trial_id)
        with _create_scoped_session(self._backend.scoped_session) as session:
            row: Any = models.TrialModel.find_or_raise_by_id(trial_id, session, for_update=True)
            ended = datetime.now()
            if not row.state.is_finished():
                _put(session, models.TrialUserAttributeModel, trial_id, user_attrs, trial.user_attrs)
                _put(session, models.TrialSystemAttributeModel, trial_id, system_attrs, trial.system_attrs)
                _add(session, models.TrialIntermediateValueModel, _stored_epochs(trial_id, epochs))
                _add(session, models.TrialValueModel, _stored_values(trial_id, values or ()))
                row.state, row.datetime_complete = state, ended
            elif not _has(session, trial_id, user_attrs):  # else it was us, and the answer did not come through
                raise UpdateFinishedTrialError(f"trial {row.number} has ended")
        trial.user_attrs |= _as_read(user_attrs)
        trial.system_attrs |= _as_read(system_attrs)
        trial.intermediate_values |= epochs
        self._ended(trial, state, values, ended)

    @patiently
    def write(self, trial_id: int, *, user_attrs: Attrs, system_attrs: Attrs, constraints: Attrs = NONE) -> None:
        """Sets attributes of a trial of ours in one transaction."""
        system_attrs = {**system_attrs, **_as_attrs(constraints)}
        with _create_scoped_session(self._backend.scoped_session) as session:
            row: Any = models.TrialModel.find_or_raise_by_id(trial_id, session, for_update=True)
            if row.state.is_finished():
                raise UpdateFinishedTrialError(f"trial {row.number} has ended")
            # An earlier try may have come through without its answer.
            _put(session, models.TrialUserAttributeModel, trial_id, user_attrs, user_attrs)
            _put(session, models.TrialSystemAttributeModel, trial_id, system_attrs, system_attrs)
        trial = self._cached(trial_id)
        trial.user_attrs |= _as_read(user_attrs)
        trial.system_attrs |= _as_read(system_attrs)

    def report(self, epochs: Sequence[tuple[int, int, float]]) -> None:
        """Sets intermediate values, (trial, step, value) each, of trials of ours.

        In the database they are at once, unless some were written within the last second: then a later report or the
        trial's end brings them there.
        """
        for trial_id, step, value in epochs:
            self._cached(trial_id).intermediate_values[step] = value
            self._unwritten.setdefault(trial_id, {})[step] = value
        if time.monotonic() >= self._epochs_written + EPOCHS_PAUSE:
            self._write_epochs()

    @patiently
    def _write_epochs(self) -> None:
        rows = [row for trial_id, epochs in self._unwritten.items() for row in _stored_epochs(trial_id, epochs)]
        # Epochs that are there already were written before the answer was lost: all of them, or none.
        with _create_scoped_session(self._backend.scoped_session, ignore_integrity_error=True) as session:
            _add(session, models.TrialIntermediateValueModel, rows)
        self._unwritten.clear()
        self._epochs_written = time.monotonic()

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        super().set_trial_param(trial_id, param_name, param_value_internal, distribution)
        if trial_id in self._ours:
            trial = self._cached(trial_id)
            trial.params[param_name] = distribution.to_external_repr(param_value_internal)
            trial.distributions[param_name] = distribution

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Ends a trial, or takes one from the queue: then it is ours, unless another process was faster."""
        if trial_id in self._unwritten:
            self._write_epochs()
        if not super().set_trial_state_values(trial_id, state, values):
            return False
        if state == TrialState.RUNNING:
            trial = self._backend.get_trial(trial_id)
            with self._lock:
                study_id, _ = self._trial_id_to_study_id_and_number[trial_id]
                self._add_trials_to_cache(study_id, [trial])
                self._theirs[study_id].discard(trial_id)
                self._ours.add(trial_id)
        elif state.is_finished():
            self._ended(self._cached(trial_id), state, values, datetime.now())
        return True

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        super().set_trial_intermediate_value(trial_id, step, intermediate_value)
        if trial_id in self._ours:
            self._cached(trial_id).intermediate_values[step] = intermediate_value

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        super().set_trial_user_attr(trial_id, key, value)
        if trial_id in self._ours:
            self._cached(trial_id).user_attrs |= _as_read({key: value})

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        super().set_trial_system_attr(trial_id, key, value)
        if trial_id in self._ours:
            self._cached(trial_id).system_attrs |= _as_read({key: value})

    def give_up(self, trial_id: int) -> None:
        """Leaves a trial of ours to others, who have ended it."""
        with self._lock:
            study_id, _ = self._trial_id_to_study_id_and_number[trial_id]
            self._ours.discard(trial_id)
            self._unwritten.pop(trial_id, None)
            self._theirs.setdefault(study_id, set()).add(trial_id)

    def _add_study(self, study_id: int) -> None:
        if study_id not in self._studies:
            self._studies[study_id] = _StudyInfo()

    def _cached(self, trial_id: int) -> FrozenTrial:
        study_id, number = self._trial_id_to_study_id_and_number[trial_id]
        return self._studies[study_id].trials[number]

    def _ended(
        self, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None, ended: datetime | None
    ) -> None:
        with self._lock:
            study_id, _ = self._trial_id_to_study_id_and_number[trial._trial_id]
            trial.values = None if values is None else list(values)
            trial.state, trial.datetime_complete = state, ended
            self._ours.discard(trial._trial_id)
            self._unwritten.pop(trial._trial_id, None)
            self._theirs.setdefault(study_id, set()).discard(trial._trial_id)


def study_id(study: optuna.Study) -> int:
    """Optuna's identifier of the study in its database."""
    return study._study_id


def storage_of(study: optuna.Study) -> BaseStorage:
    """The storage that the study reads and writes."""
    return study._storage


def system_attrs(study: optuna.Study) -> dict[str, Any]:
    """System attributes of the study."""
    return study._storage.get_study_system_attrs(study._study_id)


def set_system_attr(study: optuna.Study, key: str, value: Any) -> None:
    """Sets a system attribute of the study."""
    study._storage.set_study_system_attr(study._study_id, key, value)


def artifact_link(artifact_id: str, *, filename: str, mimetype: str) -> dict[str, str]:
    """The system attribute that links an artifact to the trial or study that owns it."""
    meta = ArtifactMeta(artifact_id=artifact_id, filename=filename, mimetype=mimetype, encoding=None)
    return {f"{ARTIFACTS_ATTR_PREFIX}{artifact_id}": json.dumps(asdict(meta))}


def _add(session: Session, model: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    if rows:
        session.execute(sqlalchemy.insert(model.__table__), rows)


# Of the study as a whole: what is read or set twice is as if it were once.
for _name in (
    *("get_study_directions", "get_study_user_attrs", "get_study_system_attrs"),
    *("set_study_user_attr", "set_study_system_attr"),
):
    setattr(StudyStorage, _name, patiently(getattr(_CachedStorage, _name)))


def _put(session: Session, model: Any, trial_id: int, attrs: Attrs, present: Container[str]) -> None:
    """Sets attributes; deleting those present first does in every database what each has a word of its own for."""
    if replaced := [key for key in attrs if key in present]:
        session.execute(sqlalchemy.delete(model).where(model.trial_id == trial_id, model.key.in_(replaced)))
    _add(session, model, _stored_attrs(trial_id, attrs))


def _has(session: Session, trial_id: int, attrs: Attrs) -> bool:
    """Whether the trial has these user attributes."""
    model = models.TrialUserAttributeModel
    query = sqlalchemy.select(model.key, model.value_json).where(model.trial_id == trial_id)
    return _as_read(attrs).items() <= {row.key: json.loads(row.value_json) for row in session.execute(query)}.items()


def _as_attrs(constraints: Attrs) -> dict[str, Any]:
    """System attributes in which Optuna keeps constraints."""
    return {f"{_CONSTRAINTS_KEY}:{name}": violation for name, violation in constraints.items()}


def _stored_attrs(trial_id: int, attrs: Attrs) -> list[dict[str, Any]]:
    return [{"trial_id": trial_id, "key": key, "value_json": json.dumps(value)} for key, value in attrs.items()]


def _stored_epochs(trial_id: int, epochs: Mapping[int, float]) -> list[dict[str, Any]]:
    stored = {
        step: models.TrialIntermediateValueModel.intermediate_value_to_stored_repr(v) for step, v in epochs.items()
    }
    return [
        {"trial_id": trial_id, "step": step, "intermediate_value": value, "intermediate_value_type": kind}
        for step, (value, kind) in stored.items()
    ]


def _stored_values(trial_id: int, values: Sequence[float]) -> list[dict[str, Any]]:
    stored = [models.TrialValueModel.value_to_stored_repr(value) for value in values]
    return [
        {"trial_id": trial_id, "objective": objective, "value": value, "value_type": kind}
        for objective, (value, kind) in enumerate(stored)
    ]


@lru_cache(maxsize=10_000)
def _as_json(distribution: BaseDistribution) -> str:
    return distribution_to_json(distribution)


def _copied(template: FrozenTrial, number: int, trial_id: int) -> FrozenTrial:
    """The template as it would be read back."""
    return FrozenTrial(
        number=number,
        state=template.state,
        value=None,
        values=template.values,
        datetime_start=template.datetime_start,
        datetime_complete=template.datetime_complete,
        params=dict(template.params),
        distributions=dict(template.distributions),
        user_attrs=_as_read(template.user_attrs),
        system_attrs=_as_read(template.system_attrs),
        intermediate_values=dict(template.intermediate_values),
        trial_id=trial_id,
    )


def _as_read(attrs: Attrs) -> dict[str, Any]:
    """Attributes as JSON brings them back: tuples as lists, keys as texts."""
    found: dict[str, Any] = json.loads(json.dumps(dict(attrs)))
    return found
