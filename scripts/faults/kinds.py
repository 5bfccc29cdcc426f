"""Faults, one class each: the databases they apply to, how they strike, and how a command may end afterwards."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

from support import hosts

from scripts.faults.search import SEARCHING, Attempt, Place

SQLITE, POSTGRESQL = "sqlite", "postgresql"
FAKETIME = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))), None)


class Fault:
    """Fault of one run.

    Attributes:
        name: Name in the results.
        databases: Databases that the fault is tried on.
        every: Number of rounds of the campaign from one use of the fault to the next.
        most_strikes: Maximum number of strikes in one run.
        same_result: Whether the trained candidates must be those of an undisturbed search.
    """

    name = ""
    databases: tuple[str, ...] = (SQLITE, POSTGRESQL)
    every = 1
    most_strikes = 1
    same_result = True

    def __init__(self, place: Place) -> None:
        self.place, self.rng = place, place.rng

    def __enter__(self) -> "Fault":
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    @staticmethod
    def why_not() -> str:
        """Returns why the fault cannot be tried on this machine; empty if it can."""
        return ""

    def begin(self) -> list[Attempt]:
        """Starts and returns the commands to disturb."""
        return [self.place.search()]

    def lives_until_strike(self, attempt: Attempt, since: str, part: float) -> bool:
        """Waits for the time of a strike; returns False if the command ends or hangs first.

        That time is the fraction `part` of an undisturbed search's length, counted from the event `since`.
        """
        return attempt.lives_at(since, part * self.place.lengths[since])

    def strike(self, attempt: Attempt) -> None:
        """Causes the fault."""

    def allows(self, attempt: Attempt) -> bool:
        """Returns whether a disturbed command may end like this one."""
        return attempt.status == 0

    def recover(self) -> None:
        """Prepares the next run of the same command."""

    def end(self) -> None:
        """Removes what remains of the fault, before the study is checked."""


class LoopKilled(Fault):
    """Kills the main process of the search with SIGKILL; its workers have to notice that."""

    name = "loop killed"
    most_strikes = 2

    def strike(self, attempt: Attempt) -> None:
        os.kill(attempt.process.pid, signal.SIGKILL)

    def allows(self, attempt: Attempt) -> bool:
        return attempt.status == -signal.SIGKILL


class GroupKilled(LoopKilled):
    """Kills the search and all its processes with SIGKILL."""

    name = "all killed"

    def strike(self, attempt: Attempt) -> None:
        attempt.kill()


class WorkerKilled(Fault):
    """Kills a worker process with SIGKILL."""

    name = "worker killed"

    def strike(self, attempt: Attempt) -> None:
        workers: list[int] = []

        def there() -> bool:
            workers[:] = [
                pid for pid, command in attempt.process_tree().items() if "nas.workers.process_main" in command
            ]
            return bool(workers)

        if attempt.lives_until(there):
            with suppress(ProcessLookupError):
                os.kill(self.rng.choice(workers), signal.SIGKILL)


class DiskFull(Fault):
    """Fills the disk of the results (and of an SQLite database), a small tmpfs, until the command has ended."""

    name = "disk full"

    def __enter__(self) -> Fault:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "nas-faults", self.place.folder], check=True)
        return self

    def __exit__(self, *exception: object) -> None:
        subprocess.run(["umount", "--lazy", self.place.folder], check=True)

    @staticmethod
    def why_not() -> str:
        return "" if os.geteuid() == 0 else "a tmpfs needs root"

    @property
    def filler(self) -> Path:
        return self.place.folder / "filler"

    def strike(self, attempt: Attempt) -> None:
        with self.filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise

    def allows(self, attempt: Attempt) -> bool:
        return attempt.status == 0 or attempt.ended_with_one_line()

    def recover(self) -> None:
        if self.rng.random() < 0.5:  # resume once while the disk is still full
            again = self.place.search()
            again.wait()
            if not self.allows(again):
                raise AssertionError(f"tried again while the disk was full: {describe_end(again)}")
        self.end()

    def end(self) -> None:
        self.filler.unlink(missing_ok=True)


class ServerRestarted(Fault):
    """Stops PostgreSQL as for a restart and starts it again within four seconds."""

    name = "PostgreSQL restarted"
    databases = (POSTGRESQL,)
    most_strikes = 2

    def strike(self, attempt: Attempt) -> None:
        self.place.server.stop()
        self._start()

    def _start(self) -> None:
        time.sleep(self.rng.uniform(0, 4))
        end = time.monotonic() + 60
        while True:  # the start fails while processes of a killed server are still running
            try:
                self.place.server.start()
                return
            except RuntimeError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)

    def allows(self, attempt: Attempt) -> bool:
        # A search that has not started may fail instead of waiting for the server: it has nothing to lose.
        return attempt.status == 0 or (attempt.ended_with_one_line() and not attempt.has_printed(SEARCHING))


class ServerKilled(ServerRestarted):
    """Kills PostgreSQL's main process with SIGKILL and starts the server again within four seconds."""

    name = "PostgreSQL killed"

    def strike(self, attempt: Attempt) -> None:
        self.place.server.kill()
        self._start()


class ClockSetBack(Fault):
    """Sets the clock of all the search's processes, except the monotonic one, back by 1 to 48 hours (libfaketime)."""

    name = "clock set back"

    @staticmethod
    def why_not() -> str:
        return "" if FAKETIME else "libfaketime is not installed"

    def begin(self) -> list[Attempt]:
        self._set("+0")
        faked = {
            "LD_PRELOAD": str(FAKETIME),
            "FAKETIME_TIMESTAMP_FILE": str(self.file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }
        return [self.place.search(start=partial(subprocess.Popen, env=os.environ | faked))]

    @property
    def file(self) -> Path:
        return self.place.folder / "clock"

    def strike(self, attempt: Attempt) -> None:
        self._set(f"-{self.rng.randint(1, 48)}h")

    def _set(self, offset: str) -> None:
        new = self.file.with_suffix(".new")
        new.write_text(f"{offset}\n")
        new.replace(self.file)


class TwoAtOnce(Fault):
    """Starts two searches at the same time on a study that does not exist yet."""

    name = "two at once"
    same_result = False  # the draws of each search depend on timing

    def begin(self) -> list[Attempt]:
        return [self.place.search(workers=1) for _ in range(2)]


class OneOfTwoKilled(TwoAtOnce):
    """Starts two searches as in `TwoAtOnce` and kills one with SIGKILL; the other one does the rest."""

    name = "one of two killed"

    def strike(self, attempt: Attempt) -> None:
        attempt.kill()

    def allows(self, attempt: Attempt) -> bool:
        return attempt.status in (0, -signal.SIGKILL)


class NodeKilled(Fault):
    """Kills all processes of one of a Ray cluster's two training nodes (network namespaces of one machine)."""

    name = "Ray node killed"
    every = 3
    harm = "kill"
    one_at_a_time = threading.Lock()  # one cluster per process, whose ID is in the names of its hosts

    @staticmethod
    def why_not() -> str:
        try:
            import ray  # noqa: F401
        except ImportError:
            return "Ray is not installed"
        return str(hosts.why_not())

    def __enter__(self) -> Fault:
        with ExitStack() as stack:
            stack.enter_context(self.one_at_a_time)
            net = stack.enter_context(hosts.Net())
            self.head, *self.nodes = (net.host() for _ in range(3))
            self.address = f"{self.head.address}:6379"
            self.head.run_ray("--head", "--port", "6379", "--num-cpus", "0", "--include-dashboard", "false")
            for node in self.nodes:
                node.run_ray("--address", self.address, "--num-cpus", "1")
            ready = self.head.start(sys.executable, "-c", hosts.WAIT_FOR_NODES, self.address, 3)
            if ready.wait(120):
                raise RuntimeError("the Ray cluster did not come up")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def begin(self) -> list[Attempt]:
        def start(command: list[str], **options: Any) -> "subprocess.Popen[str]":
            options.pop("start_new_session")
            process: subprocess.Popen[str] = self.head.start(*command, **options)
            self.head.processes.remove(process)  # `Attempt` reads and closes its pipe
            return process

        return [self.place.search("--ray", self.address, start=start)]

    def lives_until_strike(self, attempt: Attempt, since: str, part: float) -> bool:
        """Counts from the start of the search, because joining the cluster takes seconds before that."""
        return super().lives_until_strike(attempt, SEARCHING, part)

    def strike(self, attempt: Attempt) -> None:
        getattr(self.rng.choice(self.nodes), self.harm)()


class NodeCut(NodeKilled):
    """Cuts the network connection of one of the training nodes."""

    name = "Ray node cut off"
    databases = (SQLITE,)
    harm = "cut"


FAULTS: tuple[type[Fault], ...] = (
    *(LoopKilled, WorkerKilled, GroupKilled, DiskFull, ServerRestarted, ServerKilled, ClockSetBack),
    *(TwoAtOnce, OneOfTwoKilled, NodeKilled, NodeCut),
)


def describe_end(attempt: Attempt) -> str:
    """Returns how a command ended, in words."""
    if attempt.status is None:
        return "it hung"
    return f"exit status {attempt.status}, {attempt.stderr.strip()[-2000:]!r}"
