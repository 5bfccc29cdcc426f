"""Measures which changes of a recipe help on a task: trains known designs with each change.

    python scripts/bench/recipes.py --task small-mnist --seeds 4 --rows results/recipes/small-mnist.jsonl

A change that helps can become a probe of the search space: a change that a search tries on its best candidates. Trains
on train and val and evaluates on the test split; `--every 6` uses every sixth training image. Appends a line to ROWS
for each training run, resumes where it stopped, and prints a table: mean test accuracy of the last 5 epochs, and the
gain of a change over the design's own recipe, paired by seed.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

sys.path.append(str(Path(__file__).parents[2]))

import nas
from nas.data import datasets
from nas.resources import default_space
from nas.space.portfolio import SOURCE_PREFIX, portfolio_candidates
from nas.space.search_space import SearchSpace
from nas.training.data import TrainingData
from nas.training.device import pick_device
from nas.training.results import NUM_LAST_EPOCHS, objective
from nas.workers.backend import open_workers
from nas.workers.protocol import Job
from nas.workers.run_all import run_all
from scripts.bench.earn import difference
from scripts.bench.tasks import TASKS, every_nth_image

OWN = "own"
LIGHT = {"rotation": 4.0, "translation": 0.02, "scale": 0.04, "shear": 2.0}
STRONG = {"rotation": 14.0, "translation": 0.08, "scale": 0.12, "shear": 8.0}
SMOOTHING = {"label_smoothing": 0.1}
CHANGES: dict[str, dict[str, float]] = {
    OWN: {},
    "no augmentation": {"rotation": 0.0, "translation": 0.0, "scale": 0.0, "shear": 0.0, "flip": 0.0},
    "light": LIGHT,
    "strong": STRONG,
    "flip": {"flip": 0.5},
    "flip and shift alone": {"rotation": 0.0, "translation": 0.04, "scale": 0.0, "shear": 0.0, "flip": 0.5},
    "brightness and contrast": {"brightness": 0.2, "contrast": 0.2},
    "label smoothing": SMOOTHING,
    "label smoothing of 0.2": {"label_smoothing": 0.2},
    "strong, label smoothing": STRONG | SMOOTHING,
    "light, label smoothing": LIGHT | SMOOTHING,
    "weight decay": {"weight_decay": 5e-4},
    "weight decay, label smoothing": {"weight_decay": 5e-4} | SMOOTHING,
    "batches of 16": {"batch_size": 16},
    "batches of 32": {"batch_size": 32},
    "batches of 32, rate of 0.15": {"batch_size": 32, "learning_rate": 0.15},
    "batches of 64": {"batch_size": 64},
    "rate of 0.15": {"learning_rate": 0.15},
    "rate of 0.6": {"learning_rate": 0.6},
}

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Training:
    """Key of a training run."""

    design: str
    change: str
    seed: int


def train(args: argparse.Namespace, rows: list[Row]) -> None:
    """Makes the training runs that have no row yet and appends their rows."""
    task = TASKS[args.task]
    name = task.dataset(args.data_root, args.images)
    dataset = datasets.load(name, data_root=args.data_root)
    test = datasets.load_test(name, data_root=args.data_root)
    data = every_nth_image(TrainingData.with_test_split(dataset, test), args.every)
    space = SearchSpace.load(default_space(dataset.input_shape)).bind(
        input_shape=dataset.input_shape, num_classes=dataset.num_classes, epochs=args.epochs or task.epochs
    )
    kept = nas.limits(space.input_shape, max_params=task.max_params)
    starts, _ = portfolio_candidates(args.designs or space.portfolio, space, kept, seed=0)
    candidates = {start.source.removeprefix(SOURCE_PREFIX): space.candidate(start.values) for start in starts}
    setting = {"images": len(data.train_labels), "epochs": space.epochs}
    for row in rows:
        if found := {key: row[key] for key in setting if row.get(key, setting[key]) != setting[key]}:
            raise SystemExit(f"{args.rows}: its rows have {found}; name another file")
    had = {Training(row["design"], row["change"], row["seed"]) for row in rows}
    wanted = [
        Training(design, change, s) for s in range(args.seeds) for design in candidates for change in args.changes
    ]
    todo = [training for training in wanted if training not in had]
    jobs = [
        Job(
            key=key,
            architecture=candidates[each.design].architecture,
            recipe=replace(candidates[each.design].recipe, **CHANGES[each.change]),  # type: ignore[arg-type]
            seed=each.seed,
        )
        for key, each in enumerate(todo)
    ]
    args.rows.parent.mkdir(parents=True, exist_ok=True)
    num_workers = args.workers if args.device == "cpu" else 1
    with closing(open_workers(data, [pick_device(args.device)], num=num_workers)) as workers:
        for job, history, end in run_all(workers, jobs):
            if end.outcome == "failed":
                raise SystemExit(end.reason)
            each = todo[job.key]
            reached = [metrics.val_accuracy for metrics in history]
            row = {
                **{"design": each.design, "change": each.change, "seed": each.seed, **setting},
                "accuracy": round(objective(reached, NUM_LAST_EPOCHS), 6) if end.outcome == "trained" else 0.0,
                "train_accuracy": round(history[-1].train_accuracy, 6) if history else 0.0,
            }
            rows.append(row)
            with args.rows.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), file=sys.stderr, flush=True)


def table(rows: list[Row]) -> Iterator[str]:
    """Yields a Markdown table with one row for each design and change."""
    yield "| design | change | runs | test | gain over its own recipe |"
    yield "| --- | --- | --- | --- | --- |"
    reached: dict[tuple[str, str], dict[int, float]] = {}
    for row in rows:
        reached.setdefault((row["design"], row["change"]), {})[row["seed"]] = row["accuracy"]
    for (design, change), runs in reached.items():
        own = reached.get((design, OWN), {})
        gain = difference([(runs[seed], own[seed]) for seed in runs if seed in own]) if change != OWN else ""
        yield f"| {design} | {change} | {len(runs)} | {100 * fmean(runs.values()):.2f} | {gain} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--designs", nargs="+", help="default: the portfolio of the task's default space")
    parser.add_argument("--changes", nargs="+", choices=CHANGES, default=list(CHANGES))
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--every", type=int, default=1, metavar="N", help="use one in N training images")
    parser.add_argument("--epochs", type=int, help="default: epochs of the task")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--data-root")
    parser.add_argument("--images", type=Path, default=Path("data"), help="folder to write image folders to")
    args = parser.parse_args()
    lines = args.rows.read_text(encoding="utf-8").splitlines() if args.rows.exists() else []
    rows = [json.loads(line) for line in lines]
    train(args, rows)
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
