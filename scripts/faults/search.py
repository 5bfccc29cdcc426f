"""Runs `nas` commands for the fault campaign and tracks their events, processes and exit status."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

ROOT = Path(__file__).parents[2]
SPACE = ROOT / "tests" / "fixtures" / "tiny.toml"
TRIALS, EPOCHS, WORKERS = 6, 3, 2
BEGUN, SEARCHING = "Begun", "SearchStarted"  # events from which the time of a strike is counted
HANG_SECONDS = 300.0  # seconds after which a command counts as hung

Start = Callable[..., "subprocess.Popen[str]"]


@dataclass(kw_only=True)
class Place:
    """Folder, study and random generator of one run.

    Attributes:
        folder: Folder of the run.
        study: Name of its study.
        rng: Random generator for the run's decisions.
        lengths: Seconds from each event to the end of an undisturbed search.
        server: PostgreSQL server; None for SQLite.
        workers: Number of worker processes of a search.
        attempts: Commands that the run has started.
    """

    folder: Path
    study: str
    rng: Random
    lengths: Mapping[str, float]
    server: Any = None
    workers: int = WORKERS
    attempts: list["Attempt"] = field(default_factory=list)

    @property
    def results(self) -> Path:
        return self.folder / "results"

    @property
    def exported(self) -> Path:
        return self.folder / "model"

    @property
    def of_study(self) -> dict[str, Any]:
        return {
            "results": self.results,
            "storage": self.server.url if self.server else f"sqlite:///{self.results / 'studies.db'}",
            "study": self.study,
        }

    def search(self, *arguments: object, workers: int | None = None, start: Start = subprocess.Popen) -> "Attempt":
        """Starts or resumes the search; the command is the same each time."""
        limited = ("--space", SPACE, "--max-params", 900, "--min-receptive-field", 10)
        given = ("--epochs", EPOCHS, "--trials", TRIALS, "--workers", workers or self.workers)
        return self.begin(
            "search",
            "--json",
            "--dataset",
            "digits",
            *limited,
            *given,
            *(arguments or ("--device", "cpu")),
            start=start,
        )

    def export(self) -> "Attempt":
        """Starts an export of the best network."""
        return self.begin("export", "--output", self.exported)

    def begin(self, command: str, *arguments: object, start: Start = subprocess.Popen) -> "Attempt":
        """Starts a `nas` command on the run's study."""
        study = [word for name, value in self.of_study.items() for word in (f"--{name}", str(value))]
        words = [sys.executable, "-m", "nas", command, *study, *map(str, arguments)]
        self.attempts.append(Attempt(words, start=start))
        return self.attempts[-1]


class Attempt:
    """Command in its own session. A thread reads its events as it prints them.

    A last line that was cut off by a kill is ignored.
    """

    def __init__(self, command: Sequence[str], *, start: Start = subprocess.Popen) -> None:
        self.reached = {BEGUN: time.monotonic()}  # when each event was first printed
        self.has_ended = False
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed in `wait`
        self.events: list[dict[str, Any]] = []
        self.foreign: list[str] = []  # lines that are not JSON
        self.process = start(command, stdout=subprocess.PIPE, stderr=self._errors, text=True, start_new_session=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                self.events.append(json.loads(line))
                self.reached.setdefault(self.events[-1]["event"], time.monotonic())
            except json.JSONDecodeError:
                self.foreign.append(line)

    def has_printed(self, name: str) -> bool:
        """Returns whether the command has printed an event of that name."""
        return name in self.reached

    def lives_until(self, happened: Callable[[], bool]) -> bool:
        """Waits until `happened()` is true; returns False if the command ends or hangs first."""
        end = time.monotonic() + HANG_SECONDS
        while self.process.poll() is None and time.monotonic() < end:
            if happened():
                return True
            time.sleep(0.01)
        return False

    def lives_at(self, event: str, seconds: float) -> bool:
        """Waits until `seconds` after an event; returns False if the command ends or hangs first."""
        return self.lives_until(lambda: event in self.reached and time.monotonic() >= self.reached[event] + seconds)

    def length(self, event: str = BEGUN) -> float:
        """Returns the seconds since an event."""
        return time.monotonic() - self.reached[event]

    def process_tree(self) -> dict[int, str]:
        """Returns the command lines of its process and all descendants by process ID, parents before children."""
        parents: dict[int, list[int]] = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):  # the process has ended
                parents.setdefault(int(stat.read_text().rpartition(")")[2].split()[1]), []).append(
                    int(stat.parent.name)
                )
        pids = [self.process.pid]
        for pid in pids:
            pids += parents.get(pid, [])
        found = {}
        for pid in pids:
            with suppress(OSError):
                found[pid] = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
        return found

    def kill(self) -> None:
        """Kills its process and all descendants."""
        for pid in self.process_tree():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def wait(self) -> int | None:
        """Waits for the end and returns the exit status; None if the command hung and was killed."""
        status: int | None
        try:
            status = self.process.wait(HANG_SECONDS)
        except subprocess.TimeoutExpired:
            status = None
            self.kill()
            self.process.wait()
        self.has_ended = True
        self._reader.join()
        if self.foreign and status is not None and status < 0:
            self.foreign.pop()  # the line that the kill cut off
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._errors.seek(0)
        self.stderr = self._errors.read()
        self._errors.close()
        self.status = status
        return status

    def ended_with_one_line(self) -> bool:
        """Returns whether it ended as after a user error: status 2 and one line with the reason."""
        lines = self.stderr.splitlines()
        return self.status == 2 and len(lines) == 1 and lines[0].startswith("error: ")
