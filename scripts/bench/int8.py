"""Compares int8 C with the network in float for rows of the leaderboard, and prints a Markdown table.

    python scripts/bench/int8.py                       # all rows
    python scripts/bench/int8.py nas-897 nas-1192      # these rows
    python scripts/bench/int8.py nas-3686 --board microbit-v2     # and its C code on the emulated core of a board
    python scripts/bench/int8.py --test --finetune 1   # on the test split, and after one epoch of fine-tuning

Each network of `results/models` is calibrated on 1,000 training images of its dataset and runs on the validation split,
by the NumPy reference that the C code equals bit by bit. *Same* is the share of images with the class of the float
network. Most weights were trained on the validation split, too, so its accuracies are not those of new images; with
`--test` they are those of the test split. Fine-tuning uses train and val, as `nas export --trial confirmed` does.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

sys.path.append(str(Path(__file__).parents[2]))

from nas.architecture.architecture import Architecture
from nas.boards import Board
from nas.data import datasets
from nas.data.datasets import Split
from nas.errors import DatasetError
from nas.exporters.c.calibration import calibrate
from nas.exporters.c.finetune import fine_tuned
from nas.exporters.c.int8_codegen import int8_c_files
from nas.exporters.c.int8_reference import accuracy_of_int8, run_int8
from nas.exporters.c.quantise import quantise
from nas.exporters.core_test.emulate import run_on_core
from nas.exporters.export import evenly_spaced
from nas.exporters.graphs import MAX_CALIBRATION_IMAGES
from nas.exporters.model_source import exported_keys
from nas.exporters.provenance import VerificationData
from nas.inference.full_cost import full_cost
from nas.recipe import Recipe

RESULTS = Path(__file__).parents[2] / "results"
BATCH = 250


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="rows of results/leaderboard.json")
    parser.add_argument("--dataset", help="in place of the row's own")
    parser.add_argument("--board", nargs="*", default=[], help="names of boards (nas boards)")
    parser.add_argument("--images", type=int, help="only the first images of the split")
    parser.add_argument("--test", action="store_true", help="the test split, not the validation split")
    parser.add_argument("--finetune", type=int, default=0, help="epochs")
    args = parser.parse_args()
    torch.set_num_threads(1)
    lines = (RESULTS / "leaderboard.json").read_text(encoding="utf-8")
    rows = {row["name"]: row["dataset"] for row in json.loads(lines)}
    shares = []
    tuned = " fine-tuned % |" if args.finetune else ""
    print(f"| network | dataset | params | float % | int8 % |{tuned} same % | constants, bytes | arena, bytes |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |" + " --- |" * bool(tuned))
    for name in args.names or rows:
        try:
            dataset = datasets.load(args.dataset or rows[name], download=False)
        except DatasetError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
            continue
        images = datasets.load_test(dataset.name) if args.test else dataset.val
        images = Split(images=images.images[: args.images], labels=images.labels[: args.images])
        line, share = measure(
            name, dataset, images, boards=[Board.load(board) for board in args.board], finetune=args.finetune
        )
        shares.append(share)
        print(line, flush=True)
    if shares:
        print(f"\nsame class: {100 * np.mean(shares):.2f} % on average, lowest {100 * min(shares):.2f} %")


def measure(
    name: str, dataset: datasets.Dataset, split: Split, *, boards: list[Board], finetune: int
) -> tuple[str, float]:
    """Returns a row of the table, and the share of images of a split for which int8 and float give the same class.

    Prints the runs on the cores of the boards to standard error.
    """
    folder = RESULTS / "models" / name
    architecture, stored = Architecture.load(folder), load_file(folder / "model.safetensors")
    module = architecture.build()
    weights = {key: stored[name] for key, name in exported_keys(architecture, module.state_dict()).items()}
    module.load_state_dict(weights)
    module.eval()
    train, labels = dataset.train.images, split.labels.numpy()
    pixels = train[evenly_spaced(len(train), MAX_CALIBRATION_IMAGES)]
    calibration = calibrate(architecture, weights, pixels, mean=dataset.mean, std=dataset.std)
    network = quantise(calibration)
    for board in boards:
        image = split.images[:1].numpy()
        with tempfile.TemporaryDirectory() as place:
            for file, text in int8_c_files(network, classes=dataset.classes, facts=[]).items():
                (Path(place) / file).write_text(text, encoding="ascii")
            run = run_on_core(Path(place), board, image, run_int8(network, image))
        print(f"{name} on", *run.lines(), sep="\n", file=sys.stderr)
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (dataset.mean, dataset.std))
    with torch.inference_mode():
        exact = np.concatenate(
            [module((part / 255 - mean) / std).numpy().argmax(1) for part in torch.split(split.images, BATCH)]
        )
    found = np.concatenate([run_int8(network, part.numpy()).argmax(1) for part in torch.split(split.images, BATCH)])
    same, cost = float((exact == found).mean()), full_cost(architecture)
    shares = [(exact == labels).mean(), (found == labels).mean()]
    if finetune:
        data = VerificationData.of(dataset, is_seen=True).training_data(mean=dataset.mean, std=dataset.std)
        tuned = fine_tuned(calibration, Recipe.load(folder / "recipe.json"), data, epochs=finetune)
        shares.append(accuracy_of_int8(tuned, split))
    percent = " | ".join(f"{100 * share:.2f}" for share in (*shares, same))
    sizes = f"{cost.int8_weight_bytes:,} | {cost.int8_arena_bytes:,}"
    return f"| `{name}` | {dataset.name} | {cost.params:,} | {percent} | {sizes} |", same


if __name__ == "__main__":
    main()
