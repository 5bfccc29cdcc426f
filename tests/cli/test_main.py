"""Commands and their output. An error is one line on standard error with exit status 2; no data is lost."""

import csv
import io
import json
import os
import re
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE

import optuna
import pytest
from support.paths import ROOT

from nas.architecture.architecture import Architecture
from nas.boards import Board
from nas.commands.trials import trials
from nas.exporters.core_test import emulate
from nas.study.reader import StudyRecords
from nas.study.reference import StudyRef

PUBLISHED = ROOT / "search_spaces" / "published"


@pytest.mark.parametrize(
    "command", ["search", "confirm", "space", "cost", "show", "train", "trials", "dashboard", "export", "report"]
)
def test_command_help_contains_example(nas, command):
    status, out, _ = nas(command, "--help")
    assert status == 0
    assert f"Example: nas {command} " in out


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("search", "A study keeps dataset, shipped space, objective, sampler, pruner, portfolio and seed: repeat only"),
        (
            "space",
            "A study keeps its dataset and a shipped space for later commands; nas search needs the limits every",
        ),
        ("train", "No study keeps these options: repeat them for each training, except the recipe in the folder of"),
    ],
)
def test_help_says_what_a_study_keeps(nas, command, sentence):
    assert sentence in " ".join(nas(command, "--help")[1].split())


def test_resumed_search_repeats_limits_and_epochs_only(nas, tmp_path):
    limits = ["--max-params", "2000", "--max-macs", "100k"]
    repeated = ["--epochs", 1, "--results", tmp_path, "--device", "cpu", "--workers", 1]
    kept = ["--space", "mnist_small", "--objective", "accuracy,macs", "--sampler", "random", "--no-portfolio"]
    kept += ["--dataset", "digits", "--seed", 3]
    assert nas("search", *limits, *kept, *repeated, "--trials", 1)[0] == 0
    assert nas("search", *limits, *repeated, "--trials", 2)[0] == 0
    assert "constraints is " in nas("search", *repeated, "--trials", 3)[2]


def test_cost_prints_every_metric(nas):
    status, out, _ = nas("cost", PUBLISHED / "mnist-7825.json", "--json")
    assert status == 0
    assert json.loads(out) == {
        "params": 7825,
        "macs": 1302433,
        "receptive_field": 32,
        "peak_activation_bytes": 68992,
        "weight_bytes": 31948,
        "float_arena_bytes": 56448,
        "int8_arena_bytes": 14112,
        "int8_weight_bytes": 8446,
        "m0_instructions": 28181311,
        "m4_instructions": 16925150,
    }
    assert "params                        7,825\n" in nas("cost", PUBLISHED / "mnist-7825.json")[1]


def test_show_prints_one_line_per_layer(nas):
    status, out, _ = nas("show", PUBLISHED / "mnist-6136.json")
    assert status == 0
    lines = out.splitlines()
    assert lines[0].split() == ["layer", "output", "shape", "parameters", "MACs", "receptive", "field"]
    assert lines[2].split() == ["nn.Conv2d(1,", "8,", "3,", "bias=False)", "8x26x26", "72", "48,672", "3"]
    assert lines[-2] == "6,136 parameters, 918,016 MACs, receptive field 22 pixels"


def test_space_reports_draws_discards_and_limits(nas):
    status, out, _ = nas("space", "--max-params", "8000", "--draws", "300", "--json")
    assert status == 0
    report = json.loads(out)
    assert report["num_draws"] == 300
    assert report["num_feasible"] + sum(report["discards"].values()) == 300
    assert [limit["constraint"] for limit in report["limits"]] == ["params<=8000", "receptive_field>=28"]


def test_space_counts_each_draw_once_and_says_what_smallest_network_is(nas):
    out = nas("space", "--max-params", "8000", "--max-macs", "300k", "--draws", "500")[1]
    report = json.loads(nas("space", "--max-params", "8000", "--max-macs", "300k", "--draws", "500", "--json")[1])
    first, second, third, *limits, within, smallest = out.splitlines()
    kept = int(re.fullmatch(r"space grey: (\d+) of 500 random draws keep the limits \(\d+\.\d\d%\)", first)[1])
    others = re.match(r"the other (\d+) \((.*?)%\), each by the limit that it misses most: ", second)
    assert kept + int(others[1]) == 500
    assert sum(int(count) for count in re.findall(r": (\d+) \(", second)) == int(others[1])
    assert "limit on receptive_field: " in second
    assert third == "each limit alone, whatever the others; a draw of impossible shape keeps none:"
    assert [line.partition(":")[0] for line in limits] == ["  params<=8000", "  receptive_field>=28", "  macs<=300000"]
    params = report["smallest_within_limits"]["params"], report["smallest"]["params"]
    condition = "that keeps receptive_field>=28 and macs<=300000"
    assert within.startswith(f"smallest network found {condition}: {params[0]} parameters, receptive field ")
    assert smallest.startswith(
        f"smallest network found if limits are ignored: {params[1]} parameters, receptive field "
    )


def test_space_takes_input_shape_from_dataset(nas, tiny_space):
    small = Path(tiny_space)
    small.write_text(f"input_shape = [3, 12, 12]\nnum_classes = 2\n{small.read_text()}")
    own, of_digits = (
        json.loads(nas("space", "--space", small, "--draws", "100", "--json", *more)[1])
        for more in ([], ["--dataset", "digits"])
    )
    assert [report["limits"][0]["constraint"] for report in (own, of_digits)] == [
        "receptive_field>=12",
        "receptive_field>=28",
    ]
    assert nas("space", "--dataset", "mnits")[::2] == (2, nas("search", "--dataset", "mnits")[2])


def test_trials_prints_json_csv_and_table(nas, study_folder):
    status, out, _ = nas("trials", "--results", study_folder, "--format", "json")
    assert status == 0
    rows = json.loads(out)
    assert [row["number"] for row in rows] == list(range(len(rows)))
    wanted = {"number", "state", "objective", "consistent_accuracy", "params", "macs", "receptive_field", "reason"}
    assert all(wanted <= row.keys() for row in rows)
    assert {row["state"] for row in rows} == {"COMPLETE", "PRUNED"}
    _, out, _ = nas("trials", "--results", study_folder, "--format", "csv")
    table = list(csv.DictReader(io.StringIO(out)))
    assert [int(row["number"]) for row in table] == [row["number"] for row in rows]
    assert [row["params"] for row in table] == ["" if row["params"] is None else str(row["params"]) for row in rows]
    _, out, _ = nas("trials", "--results", study_folder)
    assert out.startswith("dataset digits: named by the user\n")
    assert sum("%" in line for line in out.splitlines()) == 2
    num_stored = sum(row["outcome"] == "discarded" for row in rows)
    gaps = f"the first {num_stored} stored as trials, so trial numbers have gaps"
    assert num_stored > 0
    assert out.splitlines()[-1].endswith(f", {gaps}")
    _, out, _ = nas("trials", "--results", study_folder, "--discards")
    assert gaps not in out
    assert "impossible shape" in out or "limit on receptive_field" in out


def test_trials_of_empty_study_prints_no_rows(nas, tmp_path, tiny_space):
    (tmp_path / "artifacts").write_text("in the way")  # the search creates the study, then stops
    given = ["--dataset", "digits", "--space", tiny_space, "--min-receptive-field", "10", "--results", tmp_path]
    assert nas("search", *given)[0] == 2
    assert nas("trials", "--results", tmp_path, "--format", "json")[:2] == (0, "[]\n")
    status, out, _ = nas("trials", "--results", tmp_path, "--format", "csv")
    assert status == 0
    assert out.startswith("number,state,outcome,objective,consistent_accuracy,params,")
    assert out.count("\n") == 1
    assert nas("trials", "--results", tmp_path)[0] == 0


def test_search_prints_fallback_first_and_next_command_last(nas, tmp_path, tiny_space):
    given = ["--space", tiny_space, "--epochs", "1", "--trials", "1", "--max-params", "900"]
    given += ["--min-receptive-field", "10", "--results", tmp_path / "results", "--device", "cpu"]
    status, out, err = nas("search", *given)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("dataset digits: MNIST is neither in ")
    assert lines[0].endswith("using scikit-learn's digits (1,797 real 8x8 scans, scaled to 28x28)")
    assert lines[-1] == f"  nas export --results {tmp_path / 'results'}"
    status, out, _ = nas("search", *given, "--quiet")
    assert status == 0
    assert out.startswith("1 of 1 trained, ")


def test_next_export_names_board_of_search(nas, tmp_path, tiny_space):
    named = ["--results", tmp_path / "results"]
    given = ["--space", tiny_space, "--dataset", "digits", "--epochs", 1, "--trials", 1, "--min-receptive-field", 10]
    here = ["--device", "cpu", "--workers", 1, *named]
    assert nas("search", *given, *here, "--board", "pico")[1].splitlines()[-5:] == [
        *(f"  nas {command} --results {named[1]}" for command in ("trials", "dashboard", "report", "confirm")),
        f"  nas export --board pico --results {named[1]}",
    ]
    confirmed = nas("confirm", "--top", 1, "--seeds", 2, *here)[1]
    assert confirmed.splitlines()[-1] == f"  nas export --trial confirmed --board pico --results {named[1]}"
    nas("report", *named, "--output", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert f"nas export --trial confirmed --board pico --results {named[1]}" in page
    notes = StudyRecords.open(StudyRef(named[1])).notes
    assert notes.board_limits == tuple(f"{metric}<={bound}" for metric, bound in Board.load("pico").bounds().items())


@pytest.mark.slow
def test_train_with_exported_recipe_reproduces_accuracy(nas, tmp_path):
    file = PUBLISHED / "mnist-3928.json"
    status, out, _ = nas(
        "train", file, "--dataset", "digits", "--epochs", "1", "--set", "batch_size=256", "--output", tmp_path / "model"
    )
    assert status == 0
    lines = out.splitlines()
    assert lines[2].startswith("epoch  1/1  train loss ")
    assert re.fullmatch(r"Val accuracy: final [0-9.]+% \(seed 0\)\.", lines[3])
    assert json.loads((tmp_path / "model" / "recipe.json").read_text())["batch_size"] == 256
    again = nas("train", file, "--dataset", "digits", "--recipe", tmp_path / "model" / "recipe.json")[1]
    assert again.splitlines()[3] == lines[3]  # same seed and recipe


@pytest.mark.parametrize(
    ("named", "options", "line"),
    [
        ("default/net.json", [], "recipe (default): epochs 1, optimizer sgd, learning_rate 0.1, momentum 0.9, "),
        ("own", [], f"recipe ({Path('own') / 'recipe.json'}): epochs 1, optimizer adam, learning_rate 0.01, momentum"),
        ("own/architecture.json", ["--recipe", "other.json"], "recipe (other.json): epochs 1, optimizer adamw, "),
        ("own", ["--set", "batch_size=100"], f"recipe ({Path('own') / 'recipe.json'}, batch_size=100): epochs 1, "),
    ],
)
def test_train_prints_recipe_and_its_source(nas, tmp_path, monkeypatch, named, options, line):
    monkeypatch.chdir(tmp_path)
    text = Architecture.load("nas-897").dumps()
    for file in ("default/net.json", "own/architecture.json"):
        Path(file).parent.mkdir()
        Path(file).write_text(text)
    Path("own/recipe.json").write_text('{"optimizer": "adam", "learning_rate": 0.01}')
    Path("other.json").write_text('{"optimizer": "adamw"}')
    status, out, _ = nas("train", named, "--dataset", "digits", "--epochs", 1, *options)
    assert status == 0
    assert out.splitlines()[1].startswith(line)


@pytest.mark.parametrize("command", ["cost", "show"])
def test_network_is_named_by_row_of_leaderboard_or_folder(nas, command):
    (by_name, by_folder) = (nas(command, named) for named in ("nas-7840", ROOT / "results" / "models" / "nas-7840"))
    assert by_name == by_folder
    assert "7,840" in by_name[1]


def test_train_with_test_option_prints_test_accuracy(nas):
    out = nas("train", PUBLISHED / "mnist-3928.json", "--dataset", "digits", "--epochs", "1", "--test")[1]
    assert "  test loss " in out
    assert "Test accuracy: final " in out


@pytest.mark.slow
def test_train_writes_extra_formats_of_export(nas, tmp_path):
    given = ["train", PUBLISHED / "mnist-3928.json", "--dataset", "digits", "--epochs", "1"]
    assert nas(*given, "--output", tmp_path / "model", "--format", "c", "--format", "int8")[0] == 0
    assert {"network.c", "network.h", "model_int8.onnx"} <= {path.name for path in (tmp_path / "model").iterdir()}


def test_train_refuses_network_that_misses_limits_of_board(nas, tmp_path):
    missed = "int8_arena_bytes is 14112, expected int8_arena_bytes<=384; int8_weight_bytes is 8446, expected"
    text = f"error: --board arduino-uno: {missed} int8_weight_bytes<=4096\n"
    for seeds in (1, 2):
        given = ["mnist-7825", "--dataset", "digits", "--seeds", seeds, "--output", tmp_path / "model"]
        assert nas("train", *given, "--board", "arduino-uno") == (2, "", text)
    assert list(tmp_path.iterdir()) == []


def test_train_for_board_states_verdict_and_exports_int8_code(nas, tmp_path, monkeypatch):
    monkeypatch.setattr(emulate, "EMULATOR", "no-such-emulator")
    given = ["nas-897", "--dataset", "digits", "--epochs", 1, "--set", "batch_size=256", "--board", "pico"]
    status, out, err = nas("train", *given, "--output", tmp_path / "model")
    assert (status, err) == (0, "")
    verdict = "Board pico: the network fits: 3,175 bytes of constants, at most 1,041,920; 7,840 bytes of arena, at most"
    lines = out.splitlines()
    assert [line.startswith(verdict) for line in (lines[2], lines[-1])] == [True, True]
    assert (tmp_path / "model" / "network_int8.c").exists()
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert "| `int8_weight_bytes<=1041920` (board pico) | 3,175 |" in card


def test_train_with_format_but_without_output_is_rejected(nas):
    text = "error: --format c --format int8: only for an export; give --output, too\n"
    assert nas("train", PUBLISHED / "mnist-3928.json", "--format", "c", "--format", "int8") == (2, "", text)


@pytest.mark.slow
def test_train_with_several_seeds_prints_runs_and_verdict(nas, tmp_path):
    model = tmp_path / "model"
    given = ["train", PUBLISHED / "mnist-3928.json", "--dataset", "digits", "--epochs", "2", "--set", "batch_size=256"]
    status, out, _ = nas(*given, "--seeds", "2", "--seed", "5", "--target", "0.9", "--output", model)
    assert status == 0
    for seed in (5, 6):
        assert re.search(rf"^seed {seed}: val final [0-9.]+%, mean of the last 2 epochs ", out, re.MULTILINE)
    assert "Val accuracy by epoch" in out
    assert "Target missed: 0 of 2 seeds keep at least 90.00% in each of the last 2 epochs." in out
    assert "Target missed: 0 of 2 seeds" in (model / "README.md").read_text()
    said = json.loads(nas(*given, "--seeds", "2", "--seed", "5", "--json")[1])
    assert (said["seeds"], said["params"], len(said["accuracies"])) == ([5, 6], 3928, 2)
    alone = json.loads(nas(*given, "--seed", "6", "--json")[1])
    assert alone["accuracies"] == said["accuracies"][1:]


@pytest.mark.slow
def test_diverged_training_is_not_exported(nas, tmp_path):
    given = ["train", PUBLISHED / "mnist-3928.json", "--dataset", "digits", "--epochs", "1", "--set"]
    status, _, err = nas(*given, "learning_rate=1e38", "--seeds", "2", "--output", tmp_path / "model")
    assert status == 2
    assert "the training with seed 0 diverged" in err
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("module", "arguments", "text"),
    [
        (
            "pyarrow",
            ["report", "--format", "parquet"],
            "--format parquet: pyarrow is not installed; run pip install 'smallnas[parquet]'",
        ),
        (
            "pyarrow",
            ["report", "--output", "trials.parquet"],
            "--output trials.parquet: pyarrow is not installed; run pip install 'smallnas[parquet]'",
        ),
        (
            "ray",
            ["search", "--ray", "auto", "--dataset", "digits"],
            "--ray: Ray is not installed; run pip install 'smallnas[ray]'",
        ),
        (
            "psycopg",
            ["search", "--storage", "postgresql+psycopg://me@host/studies", "--dataset", "digits"],
            "postgresql+psycopg://me@host/studies: the driver of this database is not installed;"
            " run pip install 'smallnas[postgres]' and use a URL postgresql+psycopg://…",
        ),
    ],
)
def test_missing_extra_is_reported_before_anything_is_written(nas, tmp_path, monkeypatch, module, arguments, text):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.chdir(tmp_path)
    assert nas(*arguments) == (2, "", f"error: {text}\n")
    assert list(tmp_path.iterdir()) == []


BAD_JSON = PUBLISHED.parent / "mnist.toml"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["search", "--epochs", "0"], "--epochs 0: expected an integer of at least 1"),
        (["search", "--trials", "0"], "--trials 0: expected an integer of at least 1"),
        (["search", "--seed", "-1"], "--seed -1: expected an integer of at least 0"),
        (["search", "--max-params", "0"], "--max-params 0: expected an integer of at least 1"),
        (["search", "--device", "tpu"], "--device tpu: not available on this machine, expected "),
        (["search", "--storage", "x"], "--storage x: expected a database URL such as sqlite:///results/studies.db"),
        (
            ["search", "--storage", "oracle://host/x", "--dataset", "digits"],
            "oracle://host/x: the driver of this database is not installed",
        ),
        (
            ["search", "--space", "mnits"],
            "search space 'mnits' is unknown (did you mean mnist?), expected one of colour, grey, mnist, mnist_small,"
            " mnist_wide, rgb, or a .toml file",
        ),
        (["search", "--space", "no.toml"], "no.toml: No such file or directory"),
        (["cost", "no.json"], "no.json: No such file or directory"),
        (["cost", BAD_JSON], f"{BAD_JSON}: not JSON (Expecting value: line 1 column 1 (char 0))"),
        (
            ["train", PUBLISHED / "mnist-3928.json", "--set", "speed=3"],
            "--set speed=3: expected FIELD=VALUE with FIELD one of epochs, optimizer, learning_rate, momentum,"
            " weight_decay, schedule, warmup, step_start, step_epochs, step_gamma, average_epochs, batch_size,"
            " label_smoothing, rotation, translation, scale, shear, brightness, contrast, flip",
        ),
        (
            ["train", PUBLISHED / "mnist-3928.json", "--set", "schedule=slow"],
            "--set schedule=slow: expected one of constant, step, cosine, one_cycle",
        ),
        (["trials", "--format", "xml"], "--format xml: expected one of table, csv, json"),
        (
            ["report", "--format", "HTML"],
            "--format HTML (did you mean html?): expected one of html, csv, parquet, json",
        ),
        (
            ["export", "--format", "int7"],
            "--format int7 (did you mean int8?): expected one of int8, c, c-int8, arduino, makefile",
        ),
        (["train", "nas-897", "--format", "onnx"], "--format onnx: expected one of int8, c, c-int8, arduino, makefile"),
        (["export", "--trial", "last"], "--trial last: expected the number of a trial, best or confirmed"),
        (
            ["trials"],
            "results/studies.db: no database found; run `nas search` first, or name another one with --results or"
            " --storage",
        ),
    ],
)
def test_invalid_argument_prints_one_line_and_exits_2(nas, tmp_path, monkeypatch, arguments, text):
    monkeypatch.chdir(tmp_path)
    if arguments[0] == "search":
        arguments = [arguments[0], "--dataset", "digits", *arguments[1:]]
    status, out, err = nas(*arguments)
    assert (status, out) == (2, "")
    # A text that ends in a space goes on with the devices of the machine; all others are complete.
    assert err.startswith(f"error: {text}") if text.endswith(" ") else err == f"error: {text}\n"
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["search", "--trials"], "--trials"),
        (["search", "--max-param", "3"], "--max-params"),
        (["trials", "--quiet"], "--quiet"),
        (["trials", "--discards=3"], "--discards"),
        (["cost"], "file"),
        (["cost", "nas-897", "extra"], "extra"),
        (["cots"], "cost"),
        (["--unknown"], "--unknown"),
    ],
)
def test_unknown_or_missing_argument_prints_one_line_and_exits_2(nas, arguments, named):
    status, out, err = nas(*arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ")
    assert named in err


@pytest.mark.parametrize(
    ("arguments", "known"),
    [
        (["cost", "nas-7320"], "nas-7230"),
        (["search", "--start-from", "nas-7320", "--dataset", "digits"], "nas-7230"),
        (["search", "--board", "pico2", "--dataset", "digits"], "pico-2"),
        (["space", "--space", "mnits"], "mnist"),
        (["search", "--sampler", "elit", "--dataset", "digits"], "elite"),
        (["search", "--pruner", "mean", "--dataset", "digits"], "median"),
        (["search", "--dataset", "digit"], "digits"),
        (["train", "nas-897", "--set", "rotations=7"], "rotation"),
    ],
)
def test_misspelt_name_brings_suggestion(nas, tmp_path, monkeypatch, arguments, known):
    monkeypatch.chdir(tmp_path)
    status, _, err = nas(*arguments)
    assert (status, err.count("\n")) == (2, 1)
    assert f" (did you mean {known}?)" in err


def test_explicit_mnist_never_falls_back(nas, tmp_path):
    status, out, err = nas("search", "--dataset", "mnist", "--results", tmp_path / "results")
    assert (status, out) == (2, "")
    assert err.startswith("error: mnist: not found in ")
    assert err.count("\n") == 1
    assert not (tmp_path / "results").exists()


def test_damaged_database_is_reported_and_left_unchanged(nas, study_folder, tmp_path):
    whole = (study_folder / "studies.db").read_bytes()
    # Only the first page is intact.
    torn = whole[:4096] + bytes(len(whole) // 2)
    for content in (b"not a database at all", torn):
        (tmp_path / "studies.db").write_bytes(content)
        for command in (["trials"], ["export"], ["search", "--dataset", "digits"]):
            status, out, err = nas(*command, "--results", tmp_path)
            assert (status, out) == (2, "")
            assert err.startswith(f"error: {tmp_path / 'studies.db'}: ")
            assert err.count("\n") == 1
        assert (tmp_path / "studies.db").read_bytes() == content


def test_study_of_other_tool_is_rejected(nas, tmp_path):
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    study = optuna.create_study(study_name="search", storage=url)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    for command in (["trials"], ["export"], ["search", "--dataset", "digits"]):
        status, _, err = nas(*command, "--results", tmp_path)
        assert status == 2
        assert err == f"error: {url}: study 'search' was not made by nas; give another --study\n"


def test_unknown_study_error_lists_existing_studies(nas, study_folder):
    status, _, err = nas("trials", "--results", study_folder, "--study", "x")
    assert (status, err) == (
        2,
        f"error: sqlite:///{study_folder / 'studies.db'}: no study 'x' found, expected search\n",
    )


def test_unwritable_results_folder_is_reported(nas, tmp_path, tiny_space):
    (tmp_path / "file").write_text("mine")
    given = ["--dataset", "digits", "--space", tiny_space, "--min-receptive-field", "10"]
    status, _, err = nas("search", *given, "--results", tmp_path / "file")
    assert (status, err.count("\n")) == (2, 1)
    assert err.startswith(f"error: {tmp_path / 'file'}")
    assert (tmp_path / "file").read_text() == "mine"


def test_database_uses_wal_mode(study_folder):
    connection = sqlite3.connect(study_folder / "studies.db")
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()
    assert len(trials(results=study_folder)) > 2


@pytest.mark.slow
@pytest.mark.parametrize("is_ignored", [False, True])
def test_hangup_during_export_leaves_no_partial_files(study_folder, tmp_path, is_ignored):
    """The export continues if SIGHUP is ignored, as under `nohup`. The fake compiler signals that the export runs."""
    told, place = tmp_path / "told", tmp_path / "place"
    place.mkdir()
    os.mkfifo(told)
    (tmp_path / "cc").write_text(f'#!/bin/sh\necho > "{told}"\nexec "{shutil.which("cc")}" "$@"\n')
    (tmp_path / "cc").chmod(0o755)
    command = [sys.executable, "-m", "nas", "export", "--results", study_folder, "--format", "c"]
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": os.getcwd()}
    pipe = os.open(told, os.O_RDWR)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if is_ignored else signal.SIG_DFL)
    try:
        run = subprocess.Popen(
            [*command, "--output", place / "model"], env=environment, text=True, stdout=PIPE, stderr=PIPE
        )
    finally:
        signal.signal(signal.SIGHUP, before)
    with run:
        heard, _, _ = select.select([pipe], [], [], 300)
        run.send_signal(signal.SIGHUP)
        _, err = run.communicate()
    os.close(pipe)
    assert heard, err
    assert run.returncode == (0 if is_ignored else 130), err
    assert [path.name for path in place.iterdir()] == ["model"] * is_ignored
