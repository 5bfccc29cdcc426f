"""Contains all code that relies on Optuna's private names: its tables, its cache and its attributes.

Contract tests check these names. Optuna's tables have had the same columns since version 3.

`StudyStorage` keeps a study's trials in memory, beside the database. Optuna's own storage writes each parameter and
attribute in a separate transaction, and reads all unfinished trials again whenever trials are requested: with 64
workers this takes seconds per trial. `StudyStorage` begins and ends a trial in one transaction each, and `read_changes`
reads only what other processes have begun or ended since the last call.
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
from nas.study.database import retry_while_unavailable

Attrs = Mapping[str, Any]

NO_ATTRS: Attrs = MappingProxyType({})
NO_EPOCHS: Mapping[int, float] = MappingProxyType({})

EPOCHS_PAUSE = 1.0  # minimum seconds between two writes of epochs: many workers report hundreds per second


class StudyStorage(_CachedStorage):
    """Optuna storage for a process that writes to a study, with the trials in memory beside the database.

    It shows the study as of the last `read_changes`, and what this process has written since. The intermediate values
    of other processes' trials are not updated while these run. While a database server is unavailable, `read_changes`,
    `end`, `write`, `report` and the methods for study attributes retry, for up to `RETRY_SECONDS` seconds.
    """

    def __init__(self, backend: RDBStorage) -> None:
        super().__init__(backend)
        self._own_trial_ids: set[int] = set()  # IDs of running trials that only this process writes
        self._other_trial_ids: dict[int, set[int]] = {}  # by study: IDs of all other unfinished trials
        self._last_trial_ids: dict[int, int] = {}  # by study: highest trial ID seen
        self._unwritten_epochs: dict[int, dict[int, float]] = {}  # by trial ID: epochs not in the database yet
        self._epochs_write_time = float("-inf")  # time of the last write of epochs

    def _read_trials_from_remote_storage(self, study_id: int) -> None:
        if study_id not in self._last_trial_ids:
            self.read_changes(study_id)

    @retry_while_unavailable
    def read_changes(self, study_id: int) -> None:
        """Reads new trials, and trials of other processes whose state has changed."""
        states = self._read_states(study_id)
        with self._lock:
            self._add_study(study_id)
            changed = {trial_id for trial_id, state in states.items() if self._has_changed(study_id, trial_id, state)}
            self._last_trial_ids[study_id] = max([self._last_trial_ids.get(study_id, -1), *states])
            if changed:
                self._read_trials(study_id, changed)

    def _read_states(self, study_id: int) -> dict[int, TrialState]:
        """Returns the states of new trials and of other processes' unfinished ones, by trial ID."""
        last, others = self._last_trial_ids.get(study_id, -1), self._other_trial_ids.setdefault(study_id, set())
        table = models.TrialModel.__table__.c
        # Autocommit: the beginning and end of a transaction would cost two more round trips to a server.
        with self._backend.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            if last < 0:  # raises Optuna's error if the study does not exist
                self._backend.get_study_name_from_id(study_id)
            condition = table.trial_id > last
            if others:
                condition |= table.trial_id.in_(others)
            query = sqlalchemy.select(table.trial_id, table.state).where(table.study_id == study_id, condition)
            return {row.trial_id: row.state for row in connection.execute(query)}

    def _read_trials(self, study_id: int, trial_ids: set[int]) -> None:
        """Reads these trials into memory, and notes which of them are unfinished."""
        # `_get_trials` returns the trials in `trial_ids`, and every trial with a larger ID than this.
        last = self._last_trial_ids[study_id]
        trials = self._backend._get_trials(
            study_id, states=None, included_trial_ids=trial_ids, trial_id_greater_than=last
        )
        self._add_trials_to_cache(study_id, trials)
        others = self._other_trial_ids[study_id]
        others -= {trial._trial_id for trial in trials if trial.state.is_finished()}
        others |= {trial._trial_id for trial in trials if not trial.state.is_finished()}

    def _has_changed(self, study_id: int, trial_id: int, state: TrialState) -> bool:
        """Returns whether the trial, now in `state`, is new or must be read again."""
        if trial_id in self._own_trial_ids:
            return False
        if trial_id not in self._trial_id_to_study_id_and_number:
            return True
        number = self._trial_id_to_study_id_and_number[trial_id][1]
        known = self._studies[study_id].trials[number]
        # A trial that another process takes from the queue gets its fingerprint in a later write than its state.
        return known.state != state or (state == TrialState.RUNNING and StoredTrial(known).fingerprint is None)

    def _get_cached_trial(self, trial_id: int) -> FrozenTrial | None:
        if trial_id in self._own_trial_ids:
            return self._cached_trial(trial_id)
        return super()._get_cached_trial(trial_id)

    def trials(self, study_id: int) -> Mapping[int, FrozenTrial]:
        """Returns the trials of a study by number, without the list that `get_all_trials` builds."""
        self._read_trials_from_remote_storage(study_id)
        return self._studies[study_id].trials

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Stores a running, queued or ended trial in one transaction; returns its ID."""
        template = template_trial or create_trial(state=TrialState.RUNNING)
        with _create_scoped_session(self._backend.scoped_session) as session:
            number, trial_id = _insert_trial(session, study_id, template)
        trial = _as_stored(template, number, trial_id)
        with self._lock:
            self._add_study(study_id)
            self._add_trials_to_cache(study_id, [trial])
            if trial.state == TrialState.RUNNING:
                self._own_trial_ids.add(trial_id)
            elif not trial.state.is_finished():
                self._other_trial_ids.setdefault(study_id, set()).add(trial_id)
        return trial_id

    @retry_while_unavailable
    def end(
        self,
        trial_id: int,
        state: TrialState,
        values: Sequence[float] | None = None,
        *,
        user_attrs: Attrs,
        system_attrs: Attrs,
        constraints: Attrs = NO_ATTRS,
        epochs: Mapping[int, float] = NO_EPOCHS,
    ) -> None:
        """Ends a trial and stores its final attributes and intermediate values, in one transaction.

        Raises Optuna's `UpdateFinishedTrialError` if another process has ended it.
        """
        system_attrs = {**system_attrs, **_constraint_attrs(constraints)}
        epochs = {**self._unwritten_epochs.get(trial_id, NO_EPOCHS), **epochs}
        trial = self._cached_trial(trial_id)
        with _create_scoped_session(self._backend.scoped_session) as session:
            row: Any = models.TrialModel.find_or_raise_by_id(trial_id, session, for_update=True)
            ended = datetime.now()
            if not row.state.is_finished():
                _replace_attrs(session, models.TrialUserAttributeModel, trial_id, user_attrs, trial.user_attrs)
                _replace_attrs(session, models.TrialSystemAttributeModel, trial_id, system_attrs, trial.system_attrs)
                _insert_rows(session, models.TrialIntermediateValueModel, _epoch_rows(trial_id, epochs))
                _insert_rows(session, models.TrialValueModel, _value_rows(trial_id, values or ()))
                row.state, row.datetime_complete = state, ended
            # With these attributes, an earlier try has ended it, but its answer was lost.
            elif not _has_user_attrs(session, trial_id, user_attrs):
                raise UpdateFinishedTrialError(f"trial {row.number} has ended")
        trial.user_attrs |= _json_round_trip(user_attrs)
        trial.system_attrs |= _json_round_trip(system_attrs)
        trial.intermediate_values |= epochs
        self._mark_ended(trial, state, values, ended)

    @retry_while_unavailable
    def write(self, trial_id: int, *, user_attrs: Attrs, system_attrs: Attrs, constraints: Attrs = NO_ATTRS) -> None:
        """Sets attributes of a trial of this process in one transaction.

        Raises Optuna's `UpdateFinishedTrialError` if another process has ended it.
        """
        system_attrs = {**system_attrs, **_constraint_attrs(constraints)}
        with _create_scoped_session(self._backend.scoped_session) as session:
            row: Any = models.TrialModel.find_or_raise_by_id(trial_id, session, for_update=True)
            if row.state.is_finished():
                raise UpdateFinishedTrialError(f"trial {row.number} has ended")
            # Deletes the attributes first: an earlier try may have stored them although its answer was lost.
            _replace_attrs(session, models.TrialUserAttributeModel, trial_id, user_attrs, user_attrs)
            _replace_attrs(session, models.TrialSystemAttributeModel, trial_id, system_attrs, system_attrs)
        trial = self._cached_trial(trial_id)
        trial.user_attrs |= _json_round_trip(user_attrs)
        trial.system_attrs |= _json_round_trip(system_attrs)

    def report(self, epochs: Sequence[tuple[int, int, float]]) -> None:
        """Sets intermediate values of this process's trials, as tuples (trial ID, step, value).

        They are written to the database at once, unless the last write is less than `EPOCHS_PAUSE` seconds ago. Then a
        later report or the end of the trial writes them.
        """
        for trial_id, step, value in epochs:
            self._cached_trial(trial_id).intermediate_values[step] = value
            self._unwritten_epochs.setdefault(trial_id, {})[step] = value
        if time.monotonic() >= self._epochs_write_time + EPOCHS_PAUSE:
            self._write_epochs()

    @retry_while_unavailable
    def _write_epochs(self) -> None:
        rows = [row for trial_id, epochs in self._unwritten_epochs.items() for row in _epoch_rows(trial_id, epochs)]
        # An integrity error means that an earlier try has written all of them, but its answer was lost.
        with _create_scoped_session(self._backend.scoped_session, ignore_integrity_error=True) as session:
            _insert_rows(session, models.TrialIntermediateValueModel, rows)
        self._unwritten_epochs.clear()
        self._epochs_write_time = time.monotonic()

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        super().set_trial_param(trial_id, param_name, param_value_internal, distribution)
        if trial_id in self._own_trial_ids:
            trial = self._cached_trial(trial_id)
            trial.params[param_name] = distribution.to_external_repr(param_value_internal)
            trial.distributions[param_name] = distribution

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Ends a trial, or takes one from the queue for this process; returns False if another process was faster."""
        if trial_id in self._unwritten_epochs:
            self._write_epochs()
        if not super().set_trial_state_values(trial_id, state, values):
            return False
        if state == TrialState.RUNNING:
            trial = self._backend.get_trial(trial_id)
            with self._lock:
                study_id, _ = self._trial_id_to_study_id_and_number[trial_id]
                self._add_trials_to_cache(study_id, [trial])
                self._other_trial_ids[study_id].discard(trial_id)
                self._own_trial_ids.add(trial_id)
        elif state.is_finished():
            self._mark_ended(self._cached_trial(trial_id), state, values, datetime.now())
        return True

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        super().set_trial_intermediate_value(trial_id, step, intermediate_value)
        if trial_id in self._own_trial_ids:
            self._cached_trial(trial_id).intermediate_values[step] = intermediate_value

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        super().set_trial_user_attr(trial_id, key, value)
        if trial_id in self._own_trial_ids:
            self._cached_trial(trial_id).user_attrs |= _json_round_trip({key: value})

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        super().set_trial_system_attr(trial_id, key, value)
        if trial_id in self._own_trial_ids:
            self._cached_trial(trial_id).system_attrs |= _json_round_trip({key: value})

    def release_trial(self, trial_id: int) -> None:
        """Stops treating a trial as one of this process, after another process has ended it."""
        with self._lock:
            study_id, _ = self._trial_id_to_study_id_and_number[trial_id]
            self._own_trial_ids.discard(trial_id)
            self._unwritten_epochs.pop(trial_id, None)
            self._other_trial_ids.setdefault(study_id, set()).add(trial_id)

    def _add_study(self, study_id: int) -> None:
        if study_id not in self._studies:
            self._studies[study_id] = _StudyInfo()

    def _cached_trial(self, trial_id: int) -> FrozenTrial:
        study_id, number = self._trial_id_to_study_id_and_number[trial_id]
        return self._studies[study_id].trials[number]

    def _mark_ended(
        self, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None, ended: datetime | None
    ) -> None:
        with self._lock:
            study_id, _ = self._trial_id_to_study_id_and_number[trial._trial_id]
            trial.values = None if values is None else list(values)
            trial.state, trial.datetime_complete = state, ended
            self._own_trial_ids.discard(trial._trial_id)
            self._unwritten_epochs.pop(trial._trial_id, None)
            self._other_trial_ids.setdefault(study_id, set()).discard(trial._trial_id)


def study_id(study: optuna.Study) -> int:
    """Returns Optuna's ID of the study in its database."""
    return study._study_id


def storage_of(study: optuna.Study) -> BaseStorage:
    """Returns the storage that the study reads and writes."""
    return study._storage


def system_attrs(study: optuna.Study) -> dict[str, Any]:
    """Returns the system attributes of the study."""
    return study._storage.get_study_system_attrs(study._study_id)


def set_system_attr(study: optuna.Study, key: str, value: Any) -> None:
    """Sets a system attribute of the study."""
    study._storage.set_study_system_attr(study._study_id, key, value)


def artifact_link(artifact_id: str, *, filename: str, mimetype: str) -> dict[str, str]:
    """Returns the system attribute that links an artifact to its trial or study."""
    meta = ArtifactMeta(artifact_id=artifact_id, filename=filename, mimetype=mimetype, encoding=None)
    return {f"{ARTIFACTS_ATTR_PREFIX}{artifact_id}": json.dumps(asdict(meta))}


def _insert_trial(session: Session, study_id: int, template: FrozenTrial) -> tuple[int, int]:
    """Inserts a trial with everything that belongs to it; returns its number and its ID."""
    # Locks the study's row, as Optuna does: concurrent callers wait, so that trials are numbered consecutively.
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
    session.flush()  # sets the ID
    trial_id: int = row.trial_id
    for model, rows in (
        (models.TrialParamModel, _param_rows(trial_id, template)),
        (models.TrialValueModel, _value_rows(trial_id, template.values or ())),
        (models.TrialUserAttributeModel, _attr_rows(trial_id, template.user_attrs)),
        (models.TrialSystemAttributeModel, _attr_rows(trial_id, template.system_attrs)),
        (models.TrialIntermediateValueModel, _epoch_rows(trial_id, template.intermediate_values)),
    ):
        _insert_rows(session, model, rows)
    return number, trial_id


def _insert_rows(session: Session, model: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    if rows:
        session.execute(sqlalchemy.insert(model.__table__), rows)


# Methods for attributes of the study: calling them twice has the same effect as calling them once.
for _name in (
    *("get_study_directions", "get_study_user_attrs", "get_study_system_attrs"),
    *("set_study_user_attr", "set_study_system_attr"),
):
    setattr(StudyStorage, _name, retry_while_unavailable(getattr(_CachedStorage, _name)))


def _replace_attrs(session: Session, model: Any, trial_id: int, attrs: Attrs, present: Container[str]) -> None:
    """Sets attributes; deletes existing ones first, since the syntax of an upsert differs between databases."""
    if replaced := [key for key in attrs if key in present]:
        session.execute(sqlalchemy.delete(model).where(model.trial_id == trial_id, model.key.in_(replaced)))
    _insert_rows(session, model, _attr_rows(trial_id, attrs))


def _has_user_attrs(session: Session, trial_id: int, attrs: Attrs) -> bool:
    """Returns whether the trial has these user attributes."""
    model = models.TrialUserAttributeModel
    query = sqlalchemy.select(model.key, model.value_json).where(model.trial_id == trial_id)
    stored = {row.key: json.loads(row.value_json) for row in session.execute(query)}
    return _json_round_trip(attrs).items() <= stored.items()


def _constraint_attrs(constraints: Attrs) -> dict[str, Any]:
    """Returns the system attributes in which Optuna stores constraints."""
    return {f"{_CONSTRAINTS_KEY}:{name}": violation for name, violation in constraints.items()}


# Each of these four functions returns rows of one table, by column.


def _param_rows(trial_id: int, trial: FrozenTrial) -> list[dict[str, Any]]:
    return [
        {
            "trial_id": trial_id,
            "param_name": name,
            "param_value": trial.distributions[name].to_internal_repr(value),
            "distribution_json": _distribution_json(trial.distributions[name]),
        }
        for name, value in trial.params.items()
    ]


def _attr_rows(trial_id: int, attrs: Attrs) -> list[dict[str, Any]]:
    return [{"trial_id": trial_id, "key": key, "value_json": json.dumps(value)} for key, value in attrs.items()]


def _epoch_rows(trial_id: int, epochs: Mapping[int, float]) -> list[dict[str, Any]]:
    stored = {
        step: models.TrialIntermediateValueModel.intermediate_value_to_stored_repr(v) for step, v in epochs.items()
    }
    return [
        {"trial_id": trial_id, "step": step, "intermediate_value": value, "intermediate_value_type": kind}
        for step, (value, kind) in stored.items()
    ]


def _value_rows(trial_id: int, values: Sequence[float]) -> list[dict[str, Any]]:
    stored = [models.TrialValueModel.value_to_stored_repr(value) for value in values]
    return [
        {"trial_id": trial_id, "objective": objective, "value": value, "value_type": kind}
        for objective, (value, kind) in enumerate(stored)
    ]


@lru_cache(maxsize=10_000)
def _distribution_json(distribution: BaseDistribution) -> str:
    return distribution_to_json(distribution)


def _as_stored(template: FrozenTrial, number: int, trial_id: int) -> FrozenTrial:
    """Returns the template as it would be read from the database."""
    return FrozenTrial(
        number=number,
        state=template.state,
        value=None,
        values=template.values,
        datetime_start=template.datetime_start,
        datetime_complete=template.datetime_complete,
        params=dict(template.params),
        distributions=dict(template.distributions),
        user_attrs=_json_round_trip(template.user_attrs),
        system_attrs=_json_round_trip(template.system_attrs),
        intermediate_values=dict(template.intermediate_values),
        trial_id=trial_id,
    )


def _json_round_trip(attrs: Attrs) -> dict[str, Any]:
    """Returns attributes as they are read from JSON: tuples become lists, keys become strings."""
    found: dict[str, Any] = json.loads(json.dumps(dict(attrs)))
    return found
