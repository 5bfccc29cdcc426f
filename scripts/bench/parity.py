"""Compares the accuracy of the engine with that of the reference trainer, both trained with the same seeds.

    python scripts/bench/parity.py --seeds 10 --output results/parity.jsonl

Writes a line of JSON per training run and skips runs that the file already contains, so it can be stopped and resumed.
`--first-seed 4 --seeds 2` trains only the seeds 4 and 5, for machines with limited time per call.
Several processes may write to one file if their `--trainers` or `--networks` differ.
"""

import argparse
import json
import math
import statistics
from pathlib import Path
from typing import Any

import torch

from nas.architecture.architecture import Architecture
from nas.data import datasets
from nas.recipe import Recipe
from nas.training import reference
from nas.training.data import TrainingData
from nas.training.device import describe, pick_device
from nas.training.reference import initialise
from nas.training.select import train

TRAINERS = {"reference": reference.train, "engine": train}
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["mnist-7825", "mnist-6136"])
    parser.add_argument("--trainers", nargs="+", default=list(TRAINERS), choices=TRAINERS)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--dataset", choices=["mnist", "digits"], default="mnist")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--data-root")
    parser.add_argument("--output", type=Path, default=Path("results/parity.jsonl"))
    args = parser.parse_args()

    torch.set_num_threads(1)
    device = pick_device(args.device)
    data = TrainingData.from_dataset(datasets.load(args.dataset, data_root=args.data_root))
    recipe = Recipe(epochs=args.epochs, rotation=7.0)
    wanted = {"dataset": args.dataset, "epochs": args.epochs}
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        for network in args.networks:
            for trainer in args.trainers:
                if any(key(row) == (network, trainer, seed) for row in rows(args.output, wanted)):
                    continue
                module = initialise(Architecture.load(network), seed=seed)
                history = list(TRAINERS[trainer](module, recipe, data, seed=seed, device=device))
                row = {
                    "network": network,
                    "trainer": trainer,
                    "seed": seed,
                    **wanted,
                    "machine": describe(device),
                    "torch": torch.__version__,
                    "seconds": round(sum(metrics.seconds for metrics in history), 1),
                    "val_accuracies": [metrics.val_accuracy for metrics in history],
                }
                with args.output.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                print(f"{network} {trainer} seed {seed}: {history[-1].val_accuracy:.2%} {row['seconds']} s", flush=True)
    for line in table(rows(args.output, wanted)):
        print(line)


def rows(path: Path, wanted: Row) -> list[Row]:
    """Returns the rows with the fields of `wanted`; rows without dataset and epochs are MNIST with 15 epochs."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    found: list[Row] = [{"dataset": "mnist", "epochs": 15, **json.loads(line)} for line in lines]
    return [row for row in found if all(row[name] == value for name, value in wanted.items())]


def key(row: Row) -> tuple[str, str, int]:
    return row["network"], row["trainer"], row["seed"]


def table(found: list[Row]) -> list[str]:
    """Returns a table of mean final val accuracies, and their differences from the reference with standard errors."""
    lines = ["| network | trainer | seeds | final val accuracy, mean ± sd | difference ± standard error |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for network in sorted({row["network"] for row in found}):
        finals = {
            trainer: {
                row["seed"]: 100 * row["val_accuracies"][-1] for row in found if key(row)[:2] == (network, trainer)
            }
            for trainer in TRAINERS
        }
        for trainer, by_seed in finals.items():
            if len(by_seed) < 2:
                continue
            both = [(by_seed[seed] - finals["reference"][seed]) for seed in by_seed.keys() & finals["reference"].keys()]
            error = statistics.stdev(both) / math.sqrt(len(both)) if len(both) > 1 else math.nan
            gap = "" if trainer == "reference" else f"{statistics.fmean(both):+.3f} ± {error:.3f} points"
            spread = f"{statistics.fmean(by_seed.values()):.3f} ± {statistics.stdev(by_seed.values()):.3f} %"
            lines.append(f"| {network} | {trainer} | {len(by_seed)} | {spread} | {gap} |")
    return lines


if __name__ == "__main__":
    main()
