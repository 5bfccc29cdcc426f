"""The processes below this one, as the system lists them."""

import os
import select
from pathlib import Path


def processes() -> dict[int, tuple[str, int]]:
    """Command line and parent of every process, by its id."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # it ended meanwhile
            continue
        found[int(folder.name)] = command, parent
    return found


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, and those that they have."""
    every, found = processes(), [pid]
    for ancestor in found:
        found += [child for child, (_, parent) in every.items() if parent == ancestor]
    return found[1:]


def below(pid: int, name: str) -> set[int]:
    """Those of them whose command line has the name in it."""
    every = processes()
    return {child for child in descendants(pid) if name in every.get(child, ("",))[0]}


def wait_for_the_end(pidfds: list[int]) -> None:
    """Waits until those processes have ended, a minute for each; closes the descriptors."""
    for pidfd in pidfds:
        assert select.select([pidfd], [], [], 60)[0]
        os.close(pidfd)
