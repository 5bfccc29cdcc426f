"""A damaged study is read, or rejected with a one-line error."""

import json
import shutil
import sqlite3
from contextlib import closing

import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.damage import anything, assert_clear, damaged, damaged_bytes
from support.stored_attributes import attributes, change

from nas.commands.export import export_trial
from nas.errors import StudyError
from nas.exporters.model_source import model_source
from nas.reports.dataframe import trials_frame
from nas.reports.overview import figures, note
from nas.reports.summary import answer, best_rows, commands, question
from nas.study.confirmation import ConfirmationRecords
from nas.study.database import default_storage
from nas.study.reader import StudyNotes, StudyRecords
from nas.study.reference import StudyRef
from nas.study.runs import Run
from nas.study.settings import Settings

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

MANY = settings(derandomize=True, max_examples=40, suppress_health_check=list(HealthCheck))
FEW = settings(MANY, max_examples=20)

SETTINGS = Settings(
    **dict.fromkeys(("dataset", "data_fingerprint", "split", "space", "space_fingerprint"), ""),
    constraints=(),
    epochs=1,
    consistency=1,
    seed=0,
)


@pytest.fixture(autouse=True)
def _only_read(monkeypatch):
    """Reduces `export` to building the model's source; `tests/exporters` tests the rest."""

    def export(architecture, weights, *, provenance, **_):
        model_source(architecture, provenance).encode()

    monkeypatch.setattr("nas.commands.export.export", export)


def restore(confirmed, copied):
    for path in copied.glob("studies.db*"):
        path.unlink()
    shutil.copyfile(confirmed / "studies.db", copied / "studies.db")


def read_all(results, output):
    """Runs every reader of a study; returns the messages of their `StudyError`s. Other exceptions propagate."""

    def listed():
        records = StudyRecords.open(StudyRef(results))
        rows = [row.to_json() for row in records.trials()]
        json.dumps(rows)
        records.pareto()
        records.tally()
        records.discards()

    def judged():
        kept = ConfirmationRecords(StudyRecords.open(StudyRef(results)))
        kept.openings()
        kept.record_test_split(1, "")
        kept.num_images()
        found = kept.records.study.user_attrs.get("confirmed")
        if found is not None:
            for seed in range(2):
                kept.history(Run(trial=found["trial"], judged_on="test", seed=seed))
            kept.weights(found["trial"])

    def shown():
        records = StudyRecords.open(StudyRef(results))
        question(records)
        answer(records)
        best_rows(records)
        commands(records)
        note(records)
        figures(records)
        trials_frame(records.trials())

    refused = []
    for reader in (
        listed,
        judged,
        shown,
        lambda: export_trial(results=results, output=output),
        lambda: export_trial("confirmed", results=results, output=output),
    ):
        try:
            reader()
        except StudyError as error:
            assert_clear(error)
            refused.append(str(error))
    return refused


@MANY
@given(data=st.data())
def test_study_with_damaged_attribute_is_read_or_rejected(confirmed, copied, data):
    restore(confirmed, copied)
    table, owner, key, value = data.draw(st.sampled_from(attributes(confirmed)))
    texts = st.builds(json.dumps, damaged(value) | anything) | st.sampled_from(["", "{", "nul", "\0", "[" * 100_000])
    change(copied, table, owner, key, data.draw(texts))
    read_all(copied, copied / "model")


def test_study_with_missing_attribute_is_read_or_rejected(confirmed, copied):
    refusals = {}
    for table, owner, key in {key: (table, owner, key) for table, owner, key, _ in attributes(confirmed)}.values():
        restore(confirmed, copied)
        change(copied, table, owner, key, None)
        refusals[key] = read_all(copied, copied / "model")
    assert all("settings" not in key or "not made by nas" in refusals[key][0] for key in refusals)
    assert any("normalisation is missing" in text for text in refusals["normalisation"])
    assert any("architecture is missing" in text for text in refusals["nas:architecture"])


@pytest.mark.parametrize(
    ("key", "text", "error"),
    [
        ("settings", "[]", "settings: [] found, expected an object"),
        ("settings", "{}", "settings: consistency, constraints, data_fingerprint, dataset, epochs, seed, space"),
        ("normalisation", '{"mean": [0.1], "std": [0]}', "normalisation: std[0] is 0, expected a number above 0"),
        ("classes", '["a", 1]', "classes[1] is 1, expected a string"),
        ("nas:discards", '{"params": -1}', "discards: params is -1, expected an integer from 0 to 1e12"),
        ("nas:architecture", '{"version": 2}', "architecture: input_shape, layers are missing"),
        ("nas:recipe", '{"epochs": 0}', "recipe: epochs is 0, expected an integer from 1 to 1e12"),
        ("nas:history", "[]", "history is [], expected at least one epoch"),
        ("nas:history", "[{}]", "history[0]: epoch, learning_rate, seconds, train_accuracy"),
        ("nas:openings", "[{}]", "nas:openings[0]: date, finalists, seeds, trial are missing"),
        ("nas:weights", '"../studies.db"', "'../studies.db' found, expected the name of a file in this folder"),
        ("confirmed", '{"trial": 0}', "confirmed: accuracies, dataset, num_images"),
    ],
)
def test_error_names_damaged_attribute(confirmed, copied, key, text, error):
    for table, owner, name, _ in attributes(confirmed):
        if name == key:
            change(copied, table, owner, key, text)
    refused = read_all(copied, copied / "model")
    assert any(error in text for text in refused), refused


def test_study_without_its_database_row_is_not_recreated(copied):
    """Leftover rows of the deleted study block a new one."""
    with closing(sqlite3.connect(copied / "studies.db")) as database:
        database.execute("DELETE FROM studies")
        database.commit()
    with pytest.raises(StudyError, match="damaged: KeyError"):
        StudyRecords.create(
            StudyRef(copied),
            SETTINGS,
            StudyNotes(dataset_note="", mean=(), std=(), classes=(), command="", machine=""),
        )


# Rows and files


COLUMNS = {
    "trials": ("number", "state", "datetime_start", "datetime_complete", "study_id"),
    "trial_values": ("objective", "value", "value_type"),
    "trial_params": ("param_name", "param_value", "distribution_json"),
    "trial_intermediate_values": ("step", "intermediate_value", "intermediate_value_type"),
    "study_directions": ("direction", "objective"),
    "version_info": ("schema_version", "library_version"),
    "alembic_version": ("version_num",),
    "studies": ("study_name",),
}


@MANY
@given(data=st.data())
def test_study_with_damaged_row_is_read_or_rejected(confirmed, copied, data):
    restore(confirmed, copied)
    table = data.draw(st.sampled_from(sorted(COLUMNS)))
    column = data.draw(st.sampled_from(COLUMNS[table]))
    value = data.draw(
        st.sampled_from([None, "", "x", "-1", -1, 0, 1, 7, 10**12, 1.5, "nan", "{}", "[1]", b"\xff", "NULL"])
    )
    with closing(sqlite3.connect(copied / "studies.db")) as database:
        database.execute("PRAGMA ignore_check_constraints = 1")
        rows = [row for (row,) in database.execute(f"SELECT rowid FROM {table}")]
        row = data.draw(st.sampled_from(rows))
        try:
            if data.draw(st.integers(0, 4)) == 0:
                database.execute(f"DELETE FROM {table} WHERE rowid = ?", (row,))
            else:
                database.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (value, row))
        except sqlite3.IntegrityError:  # SQLite itself rejects the value
            return
        database.commit()
    read_all(copied, copied / "model")


@FEW
@given(data=st.data())
def test_damaged_database_file_is_read_or_rejected(confirmed, copied, data):
    restore(confirmed, copied)
    whole = (confirmed / "studies.db").read_bytes()
    (copied / "studies.db").write_bytes(data.draw(damaged_bytes(whole)))
    read_all(copied, copied / "model")


@pytest.mark.parametrize("content", [b"a text\n" * 100, b"SQLite format 3\0", b"SQLite format 3\0" + b"\xff" * 4096])
def test_invalid_database_file_is_rejected(tmp_path, content):
    (tmp_path / "studies.db").write_bytes(content)
    with pytest.raises(StudyError, match=r"studies\.db: not a usable database"):
        StudyRecords.open(StudyRef(tmp_path))


def test_study_of_another_program_is_rejected(tmp_path):
    study = optuna.create_study(study_name="search", storage=default_storage(tmp_path))
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    refused = read_all(tmp_path, tmp_path / "model")
    assert refused
    assert all("study 'search' was not made by nas" in text for text in refused)


def test_trial_of_another_program_is_rejected(copied):
    study = optuna.load_study(study_name="search", storage=default_storage(copied))
    study.add_trial(optuna.trial.create_trial(value=0.5))
    number = len(study.trials) - 1
    refused = read_all(copied, copied / "model")
    assert refused
    assert all(f"study 'search': trial {number}: " in text for text in refused)
