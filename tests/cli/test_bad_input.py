"""Damaged studies, odd names and huge sizes on the command line: one clear line of error, no data lost."""

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from support.damage import assert_clear
from support.stored_attributes import attributes, change

from nas.cli import main as cli
from nas.commands.search import search
from nas.errors import StudyError
from nas.inference import lowering
from nas.study.reader import StudyRecords
from nas.study.reference import StudyRef

pytestmark = pytest.mark.usefixtures("one_thread")


def single_error_line(done):
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs a command in this process; returns its exit status and standard error."""

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["nas", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, capsys.readouterr().err

    return run


@pytest.mark.parametrize("text", ["[]", '{"a": 1}', "{", json.dumps("\ud800"), "NaN"])
def test_every_command_reports_damaged_study_on_one_line(copied, command, text):
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
def test_full_disk_behind_stdout_is_reported_on_one_line(confirmed):
    for args in (["trials"], ["--help"]):
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                [sys.executable, "-m", "nas", *args, *(["--results", confirmed] if "trials" in args else [])],
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
        assert single_error_line(done) == "error: the output cannot be written: No space left on device\n"


def test_broken_pipe_exits_1_with_empty_stderr(confirmed):
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
def test_invalid_study_name_is_rejected(name, tmp_path, tiny_space):
    with pytest.raises(StudyError) as caught:
        search(
            max_params=900,
            dataset="digits",
            space=tiny_space,
            results=tmp_path / "r",
            study=name,
            device="cpu",
            workers=1,
        )
    assert_clear(caught.value)
    assert "expected at most 100 printable characters without /" in str(caught.value)
    assert not (tmp_path / "r").exists()


def test_study_name_that_looks_like_markup_is_accepted(copied, command):
    with closing(sqlite3.connect(copied / "studies.db")) as database:
        database.execute("UPDATE studies SET study_name = '[/x]'")
        database.commit()
    assert command("trials", "--results", copied, "--study", "[/x]") == (0, "")


LONG = "x" * 5000


def test_invalid_path_or_seed_is_reported_on_one_line(tmp_path, command):
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
def test_huge_network_is_shown_but_not_trained(layer, tmp_path, command):
    tail = [{"kind": "global_avg_pool"}, {"kind": "flatten"}, {"kind": "linear", "out_features": 10}]
    path = tmp_path / "huge.json"
    path.write_text(json.dumps({"version": 1, "input_shape": [1, 28, 28], "layers": [layer, *tail]}))
    for name in ("cost", "show"):
        assert command(name, path) == (0, "")
    status, error = command("train", path, "--dataset", "digits", "--device", "cpu")
    assert (status, error.count("\n")) == (2, 1), error
    assert error.startswith("error: the architecture cannot be run on this machine: ")


def test_seed_above_64_bits_is_accepted(tmp_path, tiny_space):
    found = search(
        max_params=900,
        min_receptive_field=10,
        dataset="digits",
        space=tiny_space,
        epochs=1,
        trials=1,
        seed=10**20,
        results=tmp_path,
        device="cpu",
        workers=1,
    )
    assert StudyRecords.open(StudyRef(tmp_path)).settings.seed == 10**20
    assert found.tally.num_trained == 1


def test_export_of_layer_without_c_kernel_exits_2_and_writes_nothing(study_folder, tmp_path, command, monkeypatch):
    monkeypatch.setattr(lowering, "C_KINDS", tuple(kind for kind in lowering.C_KINDS if kind != "conv"))
    status, error = command("export", "--format", "c", "--results", study_folder, "--output", tmp_path / "model")
    assert status == 2
    assert error.startswith("error: --format c: layer kind conv has no C kernel, expected one of "), error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
