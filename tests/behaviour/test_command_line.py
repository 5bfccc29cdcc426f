"""The user interface stays unchanged: options, public names, exit statuses.

`tests/support/golden.py` explains how to update the golden files.
"""

import enum
import inspect
import io
import json
import os
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import types
import typing
from pathlib import Path

import pytest
import typer
from support.golden import BEHAVIOUR, STUDY, TESTS, assert_golden, assert_golden_entries, nas

import nas as package

# The only import of a module inside the package; adapt it if the app moves.
from nas.cli.main import app  # isort: skip

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = TESTS / "fixtures" / "tiny.toml"


def test_options_types_and_defaults_are_unchanged():
    root = typer.main.get_command(app)
    commands = {"nas": root, **{f"nas {name}": command for name, command in root.commands.items()}}
    found = {name: [describe(param) for param in command.params] for name, command in commands.items()}
    assert_golden(BEHAVIOUR / "options.json", found)


def describe(param):
    """Returns an option or argument as plain data, without its help text."""
    kind, limits = type_of(param.type_descriptor.annotation), {"min": param.min, "max": param.max}
    return {
        "name": param.name,
        "kind": param.param_type_name,
        "flags": param.opts,
        "secondary_flags": param.secondary_opts,
        **kind,
        **{name: limit for name, limit in limits.items() if limit is not None},
        "default": plain(param.default),
        "required": param.required,
        "multiple": getattr(param, "multiple", False),
        "is_flag": getattr(param, "is_flag", False),
    }


def type_of(annotation):
    """Describes a choice by its values, since the name of its class may change."""
    if typing.get_origin(annotation) is list:
        return type_of(typing.get_args(annotation)[0])
    if issubclass(annotation, enum.Enum):
        return {"type": "choice", "choices": [each.value for each in annotation]}
    return {"type": annotation.__name__}


def plain(value):
    """Converts a default to a value that JSON can store."""
    if isinstance(value, enum.Enum):
        return value.value
    return str(value) if isinstance(value, Path) else value


def test_public_names_and_their_parameters_are_unchanged():
    assert_golden(
        BEHAVIOUR / "public_names.json", {name: parameters(getattr(package, name)) for name in package.__all__}
    )


def parameters(thing):
    """Returns the parameters of a function or class as `name` or `name=default`; those after `*` are keyword-only.

    For a module, returns the parameters of its public names; for a union, the names of its classes.
    """
    if inspect.ismodule(thing):
        return {name: parameters(getattr(thing, name)) for name in thing.__all__}
    if isinstance(thing, types.UnionType):
        return " | ".join(kind.__name__ for kind in typing.get_args(thing))
    if isinstance(thing, type) and issubclass(thing, Exception):
        return "error"
    found = []
    for param in inspect.signature(thing).parameters.values():
        if param.kind == param.KEYWORD_ONLY and "*" not in found:
            found.append("*")
        default = "..." if callable(param.default) else repr(plain(param.default))
        found.append(param.name if param.default is param.empty else f"{param.name}={default}")
    return found


ON_DIGITS = "search --dataset digits --space tiny.toml --workers 1 --device cpu"

COMMANDS = [
    "",
    "--help",
    "--version",
    "--unknown",
    "unknown",
    "search --help",
    "search --unknown",
    "search --epochs many",
    "search --dataset unknown",
    "search --dataset mnist",  # not available without a network
    f"{ON_DIGITS} --epochs 0",
    f"{ON_DIGITS} --trials 0",
    f"{ON_DIGITS} --constraint params=900",
    f"{ON_DIGITS} --constraint 'speed<=900'",
    f"{ON_DIGITS} --sampler unknown",
    f"{ON_DIGITS} --pruner unknown",
    f"{ON_DIGITS} --objective unknown",
    f"{ON_DIGITS} --objective accuracy,params --pruner asha",
    f"{ON_DIGITS} --max-params 20",  # no network is that small
    f"{ON_DIGITS} --device unknown",
    f"{ON_DIGITS} --start-from missing.json",
    f"{ON_DIGITS} --storage sqlite://",
    f"{ON_DIGITS} --storage unknown",
    f"{ON_DIGITS} --storage sqlite:///foreign.db",
    f"{ON_DIGITS} --storage sqlite:///damaged.db",
    "search --dataset digits --space unknown",
    "search --dataset digits --space missing.toml",
    "search --dataset digits --space damaged.toml",
    "confirm",
    "confirm --seeds 1 --results study",
    "confirm --target 2 --results study",
    "confirm --top 100 --results study",
    "confirm --top 1 --seeds 2 --results study",  # the test split was opened with other options
    "trials",
    "trials --results study",
    "trials --results study --study unknown",
    "trials --results study --format csv",
    "trials --format unknown",
    "dashboard",
    "dashboard --results study --host 0.0.0.0",
    "report",
    "report --format unknown",
    "report --results study --output report.unknown",
    "report --results study --output report.csv",
    "export",
    "export --trial unknown",
    "export --results study --trial 0",  # a discard
    "export --results study --trial 100",
    "space --space tiny.toml --draws 100",
    "space --space tiny.toml --draws 1",
    "cost",
    "cost mnist-7825",
    "cost missing.json",
    "cost tiny.toml",
    "show mnist-7825",
    "show unknown",
    "train missing.json",
    "train mnist-7825 --seeds 0",
    "train mnist-7825 --set speed=3",
    "train mnist-7825 --set schedule=unknown",
    "train mnist-7825 --recipe missing.json",
    "train mnist-7825 --dataset digits --target 2 --seeds 2",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the files that the commands name."""
    folder = tmp_path_factory.mktemp("commands")
    shutil.copyfile(TINY, folder / "tiny.toml")
    shutil.copytree(STUDY, folder / "study")
    (folder / "damaged.toml").write_text("[network]\nnum_blocks = many\n")
    (folder / "damaged.db").write_text("this is no database")
    with sqlite3.connect(folder / "foreign.db") as database:
        database.execute("CREATE TABLE songs (title TEXT)")
    database.close()
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_exit_status_and_stream_are_unchanged(command, place, monkeypatch):
    monkeypatch.chdir(place)
    run = nas(*shlex.split(command))
    said = {"status": run.status, "on_stdout": bool(run.out), "on_stderr": bool(run.err)}
    assert_golden(BEHAVIOUR / "exit_statuses.json", said, entry=f"nas {command}".strip())


def test_golden_exit_statuses_cover_exactly_these_commands():
    assert_golden_entries(BEHAVIOUR / "exit_statuses.json", [f"nas {command}".strip() for command in COMMANDS])


@pytest.mark.parametrize(
    ("mishap", "debug", "status", "told"),
    [
        ("ZeroDivisionError('by hand')", [], 1, "error: ZeroDivisionError: by hand\n"),
        ("ZeroDivisionError('by hand')", ["--debug"], 1, "Traceback (most recent call last):\n"),
        ("KeyboardInterrupt", [], 130, ""),
    ],
)
def test_unexpected_error_exits_1_and_early_interrupt_130(tmp_path, mishap, debug, status, told):
    """Runs in a separate process in which the import of Optuna raises the error."""
    (tmp_path / "optuna.py").write_text(f"raise {mishap}\n")
    paths = os.pathsep.join([str(tmp_path), str(Path(package.__file__).parents[1])])
    run = subprocess.run(
        [sys.executable, "-m", "nas", *debug, "trials"],
        env={**os.environ, "PYTHONPATH": paths},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout) == (status, "")
    assert run.stderr.startswith(told)


class InterruptedAfterAnEpoch(io.StringIO):
    """A stream that raises SIGINT, like Ctrl-C, when the first epoch is printed to it."""

    done = False

    def write(self, text):
        written = super().write(text)
        if not self.done and text.endswith("\n") and '"EpochFinished"' in self.getvalue():
            self.done = True
            signal.raise_signal(signal.SIGINT)
        return written


def test_interrupted_search_exits_130_and_reports_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(TINY, "tiny.toml")
    limits = "--max-params 900 --min-receptive-field 10 --epochs 3 --trials 2 --json"
    run = nas(*shlex.split(f"{ON_DIGITS} {limits}"), out=InterruptedAfterAnEpoch())
    assert run.status == 130
    assert run.err.count("\n") == 1
    last = json.loads(run.out.splitlines()[-1])
    assert (last["event"], last["interrupted"], last["num_trained"]) == ("SearchFinished", True, 0)
    rows = nas("trials", "--format", "json").json
    assert [row["outcome"] for row in rows if row["outcome"] != "discarded"] == ["interrupted", ""]  # "": queued
