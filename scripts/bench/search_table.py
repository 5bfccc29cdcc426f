"""Trains random feasible candidates briefly and stores their accuracies, as data for `search.py` and `proxies.py`.

    python scripts/bench/search_table.py --candidates 200 --repeated 20 --seeds 3

Candidates come from the space beside the table, `results/search_table.toml`, within 8,000 parameters and with a
receptive field of at least 28. Each trains for 15 epochs on every fifth image of the train split (10,000) and is
evaluated on the whole val split. The first `--repeated` candidates are trained with several seeds, to measure the noise
of a single run. The script resumes where it stopped.
"""

import argparse
import csv
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from random import Random

from nas.data import datasets
from nas.space.constraints import limits
from nas.space.domains import Choice, Domain, IntRange, Value
from nas.space.feasibility import judge
from nas.space.search_space import SearchSpace
from nas.training.data import TrainingData
from nas.training.device import pick_device
from nas.training.metrics import EpochMetrics
from nas.workers.backend import open_workers
from nas.workers.protocol import Job
from nas.workers.run_all import run_all

EPOCHS = 15
TABLE = Path("results/search_table.csv")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=200)
    parser.add_argument("--repeated", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--dataset", choices=["mnist", "digits"], default="mnist")
    args = parser.parse_args()

    dataset = datasets.load(args.dataset)
    full = TrainingData.from_dataset(dataset)
    data = TrainingData(
        train_images=full.train_images[::5].contiguous(),
        train_labels=full.train_labels[::5].contiguous(),
        val_images=full.val_images,
        val_labels=full.val_labels,
        mean=full.mean,
        std=full.std,
    )
    space = space_of(args.table)
    candidates = feasible(space, args.candidates)
    wanted = [(index, 0) for index in range(args.candidates)]
    wanted += [(index, seed) for index in range(args.repeated) for seed in range(1, args.seeds)]
    Table(args.table, space, candidates).fill(wanted, data, num_workers=args.workers)


class Table:
    """File of training runs of the given candidates."""

    def __init__(self, path: Path, space: SearchSpace, candidates: Sequence[dict[str, Value]]) -> None:
        self.path = path
        self.space = space
        self.candidates = candidates

    def fill(self, wanted: Sequence[tuple[int, int]], data: TrainingData, *, num_workers: int) -> None:
        """Trains the wanted pairs of candidate index and seed that are not in the file yet."""
        done = self._done()
        todo = [job for job in wanted if job not in done]
        workers = open_workers(data, [pick_device("cpu")], num=num_workers)
        drawn = [self.space.candidate(self.candidates[index]) for index, _ in todo]
        jobs = [
            Job(key=key, architecture=candidate.architecture, recipe=candidate.recipe, seed=seed)
            for key, (candidate, (_, seed)) in enumerate(zip(drawn, todo, strict=True))
        ]
        began = time.monotonic()
        with closing(workers):
            for ended, (job, history, end) in enumerate(run_all(workers, jobs), start=1):
                if end.outcome == "failed":
                    raise SystemExit(end.reason)
                self._write(*todo[job.key], history)
                print(f"{ended}/{len(todo)} {time.monotonic() - began:.0f} s", flush=True)

    def _done(self) -> set[tuple[int, int]]:
        if not self.path.exists():
            names = [f"epoch{epoch + 1}" for epoch in range(EPOCHS)]
            self._append(["candidate", "seed", "seconds", *self.space.domains, *names])
        with self.path.open(newline="") as file:
            return {(int(row["candidate"]), int(row["seed"])) for row in csv.DictReader(file)}

    def _write(self, index: int, seed: int, history: Sequence[EpochMetrics]) -> None:
        # A diverged run has fewer epochs; the remaining cells stay empty.
        accuracies = [format(metrics.val_accuracy, ".4f") for metrics in history] + [""] * (EPOCHS - len(history))
        seconds = sum(metrics.seconds for metrics in history)
        self._append([index, seed, f"{seconds:.2f}", *self.candidates[index].values(), *accuracies])

    def _append(self, row: Sequence[object]) -> None:
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerow(row)


def space_of(table: Path) -> SearchSpace:
    """Returns the search space of a table: the TOML file of the same name beside it."""
    return SearchSpace.load(str(table.with_suffix(".toml"))).bind(
        input_shape=(1, 28, 28), num_classes=10, epochs=EPOCHS
    )


def cell_value(domain: Domain, cell: str) -> Value:
    """Returns the value in a cell of the table, in the domain's type."""
    if isinstance(domain, Choice):
        return next(value for value in domain.values if str(value) == cell)
    return int(cell) if isinstance(domain, IntRange) else float(cell)


def feasible(space: SearchSpace, count: int) -> list[dict[str, Value]]:
    """Returns the first `count` random draws that satisfy the limits."""
    rng, kept = Random(0), limits(space.input_shape, max_params=8000)
    found: list[dict[str, Value]] = []
    while len(found) < count:
        values = space.draw(rng)
        if not judge(space, kept, values).reason:
            found.append(values)
    return found


if __name__ == "__main__":
    main()
