"""A `nas search` of its own processes, and the place that it works in: what the fault campaign disturbs."""

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
BEGUN, SEARCHING = "Begun", "SearchStarted"  # from when moments count: the command's beginning, or the search's
LIMIT = 300.0  # seconds after which a command that has not ended is taken to hang

Start = Callable[..., "subprocess.Popen[str]"]


@dataclass(kw_only=True)
class Place:
    """What one run has to itself. `lengths`: seconds from an event to the end of an undisturbed search."""

    folder: Path
    study: str
    rng: Random
    lengths: Mapping[str, float]
    server: Any = None  # a PostgreSQL server, None for SQLite
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
        """Begins the search, or goes on with it: the same command each time."""
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
        """Begins an export of the best network."""
        return self.begin("export", "--output", self.exported)

    def begin(self, command: str, *arguments: object, start: Start = subprocess.Popen) -> "Attempt":
        """Begins a command on the run's study."""
        study = [word for name, value in self.of_study.items() for word in (f"--{name}", str(value))]
        words = [sys.executable, "-m", "nas", command, *study, *map(str, arguments)]
        self.attempts.append(Attempt(words, start=start))
        return self.attempts[-1]


class Attempt:
    """A command in a session of its own. What it tells is read as it comes; a line cut short by its death is none."""

    def __init__(self, command: Sequence[str], *, start: Start = subprocess.Popen) -> None:
        self.reached = {BEGUN: time.monotonic()}  # when it first told of each event
        self.has_ended = False
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed in `wait`
        self.events: list[dict[str, Any]] = []
        self.foreign: list[str] = []  # lines that are no events
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

    def heard(self, name: str) -> bool:
        """Whether it has told of such an event."""
        return name in self.reached

    def lives_until(self, happened: Callable[[], bool]) -> bool:
        """Waits for something: whether the command was still alive then."""
        end = time.monotonic() + LIMIT
        while self.process.poll() is None and time.monotonic() < end:
            if happened():
                return True
            time.sleep(0.01)
        return False

    def lives_at(self, event: str, seconds: float) -> bool:
        """Waits until so long after an event: whether it was still alive then."""
        return self.lives_until(lambda: event in self.reached and time.monotonic() >= self.reached[event] + seconds)

    def length(self, event: str = BEGUN) -> float:
        """Seconds since an event."""
        return time.monotonic() - self.reached[event]

    def family(self) -> dict[int, str]:
        """Its processes and theirs, children last, with their command lines."""
        parents: dict[int, list[int]] = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):  # it has ended meanwhile
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
        """Kills all of it."""
        for pid in self.family():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def wait(self) -> int | None:
        """Its exit status; None where it hung and was killed."""
        status: int | None
        try:
            status = self.process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            status = None
            self.kill()
            self.process.wait()
        self.has_ended = True
        self._reader.join()
        if self.foreign and status is not None and status < 0:
            self.foreign.pop()  # the line that it was writing
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._errors.seek(0)
        self.stderr = self._errors.read()
        self._errors.close()
        self.status = status
        return status

    def ended_with_one_line(self) -> bool:
        """Whether it ended as of a user's mistake: status 2, and one line that says why."""
        lines = self.stderr.splitlines()
        return self.status == 2 and len(lines) == 1 and lines[0].startswith("error: ")
