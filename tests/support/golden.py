"""The package seen from outside, for the tests in tests/behaviour: `python -m nas`, and golden files.

A golden file holds what the package did when the file was written. To write them again on purpose:

    NAS_UPDATE_GOLDEN=1 python -m pytest tests/behaviour

then read `git diff tests/behaviour tests/fixtures`: each line of it is a change that users see.
"""

import contextlib
import io
import json
import os
import runpy
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).parents[1]
BEHAVIOUR = TESTS / "behaviour"
STUDY = TESTS / "fixtures" / "study"
UPDATE = os.environ.get("NAS_UPDATE_GOLDEN") == "1"

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@dataclass(frozen=True)
class Run:
    """What a command line came to."""

    status: int
    out: str
    err: str

    @property
    def json(self):
        """Standard output of a command that ended well, read as one JSON document."""
        assert self.status == 0, self.err
        return json.loads(self.out)

    @property
    def events(self):
        """Standard output of a command that ended well, read as a JSON document a line."""
        assert self.status == 0, self.err
        return [json.loads(line) for line in self.out.splitlines()]


def nas(*arguments, out=None):
    """`python -m nas` with these arguments, in this process: a new one takes seconds to import torch and Optuna.

    `out`: the stream to print to, a text buffer unless one is given.
    """
    out, err = out or io.StringIO(), io.StringIO()
    before = sys.argv, sys.excepthook, [signal.getsignal(each) for each in SIGNALS]
    sys.argv = ["nas", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = _status()
    finally:
        sys.argv, sys.excepthook, handlers = before
        for each, handler in zip(SIGNALS, handlers, strict=True):
            signal.signal(each, handler)
    return Run(status, out.getvalue(), err.getvalue())


def _status():
    try:
        runpy.run_module("nas", run_name="__main__")
    except SystemExit as stop:
        return stop.code or 0
    return 0


def read(path):
    """The JSON in a file."""
    return json.loads(path.read_text())


def assert_golden(path, found, *, entry=None):
    """Holds what was found against a golden file, or against one entry of it; or writes it, if told to."""
    found = json.loads(json.dumps(found))  # as it reads back: tuples are lists
    if UPDATE:
        kept = found if entry is None else {**(read(path) if path.exists() else {}), entry: found}
        path.write_text(json.dumps(kept, indent=1, ensure_ascii=False, sort_keys=True) + "\n")
    golden = read(path)
    assert found == (golden if entry is None else golden.get(entry)), f"not as in {path.name}; see {__file__}"


def assert_golden_entries(path, entries):
    """Holds the names of a golden file's entries against those that tests look at; or removes others, if told to."""
    if UPDATE and path.exists():
        kept = {name: value for name, value in read(path).items() if name in entries}
        path.write_text(json.dumps(kept, indent=1, ensure_ascii=False, sort_keys=True) + "\n")
    assert sorted(read(path)) == sorted(entries)
