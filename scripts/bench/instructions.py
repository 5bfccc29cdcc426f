"""Measures the instructions of int8 C on emulated cores, and fits the coefficients of `nas/inference/instructions.py`.

    python scripts/bench/instructions.py --networks 80 --core cortex-m0 cortex-m4

Random draws of the spaces `grey` and `rgb`, with random weights, run on the emulated core. The coefficients are fitted
to the larger part, with the smallest relative error; the error is that on the rest. Prints JSON.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from random import Random

import numpy as np
import torch
from scipy.optimize import nnls

sys.path.append(str(Path(__file__).parents[2]))

from nas.architecture.architecture import Architecture
from nas.boards import load_boards
from nas.errors import ShapeError
from nas.exporters.c.calibration import calibrate
from nas.exporters.c.int8_codegen import int8_c_files
from nas.exporters.c.int8_reference import run_int8
from nas.exporters.c.quantise import quantise
from nas.exporters.core_test.emulate import MACHINES, run_on_core
from nas.inference.instructions import loop_counts
from nas.inference.int8 import int8_program, plan_int8_memory
from nas.inference.lowering import lower
from nas.space.constraints import limits
from nas.space.feasibility import judge
from nas.space.fill import with_filled_widths
from nas.space.search_space import SearchSpace

SPACES = ("grey", "rgb", "mnist_wide")
FITTED_SHARE = 0.7
ARENA = 100_000  # bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=80)
    parser.add_argument("--core", nargs="+", choices=MACHINES, default=["cortex-m0", "cortex-m4"])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    measured: dict[str, list[int]] = {core: [] for core in args.core}
    counts = []
    for architecture in draw(args.networks, args.seed):
        found, rounds = measure(architecture, args.core)
        counts.append(rounds)
        for core, number in found.items():
            measured[core].append(number)
    names = sorted(set().union(*counts))
    matrix = np.array([[rounds.get(name, 0) for name in names] for rounds in counts], float)
    for core, numbers in measured.items():
        print(json.dumps(fit(core, names, matrix, np.array(numbers, float))), flush=True)


def draw(number: int, seed: int) -> list[Architecture]:
    """Returns random networks with 500 to 20,000 parameters that fit into an arena of 100,000 bytes."""
    rng = Random(seed)
    drawn: list[Architecture] = []
    spaces = [SearchSpace.load(name) for name in SPACES]
    while len(drawn) < number:
        space = spaces[len(drawn) % len(spaces)]
        bound = int(500 * 40 ** rng.random())
        given = limits(space.input_shape, max_params=bound, min_receptive_field=1)
        try:
            values = with_filled_widths(space, given, space.draw(rng))
        except ShapeError:
            continue
        judgement = judge(space, given, values)
        network = judgement.architecture
        if (
            not judgement.reason
            and network is not None
            and plan_int8_memory(int8_program(lower(network))).length < ARENA
        ):
            drawn.append(network)
    return drawn


def measure(architecture: Architecture, cores: list[str]) -> tuple[dict[str, int], dict[str, int]]:
    """Returns the instructions of a network with random weights on each core, and the rounds of its loops."""
    torch.manual_seed(0)
    weights = architecture.build().state_dict()
    channels = architecture.input_shape[0]
    images = torch.randint(256, (8, *architecture.input_shape), dtype=torch.uint8)
    network = quantise(calibrate(architecture, weights, images, mean=[0.5] * channels, std=[0.25] * channels))
    classes = [str(i) for i in range(architecture.output_shape[0])]
    pixels = images[:1].numpy()
    board_of = {board.core: board for board in load_boards()}
    with tempfile.TemporaryDirectory() as place:
        for name, text in int8_c_files(network, classes=classes, facts=[]).items():
            (Path(place) / name).write_text(text, encoding="ascii")
        expected = run_int8(network, pixels)
        found = {core: run_on_core(Path(place), board_of[core], pixels, expected).instructions for core in cores}
    return found, dict(loop_counts(network.program))


def fit(core: str, names: list[str], matrix: np.ndarray, numbers: np.ndarray) -> dict[str, object]:
    """Returns the coefficients fitted to the first networks, and the errors on the others, in per cent."""
    split = round(FITTED_SHARE * len(numbers))
    relative = matrix / numbers[:, None]
    coefficients, _ = nnls(relative[:split], np.ones(split))
    errors = 100 * np.abs(relative[split:] @ coefficients - 1)
    return {
        "core": core,
        "fitted": split,
        "held_out": len(numbers) - split,
        "median_error_percent": round(float(np.median(errors)), 2),
        "largest_error_percent": round(float(errors.max()), 2),
        "coefficients": {name: round(float(value), 2) for name, value in zip(names, coefficients, strict=True)},
    }


if __name__ == "__main__":
    main()
