"""Trains random draws of search spaces and compares the distributions of their errors.

    python scripts/bench/draws.py train --task small-mnist --space grey --draws 100 --rows results/draws/small-mnist
    python scripts/bench/draws.py table results/draws/*/*.jsonl
    python scripts/bench/draws.py figure results/draws/mnist/*.jsonl --to docs/images/draws.svg

`train` appends a line to ROWS/NAME.jsonl for each trained draw, and resumes where it stopped. Draws satisfy the task's
limits (tasks.py) and have a receptive field of at least the image's side. Draw i is trained with seed i; `--every 5`
uses every fifth training image. The error is 1 minus the mean val accuracy of the last 5 epochs. The method is that of
RegNet: a space is changed if that improves the whole distribution (Radosavovic et al. 2020, arXiv 2003.13678).
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

sys.path.append(str(Path(__file__).parents[2]))

from nas.data import datasets
from nas.space.candidate import Candidate
from nas.space.constraints import Constraint, limits
from nas.space.feasibility import Judgement, judge
from nas.space.fill import with_filled_widths
from nas.space.search_space import SearchSpace
from nas.training.data import TrainingData
from nas.training.device import pick_device
from nas.training.metrics import EpochMetrics
from nas.training.results import NUM_LAST_EPOCHS, consistent_accuracy, objective
from nas.workers.backend import open_workers
from nas.workers.protocol import Job
from nas.workers.run_all import run_all
from scripts.bench.tasks import TASKS, every_nth_image

Row = dict[str, Any]
SHARES = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
TITLES = ("rows", "draws", "failed", "lowest", "10th pct", "25th", "median", "75th", "best", "MACs, median", "seconds")


def drawn(space: SearchSpace, kept: Sequence[Constraint], seed: int) -> Iterator[tuple[Judgement, Candidate]]:
    """Yields feasible random draws without end."""
    rng = Random(seed)
    while True:
        values = with_filled_widths(space, kept, space.draw(rng))
        judgement = judge(space, kept, values)
        if not judgement.reason:
            yield judgement, space.candidate(values)


def train(args: argparse.Namespace) -> None:
    """Trains the draws that have no row yet."""
    task = TASKS[args.task]
    dataset = datasets.load(task.dataset(args.data_root, args.images), data_root=args.data_root)
    epochs = args.epochs or task.epochs
    space = SearchSpace.load(args.space).bind(
        input_shape=dataset.input_shape, num_classes=dataset.num_classes, epochs=epochs
    )
    path: Path = args.rows / f"{args.name or space.name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    done = {row["draw"] for row in rows(path)} if path.exists() else set()
    kept = limits(
        space.input_shape,
        max_params=task.max_params,
        max_macs=args.max_macs,
        min_receptive_field=args.min_receptive_field,
    )
    draws = list(enumerate(islice(drawn(space, kept, args.seed), args.draws)))
    todo = [(index, draw) for index, draw in draws if index not in done]
    data = every_nth_image(TrainingData.from_dataset(dataset), args.every)
    workers = open_workers(data, [pick_device(args.device)], num=args.workers if args.device == "cpu" else 1)
    jobs = [
        Job(key=index, architecture=candidate.architecture, recipe=candidate.recipe, seed=index)
        for index, (_, candidate) in todo
    ]
    began = time.monotonic()
    with closing(workers):
        for job, history, end in run_all(workers, jobs):
            if end.outcome == "failed":
                raise SystemExit(end.reason)
            judgement, candidate = draws[job.key][1]
            row = row_of(judgement, candidate, history, epochs)
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"draw": job.key, **row}) + "\n")
            print(f"{job.key} {row['objective']} {time.monotonic() - began:.0f} s", flush=True)


def row_of(judgement: Judgement, candidate: Candidate, history: Sequence[EpochMetrics], epochs: int) -> Row:
    """Returns the row of a trained draw; `objective` and `lowest` are None if its loss was not finite."""
    assert judgement.cost is not None
    reached = [metrics.val_accuracy for metrics in history]
    whole = len(reached) == epochs
    return {
        "objective": round(objective(reached, NUM_LAST_EPOCHS), 6) if whole else None,
        "lowest": round(consistent_accuracy(reached, NUM_LAST_EPOCHS), 6) if whole else None,
        "params": judgement.cost.params,
        "macs": judgement.cost.macs,
        "receptive_field": judgement.cost.receptive_field,
        "seconds": round(sum(metrics.seconds for metrics in history), 1),
        "architecture": candidate.architecture.to_json(),
        "recipe": candidate.recipe.to_json(),
    }


def rows(path: Path) -> list[Row]:
    """Returns the rows of the trained draws, sorted by draw."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return sorted((json.loads(line) for line in lines), key=lambda row: int(row["draw"]))


def accuracies(path: Path) -> list[float]:
    """Returns the accuracies of the draws in percent, in ascending order; 0 for a diverged training run."""
    return sorted(100 * (row["objective"] or 0.0) for row in rows(path))


def quantile(values: Sequence[float], share: float) -> float:
    """Returns the quantile `share` of sorted values, with linear interpolation."""
    place = share * (len(values) - 1)
    low = int(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (place - low) * (values[high] - values[low])


def table(args: argparse.Namespace) -> None:
    """Prints a table with one row per file."""
    print(f"| {' | '.join(TITLES)} |")
    print(f"|{' --- |' * len(TITLES)}")
    for path in args.files:
        reached, all_rows = accuracies(path), rows(path)
        failed = sum(accuracy < args.failed_below for accuracy in reached)
        macs = quantile(sorted(row["macs"] for row in all_rows), 0.5)
        seconds = sum(row["seconds"] for row in all_rows) / len(all_rows)
        cells = [path.parent.name + "/" + path.stem, str(len(reached)), str(failed)]
        cells += [f"{quantile(reached, share):.2f}" for share in SHARES]
        print(f"| {' | '.join([*cells, f'{macs:,.0f}', f'{seconds:.0f}'])} |")


def figure(args: argparse.Namespace) -> None:
    """Plots the cumulative distribution of the errors, one line per file."""
    import matplotlib.pyplot as plt

    plot, axes = plt.subplots(figsize=(7, 4))
    for path in args.files:
        errors = sorted(100 - accuracy for accuracy in accuracies(path))
        shares = [(place + 1) / len(errors) for place in range(len(errors))]
        axes.step(errors, shares, where="post", label=f"{path.stem} ({len(errors)} draws)")
    axes.set(xscale="log", xlabel="val error, %", ylabel="share of draws with at most that error", ylim=(0, 1))
    ticks = [1, 2, 3, 5, 10, 20, 50]
    axes.set_xticks(ticks, [str(tick) for tick in ticks], minor=False)
    axes.set_xticks([], minor=True)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    plot.tight_layout()
    plot.savefig(args.to, metadata={"Date": None})


def options() -> argparse.Namespace:
    """Returns the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    training = commands.add_parser("train")
    training.set_defaults(run=train)
    training.add_argument("--task", choices=TASKS, required=True)
    training.add_argument("--space", required=True)
    training.add_argument("--rows", type=Path, required=True)
    training.add_argument("--name", help="name of the output file; default: name of the space")
    training.add_argument("--draws", type=int, default=100)
    training.add_argument("--seed", type=int, default=0)
    training.add_argument("--epochs", type=int, help="default: epochs of the task")
    training.add_argument("--every", type=int, default=1, metavar="N", help="use one in N training images")
    training.add_argument("--max-macs", type=int)
    training.add_argument("--min-receptive-field", type=int, help="default: side of the image")
    training.add_argument("--device", default="cpu")
    training.add_argument("--workers", type=int, default=2, help="worker processes, with --device cpu")
    training.add_argument("--data-root")
    training.add_argument("--images", type=Path, default=Path("data"), help="folder to write image folders to")
    tables = commands.add_parser("table")
    tables.set_defaults(run=table)
    tables.add_argument("files", type=Path, nargs="+")
    tables.add_argument("--failed-below", type=float, default=50.0, help="accuracy in percent; draws below it failed")
    figures = commands.add_parser("figure")
    figures.set_defaults(run=figure)
    figures.add_argument("files", type=Path, nargs="+")
    figures.add_argument("--to", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    args = options()
    args.run(args)
