"""Compares int8 C with the network in float for rows of the leaderboard, and prints a Markdown table.

    python scripts/bench/int8.py                       # all rows
    python scripts/bench/int8.py nas-897 nas-1192      # these rows
    python scripts/bench/int8.py nas-3686 --board microbit-v2     # and its C code on the emulated core of a board

Each network of `results/models` is calibrated on 1,000 training images of its dataset and runs on the validation split,
by the NumPy reference that the C code equals bit by bit. *Same* is the share of images with the class of the float
network. Most weights were trained on the validation split, too, so its accuracies are not those of new images.
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
from nas.errors import DatasetError
from nas.exporters.c.int8_codegen import int8_c_files
from nas.exporters.c.int8_reference import run_int8
from nas.exporters.c.quantise import quantise
from nas.exporters.core_test.emulate import run_on_core
from nas.exporters.export import evenly_spaced
from nas.exporters.graphs import MAX_CALIBRATION_IMAGES
from nas.exporters.model_source import exported_keys
from nas.inference.full_cost import full_cost

RESULTS = Path(__file__).parents[2] / "results"
BATCH = 250


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="rows of results/leaderboard.json")
    parser.add_argument("--dataset", help="in place of the row's own")
    parser.add_argument("--board", nargs="*", default=[], help="names of boards (nas boards)")
    parser.add_argument("--images", type=int, help="only the first images of the validation split")
    args = parser.parse_args()
    torch.set_num_threads(1)
    lines = (RESULTS / "leaderboard.json").read_text(encoding="utf-8")
    rows = {row["name"]: row["dataset"] for row in json.loads(lines)}
    shares = []
    print("| network | dataset | params | float % | int8 % | same % | constants, bytes | arena, bytes |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in args.names or rows:
        try:
            dataset = datasets.load(args.dataset or rows[name], download=False)
        except DatasetError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
            continue
        line, share = measure(name, dataset, args.images, [Board.load(board) for board in args.board])
        shares.append(share)
        print(line, flush=True)
    if shares:
        print(f"\nsame class: {100 * np.mean(shares):.2f} % on average, lowest {100 * min(shares):.2f} %")


def measure(name: str, dataset: datasets.Dataset, num_images: int | None, boards: list[Board]) -> tuple[str, float]:
    """Returns a row of the table, and the share of images for which int8 and float give the same class.

    Prints the runs on the cores of the boards to standard error.
    """
    folder = RESULTS / "models" / name
    architecture, stored = Architecture.load(folder), load_file(folder / "model.safetensors")
    module = architecture.build()
    weights = {key: stored[name] for key, name in exported_keys(architecture, module.state_dict()).items()}
    module.load_state_dict(weights)
    module.eval()
    train, val = dataset.train.images, dataset.val.images[:num_images]
    labels = dataset.val.labels[:num_images].numpy()
    calibration = train[evenly_spaced(len(train), MAX_CALIBRATION_IMAGES)]
    network = quantise(architecture, weights, calibration, mean=dataset.mean, std=dataset.std)
    for board in boards:
        pixels = val[:1].numpy()
        with tempfile.TemporaryDirectory() as place:
            for file, text in int8_c_files(network, classes=dataset.classes, facts=[]).items():
                (Path(place) / file).write_text(text, encoding="ascii")
            run = run_on_core(Path(place), board, pixels, run_int8(network, pixels))
        print(f"{name} on", *run.lines(), sep="\n", file=sys.stderr)
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (dataset.mean, dataset.std))
    with torch.inference_mode():
        exact = np.concatenate(
            [module((part / 255 - mean) / std).numpy().argmax(1) for part in torch.split(val, BATCH)]
        )
    found = np.concatenate([run_int8(network, part.numpy()).argmax(1) for part in torch.split(val, BATCH)])
    same, cost = float((exact == found).mean()), full_cost(architecture)
    percent = " | ".join(f"{100 * share:.2f}" for share in ((exact == labels).mean(), (found == labels).mean(), same))
    sizes = f"{cost.int8_weight_bytes:,} | {cost.int8_arena_bytes:,}"
    return f"| `{name}` | {dataset.name} | {cost.params:,} | {percent} | {sizes} |", same


if __name__ == "__main__":
    main()
