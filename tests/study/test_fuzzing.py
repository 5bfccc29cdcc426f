"""Whatever a study's database and its weights were turned into, each command that reads them ends in one clear line."""

import io
import json
import os
import pickle
import shutil
import sqlite3
import subprocess
import sys
import zipfile
from contextlib import closing
from pathlib import Path

import optuna
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.damage import anything, damaged, damaged_bytes
from support.paths import TINY

from nas.cli import main as cli
from nas.commands.confirm import confirm
from nas.commands.export import export_trial
from nas.commands.search import search
from nas.errors import StudyError
from nas.exporters.model_source import model_source
from nas.reports.dataframe import trials_frame
from nas.reports.overview import figures, note
from nas.reports.summary import answer, best_rows, commands, question
from nas.study.artifacts import Artifacts
from nas.study.attributes import PREFIX
from nas.study.confirmation import ConfirmedRecords, Run
from nas.study.database import default_storage
from nas.study.reader import StudyNotes, StudyRecords
from nas.study.reference import StudyRef
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
ON_CPU = {"device": "cpu", "workers": 1}


@pytest.fixture(scope="module")
def confirmed(tmp_path_factory):
    """A results folder with a study of two trained trials, one of which is confirmed. Read only."""
    folder = tmp_path_factory.mktemp("confirmed")
    (folder / "tiny.toml").write_text(TINY)
    limits = {"max_params": 900, "min_receptive_field": 10}
    asked = {"dataset": "digits", "space": str(folder / "tiny.toml"), "epochs": 2, "trials": 2}
    search(**limits, **asked, results=folder / "results", **ON_CPU)
    confirm(top=1, seeds=2, results=folder / "results", **ON_CPU)
    (folder / "copy").mkdir()
    shutil.copytree(folder / "results" / "artifacts", folder / "copy" / "artifacts")
    with (
        closing(sqlite3.connect(folder / "results" / "studies.db")) as database,
        closing(sqlite3.connect(folder / "copy" / "studies.db")) as alone,
    ):
        database.backup(alone)
        alone.execute("PRAGMA journal_mode=DELETE")  # all of it in the one file, which can then be copied
    return folder / "copy"


@pytest.fixture
def copied(confirmed, tmp_path):
    """A copy of it that may be damaged."""
    return Path(shutil.copytree(confirmed, tmp_path / "results"))


@pytest.fixture(autouse=True)
def _only_read(monkeypatch):
    """An export reads all that it needs and writes its source; how it proves what it wrote is tested elsewhere."""

    def export(architecture, weights, *, origin, **_):
        model_source(architecture, origin).encode()

    monkeypatch.setattr("nas.commands.export.export", export)


def restore(confirmed, copied):
    for path in copied.glob("studies.db*"):
        path.unlink()
    shutil.copyfile(confirmed / "studies.db", copied / "studies.db")


def told(error):
    text = str(error)
    assert text
    assert text.isprintable(), text
    assert len(text) < 2000


def read_all(results, output):
    """Every reader of a study, each for itself: what they raise is a `StudyError`, and of what is whole nothing."""

    def listed():
        records = StudyRecords.open(StudyRef(results))
        rows = [row.to_json() for row in records.trials()]
        json.dumps(rows)
        records.pareto()
        records.tally()
        records.discards()

    def judged():
        kept = ConfirmedRecords(StudyRecords.open(StudyRef(results)))
        kept.openings()
        kept.keep_test(1, "")
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
            told(error)
            refused.append(str(error))
    return refused


# Attributes


TABLES = {
    "study_user_attributes": "value_json",
    "study_system_attributes": "value_json",
    "trial_user_attributes": "value_json",
    "trial_system_attributes": "value_json",
}
OURS = """
    (key IN ('settings', 'dataset_note', 'normalisation', 'classes', 'confirmed', 'outcome', 'reason', 'fingerprint',
             'candidate', 'num_draws', 'seed', 'seconds', 'consistent_accuracy', 'params', 'macs', 'receptive_field',
             'peak_activation_bytes', 'weight_bytes') OR key LIKE 'nas:%')
"""


def attributes(results):
    """Table, id, key and value of everything that we store, of each key of each table the first and the last."""
    with closing(sqlite3.connect(results / "studies.db")) as database:
        found = []
        for table, column in TABLES.items():
            of = f"SELECT key, min({table}.{table[:5]}_id) AS low, max({table}.{table[:5]}_id) AS high FROM {table}"
            for key, *ids in database.execute(f"{of} WHERE {OURS} GROUP BY key"):
                for owner in sorted(set(ids)):
                    where = f"{table[:5]}_id = ? AND key = ?"
                    ((value,),) = database.execute(f"SELECT {column} FROM {table} WHERE {where}", (owner, key))
                    found.append((table, owner, key, json.loads(value)))
    return found


def change(results, table, owner, key, text):
    """Puts another text in place of an attribute's, or takes it away."""
    with closing(sqlite3.connect(results / "studies.db")) as database:
        where = f"{table[:5]}_id = ? AND key = ?"
        if text is None:
            database.execute(f"DELETE FROM {table} WHERE {where}", (owner, key))
        else:
            database.execute(f"UPDATE {table} SET {TABLES[table]} = ? WHERE {where}", (text, owner, key))
        database.commit()


@MANY
@given(data=st.data())
def test_a_study_with_a_damaged_attribute_is_read_or_refused(confirmed, copied, data):
    restore(confirmed, copied)
    table, owner, key, value = data.draw(st.sampled_from(attributes(confirmed)))
    texts = st.builds(json.dumps, damaged(value) | anything) | st.sampled_from(["", "{", "nul", "\0", "[" * 100_000])
    change(copied, table, owner, key, data.draw(texts))
    read_all(copied, copied / "model")


def test_a_study_that_lacks_an_attribute_is_read_or_refused(confirmed, copied):
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
        ("settings", "[]", "settings: [], allowed: an object"),
        ("settings", "{}", "settings: consistency, constraints, data_fingerprint, dataset, epochs, seed, space"),
        ("normalisation", '{"mean": [0.1], "std": [0]}', "normalisation: std[0]: 0, allowed: a number above 0"),
        ("classes", '["a", 1]', "classes[1]: 1, allowed: a text"),
        ("nas:discards", '{"params": -1}', "discards: params: -1, allowed: a whole number of at least 0"),
        ("nas:architecture", '{"version": 2}', "architecture: input_shape, layers is missing"),
        ("nas:recipe", '{"epochs": 0}', "recipe: epochs is 0, allowed: a whole number of at least 1"),
        ("nas:history", "[]", "history: [], allowed: an epoch or more"),
        ("nas:history", "[{}]", "history[0]: epoch, learning_rate, seconds, train_accuracy"),
        ("nas:openings", "[{}]", "nas:openings[0]: date, finalists, seeds, trial is missing"),
        ("nas:weights", '"../studies.db"', "'../studies.db', allowed: the name of a file in it"),
        ("confirmed", '{"trial": 0}', "confirmed: accuracies, dataset, num_images"),
    ],
)
def test_the_place_is_named(confirmed, copied, key, text, error):
    for table, owner, name, _ in attributes(confirmed):
        if name == key:
            change(copied, table, owner, key, text)
    refused = read_all(copied, copied / "model")
    assert any(error in text for text in refused), refused


def test_a_study_whose_row_is_gone_is_not_made_anew(copied):
    """What is left of it is in the new one's way."""
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
def test_a_study_with_a_damaged_row_is_read_or_refused(confirmed, copied, data):
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
        except sqlite3.IntegrityError:  # the database itself does not take it
            return
        database.commit()
    read_all(copied, copied / "model")


@FEW
@given(data=st.data())
def test_a_damaged_database_file_is_read_or_refused(confirmed, copied, data):
    restore(confirmed, copied)
    whole = (confirmed / "studies.db").read_bytes()
    (copied / "studies.db").write_bytes(data.draw(damaged_bytes(whole)))
    read_all(copied, copied / "model")


@pytest.mark.parametrize("content", [b"a text\n" * 100, b"SQLite format 3\0", b"SQLite format 3\0" + b"\xff" * 4096])
def test_what_is_no_database_is_refused(tmp_path, content):
    (tmp_path / "studies.db").write_bytes(content)
    with pytest.raises(StudyError, match=r"studies\.db: not a database that can be used"):
        StudyRecords.open(StudyRef(tmp_path))


def test_a_study_of_another_program_is_refused(tmp_path):
    study = optuna.create_study(study_name="search", storage=default_storage(tmp_path))
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    refused = read_all(tmp_path, tmp_path / "model")
    assert refused
    assert all("study 'search' was not made by nas" in text for text in refused)


def test_a_trial_of_another_program_is_refused(copied):
    study = optuna.load_study(study_name="search", storage=default_storage(copied))
    study.add_trial(optuna.trial.create_trial(value=0.5))
    number = len(study.trials) - 1
    refused = read_all(copied, copied / "model")
    assert refused
    assert all(f"study 'search': trial {number}: " in text for text in refused)


# Weights


class Touch:
    """What a pickle of it does where pickles are run."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def saved(value):
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def zipped(entries, compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return file.getvalue()


@pytest.fixture(scope="module")
def stored(confirmed):
    """The best trial's artifact: its name, bytes, state dict and architecture."""
    records = StudyRecords.open(StudyRef(confirmed))
    (best,) = records.best(1)
    name = records.study.get_trials(deepcopy=False)[best.number].system_attrs[f"{PREFIX}weights"]
    return name, (confirmed / "artifacts" / name).read_bytes(), records.weights(best.number), best.architecture


@pytest.fixture
def put(stored, tmp_path):
    """Reads weights from a folder where the artifact holds other bytes."""
    artifacts = Artifacts(tmp_path)
    artifacts.prepare()

    def read(data):
        (artifacts.folder / stored[0]).write_bytes(data)
        return artifacts.download(stored[0], "the weights", stored[3])

    return read


def test_weights_as_they_were_stored_are_read(put, stored):
    state = put(stored[1])
    assert all(torch.equal(state[name], value) for name, value in stored[2].items())


@settings(MANY, max_examples=200)
@given(data=st.data())
def test_damaged_weights_are_refused_or_the_same(put, stored, data):
    changed = data.draw(damaged_bytes(stored[1]) | st.binary(max_size=200))
    try:
        state = put(changed)
    except StudyError as error:
        told(error)
        return
    # A date in the archive, for instance: no byte of the weights.
    assert state.keys() == stored[2].keys()
    assert all(torch.equal(state[name], value) for name, value in stored[2].items())


def test_a_state_dict_of_anything_else_is_refused(put, stored):
    state = stored[2]
    first = next(iter(state))
    others = {
        "list found": [1, 2],
        "Tensor found": torch.zeros(3),
        "dict found": {**state, first: [1.0]},
        "in one alone of the file and the network": {key: value for key, value in state.items() if key != first},
        "extra in one alone": {**state, "extra": torch.zeros(1)},
        "'a\\nb' in one alone": {**state, "a\nb": torch.zeros(1)},
        f"{first} is torch.float64": {**state, first: state[first].double()},
        f"{first} is torch.float32 (1,), allowed": {**state, first: torch.zeros(1)},
        f"{first} holds nan": {**state, first: state[first] * torch.nan},
    }
    for reason, value in others.items():
        with pytest.raises(StudyError) as caught:
            put(saved(value))
        told(caught.value)
        assert reason in str(caught.value)


def test_no_code_in_weights_is_run(put, tmp_path):
    touched = tmp_path / "touched"
    plain = pickle.dumps(Touch(touched))
    archive = zipped({"archive/data.pkl": plain, "archive/version": b"3", "archive/byteorder": b"little"})
    for data in (plain, saved(Touch(touched)), saved({"a": Touch(touched)}), archive):
        with pytest.raises(StudyError, match="damaged, it held the weights"):
            put(data)
    assert not touched.exists()
    assert os.system(f"touch {touched}") == 0  # what it would have done
    assert touched.exists()


@settings(MANY, max_examples=200)
@given(data=st.data())
def test_an_archive_with_any_pickle_is_refused(put, stored, data):
    """Its checksums right, so that torch's unpickler sees it."""
    with zipfile.ZipFile(io.BytesIO(stored[1])) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    (name,) = [name for name in entries if name.endswith("data.pkl")]
    entries[name] = data.draw(damaged_bytes(entries[name]) | st.binary(max_size=50))
    try:
        put(zipped(entries))
    except StudyError as error:
        told(error)


def test_a_bomb_is_not_unpacked(put):
    with pytest.raises(StudyError, match=r"compressed, which torch\.save does not do"):
        put(zipped({"archive/data.pkl": b"\0" * 10**7}, zipfile.ZIP_DEFLATED))


@pytest.mark.parametrize("name", ["", ".", "..", "../studies.db", "/etc/passwd", "a\0b", "x" * 300, "missing"])
def test_an_artifact_of_another_name_is_not_looked_for_elsewhere(stored, tmp_path, name):
    with pytest.raises(StudyError, match="weights"):
        Artifacts(tmp_path).download(name, "the weights", stored[3])


# The command line


def lines(done):
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs a command in this process; its status and what it said of its error."""

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["nas", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, capsys.readouterr().err

    return run


@pytest.mark.parametrize("text", ["[]", '{"a": 1}', "{", json.dumps("\ud800"), "NaN"])
def test_a_damaged_study_is_one_line_for_every_command(copied, command, text):
    (settings_of,) = [found for found in attributes(copied) if found[2] == "settings"]
    change(copied, *settings_of[:3], text)
    for args in (
        ["trials"],
        ["trials", "--format", "csv"],
        ["trials", "--format", "json"],
        ["trials", "--pareto"],
        ["export", "--output", copied / "model"],
        ["report", "--output", copied / "report.html"],
        ["confirm", "--top", 1, "--seeds", 2],
        ["search", "--dataset", "digits", "--max-params", 900],
        ["dashboard", "--port", 0],
    ):
        status, error = command(*args, "--results", copied)
        assert (status, error.count("\n")) == (2, 1), error
        assert error.startswith(f"error: sqlite:///{copied / 'studies.db'}: ")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_behind_the_output_is_one_line(confirmed):
    for args in (["trials"], ["--help"]):
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                [sys.executable, "-m", "nas", *args, *(["--results", confirmed] if "trials" in args else [])],
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
        assert lines(done) == "error: the output cannot be written: No space left on device\n"


def test_a_reader_that_has_left_is_no_traceback(confirmed):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        done = subprocess.run(
            [sys.executable, "-m", "nas", "trials", "--format", "json", "--results", confirmed],
            stdout=pipe,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("name", ["../up", "a/b", "a\nb", "\x1b[31m", "x" * 300, "\udcff"])
def test_a_new_study_is_not_called_just_anything(name, tmp_path, tiny_space):
    with pytest.raises(StudyError) as caught:
        search(max_params=900, dataset="digits", space=tiny_space, results=tmp_path / "r", study=name, **ON_CPU)
    told(caught.value)
    assert "allowed: at most 100 printable characters without /" in str(caught.value)
    assert not (tmp_path / "r").exists()


def test_a_study_may_be_called_as_markup_is_written(copied, command):
    with closing(sqlite3.connect(copied / "studies.db")) as database:
        database.execute("UPDATE studies SET study_name = '[/x]'")
        database.commit()
    assert command("trials", "--results", copied, "--study", "[/x]") == (0, "")


LONG = "x" * 5000


def test_paths_that_cannot_be(tmp_path, command):
    file = tmp_path / "file"
    file.write_text("mine")
    for args in (
        ["trials", "--results", file],
        ["trials", "--results", LONG],
        ["trials", "--storage", f"sqlite:///{LONG}"],
        ["trials", "--study", "\udcff", "--results", tmp_path],
        ["cost", LONG],
        ["cost", f"{LONG}.json"],
        ["cost", tmp_path],
        ["cost", "/dev/zero"] if Path("/dev/zero").exists() else ["cost", tmp_path],
        ["space", "--space", LONG],
        ["train", "mnist-7825", "--recipe", LONG],
        ["train", "mnist-7825", "--dataset", "digits", "--seed", 10**30],
        ["search", "--dataset", "digits", "--max-params", 900, "--results", file],
        ["search", "--dataset", "digits", "--max-params", 900, "--results", tmp_path / "r", "--start-from", LONG],
    ):
        status, error = command(*args)
        assert (status, error.count("\n")) == (2, 1), error
        assert error.startswith("error: ")


@pytest.mark.parametrize(
    "layer",
    [
        {"kind": "conv", "out_channels": 10**12, "kernel_size": 3},
        {"kind": "conv", "out_channels": 1, "kernel_size": 3, "padding": 10**12},
        {"kind": "max_pool", "kernel_size": 2, "stride": 10**12},
    ],
)
def test_a_network_of_absurd_size_is_shown_and_not_trained(layer, tmp_path, command):
    tail = [{"kind": "global_avg_pool"}, {"kind": "flatten"}, {"kind": "linear", "out_features": 10}]
    path = tmp_path / "huge.json"
    path.write_text(json.dumps({"version": 1, "input_shape": [1, 28, 28], "layers": [layer, *tail]}))
    for name in ("cost", "show"):
        assert command(name, path) == (0, "")
    status, error = command("train", path, "--dataset", "digits", "--device", "cpu")
    assert (status, error.count("\n")) == (2, 1), error
    assert error.startswith("error: the architecture cannot be run here: ")


def test_a_large_seed_is_a_seed(tmp_path, tiny_space):
    found = search(
        max_params=900,
        min_receptive_field=10,
        dataset="digits",
        space=tiny_space,
        epochs=1,
        trials=1,
        seed=10**20,
        results=tmp_path,
        **ON_CPU,
    )
    assert StudyRecords.open(StudyRef(tmp_path)).settings.seed == 10**20
    assert found.tally.num_trained == 1
