"""Measures what the loop of a search costs and how busy it keeps its workers; training is replaced by a sleep.

    python scripts/bench/scale.py [--workers 64] [--seconds 1] [--trials 1280] [--sizes 100 1000 10000] [--storage URL]

`--workers` simulated workers in this process wait for `--seconds` per trial. All else is as in `nas search`: candidates
of the space `mnist` within 8,000 parameters and with a receptive field of at least 28 are drawn by the sampler
`evolution` and stored with their weights. (Pictures are left out, because real workers draw them.) Prints how busy the
workers were, from the first moment that all had a trial to the last start. Then, for each study size of `--sizes` and
with workers that finish at once, prints the loop's time per trial (a mean of `--measured` trials), the time to resume
the study, the database size and the memory.
"""

import argparse
import heapq
import json
import platform
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

from sqlalchemy import create_engine, text

from nas.commands.search_loop import SearchLoop, SearchTask
from nas.space.constraints import Constraint
from nas.space.search_space import SearchSpace
from nas.study.budget import Budget
from nas.study.database import default_storage, quiet_optuna
from nas.study.locks import open_locks
from nas.study.reader import StudyNotes, StudyRecords
from nas.study.reference import StudyRef
from nas.study.settings import Settings
from nas.study.writer import StudyWriter
from nas.training.metrics import EpochMetrics
from nas.workers.protocol import EndReport, EpochReport, Job, Report

WEIGHTS = bytes(40_000)
LIMITS = (Constraint("params", "<=", 8_000), Constraint("receptive_field", ">=", 28))


class Sleepers:
    """Workers whose training runs all take the same wall time and no processor time."""

    def __init__(self, num: int, seconds: float, epochs: int) -> None:
        self.capacity = self.max_capacity = num
        self.seconds, self.epochs = seconds, epochs
        self.begun: list[tuple[float, float]] = []  # wall and processor time at each start
        self._due: list[tuple[float, int, int]] = []

    def submit(self, job: Job) -> None:
        now = time.perf_counter()
        self.begun.append((now, time.process_time()))
        for epoch in range(1, self.epochs + 1):
            heapq.heappush(self._due, (now + self.seconds * epoch / self.epochs, job.key, epoch))

    def reports(self) -> list[Report]:
        if not self._due:
            return []
        time.sleep(max(0.0, self._due[0][0] - time.perf_counter()))
        found: list[Report] = []
        while self._due and self._due[0][0] <= time.perf_counter():
            _, key, epoch = heapq.heappop(self._due)
            found.append(EpochReport(key=key, metrics=metrics(key, epoch, self.epochs)))
            if epoch == self.epochs:
                found.append(EndReport(key=key, outcome="trained", weights=WEIGHTS))
        return found

    def stop(self, key: int) -> None:
        self._due = [due for due in self._due if due[1] != key]
        heapq.heapify(self._due)

    def close(self) -> None:
        self._due.clear()

    def busy(self) -> float:
        """Returns the share of time that workers were busy, from the first moment that all were to the last start."""
        times = [begun for begun, _ in self.begun]
        first, last = times[self.capacity - 1], times[-1]
        worked = sum(max(0.0, min(begun + self.seconds, last) - max(begun, first)) for begun in times)
        return worked / (last - first) / self.capacity


def metrics(key: int, epoch: int, epochs: int) -> EpochMetrics:
    """Returns plausible metrics of an epoch."""
    accuracy = 0.99 - 0.3 / epoch + 0.005 * Random(key).random()
    return EpochMetrics(
        epoch=epoch,
        train_loss=0.1,
        train_accuracy=accuracy,
        val_loss=0.1,
        val_accuracy=accuracy,
        learning_rate=0.01,
        seconds=1 / epochs,
    )


def open_study(name: str, folder: Path, storage: str | None, epochs: int) -> tuple[StudyRecords, SearchSpace]:
    space = SearchSpace.load("mnist").bind(input_shape=(1, 28, 28), num_classes=10, epochs=epochs)
    settings = Settings(
        dataset="none",
        data_fingerprint="none",
        split="none",
        space=space.name,
        space_fingerprint=space.fingerprint(),
        epochs=epochs,
        consistency=5,
        constraints=tuple(str(limit) for limit in LIMITS),
        seed=0,
        sampler="evolution",
        num_startup=10,
        choices=4,
    )
    notes = StudyNotes(
        dataset_note="none",
        mean=(0.5,),
        std=(0.5,),
        classes=tuple(str(digit) for digit in range(10)),
        command="bench_scale",
        machine=platform.node(),
    )
    return StudyRecords.create(StudyRef(folder, storage, name), settings, notes), space


def measure(args: argparse.Namespace, folder: Path) -> Iterator[dict[str, float]]:
    """Yields how busy the workers are in a new study, then what a trial costs at each study size."""

    url = args.storage or default_storage(folder)

    def run(name: str, seconds: float, budget: int) -> Sleepers:
        records, space = open_study(name, folder, args.storage, args.epochs)
        writer = StudyWriter(records, open_locks(StudyRef(folder, args.storage, name)))
        workers = Sleepers(args.workers, seconds, args.epochs)
        task = SearchTask(space=space, constraints=LIMITS, keep_discards=0)
        SearchLoop(writer, task, workers, on_event=lambda event: None).run(Budget(trials=budget).admits)
        return workers

    if args.trials:
        workers = run("busy", args.seconds, args.trials)
        yield {"workers": args.workers, "seconds_a_trial": args.seconds, "busy": workers.busy()}
    for size in args.sizes:
        run("sizes", 0.0, size)
        began = time.perf_counter()
        workers = run("sizes", 0.0, size + args.workers + args.measured)
        # Starts count once all workers have a trial: from then on each start follows the end of another trial.
        (first, spent), (last, spent_then) = workers.begun[args.workers], workers.begun[-1]
        num = len(workers.begun) - 1 - args.workers
        yield {
            "trials_in_the_study": size,
            "loop_ms_a_trial": 1000 * (last - first) / num,
            "of_it_processor_ms": 1000 * (spent_then - spent) / num,
            "seconds_to_resume": workers.begun[0][0] - began,
            "database_kb_a_trial": database_bytes(url) / (size + args.workers + args.measured) / 1000,
            "resident_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
        }


def database_bytes(url: str) -> int:
    with create_engine(url).connect() as connection:
        if connection.dialect.name == "postgresql":
            return int(connection.execute(text("SELECT pg_database_size(current_database())")).scalar_one())
        pages, size = (connection.execute(text(f"PRAGMA {name}")).scalar_one() for name in ("page_count", "page_size"))
        return int(pages * size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--trials", type=int, default=1_280)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--sizes", type=int, nargs="*", default=[100, 1_000, 10_000])
    parser.add_argument("--measured", type=int, default=200, help="number of trials to average over")
    parser.add_argument("--storage")
    args = parser.parse_args()
    with quiet_optuna(), tempfile.TemporaryDirectory() as folder:
        for found in measure(args, Path(folder)):
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
