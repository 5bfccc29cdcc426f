"""Running processes and their descendants, read from /proc."""

import os
import select
from pathlib import Path


def processes() -> dict[int, tuple[str, int]]:
    """Returns command line and parent of every process, by process ID."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # the process has ended meanwhile
            continue
        found[int(folder.name)] = command, parent
    return found


def descendants(pid: int) -> list[int]:
    """Returns the IDs of all direct and indirect child processes."""
    every, found = processes(), [pid]
    for ancestor in found:
        found += [child for child, (_, parent) in every.items() if parent == ancestor]
    return found[1:]


def below(pid: int, name: str) -> set[int]:
    """Returns the descendants of `pid` whose command line contains `name`."""
    every = processes()
    return {child for child in descendants(pid) if name in every.get(child, ("",))[0]}


def wait_for_the_end(pidfds: list[int]) -> None:
    """Waits until the processes have ended, at most a minute for each; closes the descriptors."""
    for pidfd in pidfds:
        assert select.select([pidfd], [], [], 60)[0]
        os.close(pidfd)
