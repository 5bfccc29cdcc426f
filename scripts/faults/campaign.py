"""Runs real searches, disturbs each with one fault at random moments, and checks what is left of them.

    python scripts/faults/campaign.py --runs 120 --seed 0 --jobs 2 --output results/reliability.jsonl

Writes one line of JSON per run and skips runs that the file already contains, so the script can be stopped and resumed.
Ctrl-C or SIGTERM lets running searches end and starts no others.
`--only INDEX` repeats a run. Faults take turns, on SQLite and on a PostgreSQL server that the script starts.
"""

import argparse
import itertools
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

sys.path.extend([str(Path(__file__).parents[2]), str(Path(__file__).parents[2] / "tests")])

from support.postgres import Server, find_programs, why_none

from nas.study.reader import StudyRecords
from nas.study.reference import StudyRef
from scripts.faults.checks import deviations, export_deviations, num_orphans, outcome
from scripts.faults.kinds import FAULTS, POSTGRESQL, Fault, describe_end
from scripts.faults.search import BEGUN, ROOT, SEARCHING, WORKERS, Place

EXPORTS_EVERY = 11  # runs whose index is a multiple of this also export the best network
MOST_TRIES = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="parallel runs, each with its own PostgreSQL server")
    parser.add_argument("--only", type=int, nargs="+", help="indices of runs to make, even if the file contains them")
    parser.add_argument("--output", type=Path, default=Path("results/reliability.jsonl"))
    args = parser.parse_args()

    os.environ |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    had = {row["index"] for row in rows(args.output) if row["seed"] == args.seed}
    waiting: queue.SimpleQueue[tuple[int, type[Fault], str]] = queue.SimpleQueue()
    for index, (fault, database) in enumerate(itertools.islice(turns(), args.runs)):
        if index in args.only if args.only else index not in had:
            waiting.put((index, fault, database))
    writing = threading.Lock()

    def work() -> None:
        with Campaign.opened(args.seed) as campaign:
            while True:
                try:
                    index, fault, database = waiting.get_nowait()
                except queue.Empty:
                    return
                row = campaign.run(index, fault, database)
                with writing, args.output.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                print(f"{index:>4} {database:<10} {fault.name}: {'; '.join(row['deviations']) or 'well'}", flush=True)

    def drop_waiting_runs(signum: int, frame: object) -> None:
        with suppress(queue.Empty):
            while True:
                waiting.get_nowait()

    signal.signal(signal.SIGINT, drop_waiting_runs)
    signal.signal(signal.SIGTERM, drop_waiting_runs)
    # No threads if no run is left: each would begin with undisturbed searches.
    workers = [threading.Thread(target=work) for _ in range(0 if waiting.empty() else args.jobs)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    print("\n".join(table(rows(args.output))))


def turns() -> Iterator[tuple[type[Fault], str]]:
    """Yields faults and databases in turn, without those that cannot be tried on this machine."""
    possible = [fault for fault in FAULTS if not fault.why_not()]
    no_server = bool(why_none())
    for turn in itertools.count():
        for fault in possible:
            for database in fault.databases:
                if turn % fault.every == 0 and not (database == POSTGRESQL and no_server):
                    yield fault, database


class Campaign:
    """Makes runs one after another with at most one PostgreSQL server; `lengths` is as in `Place`."""

    def __init__(self, seed: int, folder: Path, server: Server | None, *, workers: int = WORKERS) -> None:
        self.seed, self.folder, self.server, self.workers = seed, folder, server, workers
        self.lengths: dict[str, float] = {}
        self.export_length = 0.0
        self.wanted: Mapping[str, Any] = {}
        self.commit = subprocess.run(
            ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
        ).stdout.strip()

    @classmethod
    @contextmanager
    def opened(cls, seed: int) -> "Iterator[Campaign]":
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nas-faults-")))
            server = None
            if not why_none():
                programs = find_programs()
                assert programs is not None
                server = Server(programs)
                stack.callback(server.remove)
            campaign = cls(seed, folder, server)
            campaign.measure()
            yield campaign

    def measure(self) -> None:
        """Makes undisturbed searches, one per database, and an export, to learn their outcome and duration."""
        if self.server:
            self.measure_search(self.server)
        place = self.measure_search(None)
        export = place.export()
        if export.wait() != 0:
            raise RuntimeError(f"an undisturbed export: {describe_end(export)}")
        self.export_length = export.length()

    def measure_search(self, server: Server | None) -> Place:
        """Makes one undisturbed search; raises `RuntimeError` if it fails or its outcome differs from the last one."""
        place = self.place("undisturbed", server)
        attempt = place.search()
        status, ended = attempt.wait(), time.monotonic()
        if status != 0:
            raise RuntimeError(f"an undisturbed search: {describe_end(attempt)}")
        self.lengths = {event: ended - attempt.reached[event] for event in (BEGUN, SEARCHING)}
        found = outcome(StudyRecords.open(StudyRef(**place.of_study)))
        if self.wanted not in ({}, found):
            raise RuntimeError("two undisturbed searches came to different results")
        self.wanted = found
        return place

    def place(self, name: str, server: Server | None) -> Place:
        folder = self.folder / f"{name}{'-server' * (server is not None)}"
        folder.mkdir()
        rng = Random(f"{self.seed} {name}")
        return Place(folder=folder, study=name, rng=rng, lengths=self.lengths, server=server, workers=self.workers)

    def run(self, index: int, kind: type[Fault], database: str) -> dict[str, Any]:
        """Makes one run and returns its row of the output."""
        began = time.monotonic()
        place = self.place(f"run-{index}", self.server if database == POSTGRESQL else None)
        rng = place.rng
        strikes = rng.randint(1, kind.most_strikes)
        # Most times are counted from the start of the search: little can be damaged before.
        moments = [(rng.choice([BEGUN, *[SEARCHING] * 3]), round(rng.uniform(0, 0.95), 3)) for _ in range(strikes)]
        row: dict[str, Any] = {"index": index, "seed": self.seed, "fault": kind.name, "database": database}
        row |= {"moments": moments, "struck": 0, "commit": self.commit, "deviations": []}
        try:
            with kind(place) as fault:
                self._disturb(fault, place, row)
                fault.end()
                if not row["deviations"]:
                    self._check(place, row, same=kind.same_result)
                    if index % EXPORTS_EVERY == 0:
                        row["deviations"] += self._export(place)
        except Exception as error:  # an error in one run must not end the campaign
            row["deviations"].append(f"{type(error).__name__}: {error}")
        for attempt in place.attempts:
            if not attempt.has_ended:
                attempt.kill()
                attempt.wait()
        return row | {"seconds": round(time.monotonic() - began, 1)}

    def _disturb(self, fault: Fault, place: Place, row: dict[str, Any]) -> None:
        """Disturbs the command as often as was drawn, then runs it undisturbed until it succeeds."""
        for since, part in row["moments"]:
            attempts = fault.begin()
            struck = fault.lives_until_strike(attempts[0], since, part)
            if struck:
                fault.strike(attempts[0])
                row["struck"] += 1
            for attempt in attempts:
                attempt.wait()
                if not (fault.allows(attempt) or attempt.status == 0):
                    row["deviations"].append(f"struck by {fault.name}: {describe_end(attempt)}")
            if all(attempt.status == 0 for attempt in attempts):
                break
        row["alone"] = all(attempt.status == 0 for attempt in attempts)
        row["resumed"] = 0
        while attempts[-1].status != 0 or not all(attempt.status == 0 for attempt in attempts):
            if row["resumed"] == MOST_TRIES:
                raise RuntimeError(f"{MOST_TRIES} tries were not enough")
            fault.recover()
            attempts = [place.search()]
            row["resumed"] += 1
            if attempts[0].wait() != 0:
                row["deviations"].append(f"run again: {describe_end(attempts[0])}")
        row["statuses"] = [attempt.status for attempt in place.attempts]

    def _check(self, place: Place, row: dict[str, Any], *, same: bool) -> None:
        records = StudyRecords.open(StudyRef(**place.of_study))
        told = [event for attempt in place.attempts for event in attempt.events]
        odd = [line for attempt in place.attempts for line in attempt.foreign]
        row["deviations"] += [f"printed among the events: {line!r}" for line in odd]
        row["deviations"] += deviations(records, told, wanted=self.wanted if same else None)
        outcomes = Counter(trial.outcome for trial in records.trials())
        row |= {name: outcomes[name] for name in ("trained", "interrupted", "failed")}
        row["told"] = sum(event["event"] == "TrialFinished" for event in told)
        row["orphans"] = num_orphans(records)
        starts = [trial.datetime_start for trial in records.study.get_trials(deepcopy=False) if trial.datetime_start]
        row["clock_back"] = any(later < earlier for earlier, later in itertools.pairwise(starts))

    def _export(self, place: Place) -> list[str]:
        """Kills an export at a random time, runs another one, and returns what is wrong with the folder."""
        first = place.export()
        if first.lives_at(BEGUN, place.rng.uniform(0, self.export_length)):
            first.kill()
        first.wait()
        found = export_deviations(place.exported, allow_none=first.status != 0)
        second = place.export()
        if second.wait() != 0:
            found.append(f"export: {describe_end(second)}")
        return found + export_deviations(place.exported, allow_none=False)


def rows(path: Path) -> list[dict[str, Any]]:
    """Returns the rows of the file; of several rows for one run only the last."""
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    return list({(row["seed"], row["index"]): row for row in map(json.loads, lines)}.values())


def table(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yields a table of the results in Markdown."""
    yield "| fault | database | runs | strikes | went on | run again | finished, told | begun anew | deviations |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    order = {fault.name: place for place, fault in enumerate(FAULTS)}
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in sorted(found, key=lambda row: (order[row["fault"]], row["database"])):
        groups.setdefault((row["fault"], row["database"]), []).append(row)
    for name, group in [*groups.items(), (("all", ""), list(found))]:
        figures = ("struck", "alone", "resumed", "told", "interrupted")
        sums = [sum(row.get(figure, 0) for row in group) for figure in figures]
        wrong = sum(bool(row["deviations"]) for row in group)
        yield f"| {' | '.join([*name, *map(str, [len(group), *sums, wrong])])} |"


if __name__ == "__main__":
    main()
