"""`python -m nas` and golden files, for the tests in tests/behaviour.

A golden file contains the output of the package when the file was written. To update golden files on purpose:

    NAS_UPDATE_GOLDEN=1 python -m pytest tests/behaviour

Then read `git diff tests/behaviour tests/fixtures`: each changed line is a change for users.
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
    """Result of a command line."""

    status: int
    out: str
    err: str

    @property
    def json(self):
        """Standard output of a successful command, parsed as one JSON document."""
        assert self.status == 0, self.err
        return json.loads(self.out)

    @property
    def events(self):
        """Standard output of a successful command, parsed as one JSON document per line."""
        assert self.status == 0, self.err
        return [json.loads(line) for line in self.out.splitlines()]


def nas(*arguments, out=None):
    """Runs `python -m nas` in this process, because a new one takes seconds to import torch and Optuna.

    `out`: stream for standard output; default: a text buffer.
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
    """Returns the parsed JSON of a file."""
    return json.loads(path.read_text())


def assert_golden(path, found, *, entry=None):
    """Compares `found` with a golden file or one of its entries; first writes it if `UPDATE` is set."""
    found = json.loads(json.dumps(found))  # as JSON reads it back: tuples become lists
    if UPDATE:
        kept = found if entry is None else {**(read(path) if path.exists() else {}), entry: found}
        path.write_text(json.dumps(kept, indent=1, ensure_ascii=False, sort_keys=True) + "\n")
    golden = read(path)
    assert found == (golden if entry is None else golden.get(entry)), f"not as in {path.name}; see {__file__}"


def assert_golden_entries(path, entries):
    """Compares the entry names of a golden file with `entries`; first removes others if `UPDATE` is set."""
    if UPDATE and path.exists():
        kept = {name: value for name, value in read(path).items() if name in entries}
        path.write_text(json.dumps(kept, indent=1, ensure_ascii=False, sort_keys=True) + "\n")
    assert sorted(read(path)) == sorted(entries)
