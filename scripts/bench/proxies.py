"""Measures how well zero-cost proxies predict, before training, which candidates train well.

    python scripts/bench/proxies.py --table results/search_table.csv

Reads the table that `search_table.py` wrote, scores every candidate's untrained network, and prints in Markdown how
well each score ranks the objective: the mean val accuracy of the last 5 epochs with seed 0. Higher scores count as
better, as in the papers. Scores use torch's default initialisation (seed 0) and one batch of 64 training images;
dropout is off. Batch norm uses the batch's statistics unless stated otherwise.

- synflow: log of the sum of |w dL/dw| over the weights of convolutions and linear layers; L is the sum of the outputs
  for an input of ones, with all parameters replaced by their absolute values and batch norm by the identity (float64).
  Tanaka et al., "Pruning neural networks without any data by iteratively conserving synaptic flow", 2020; in the form
  of Abdelfattah et al., "Zero-cost proxies for lightweight NAS", 2021, like grad_norm, snip and jacob_cov.
- grad_norm: sum, over the same layers, of the L2 norm of the weights' gradient of the cross entropy.
- snip: sum of |w dL/dw| of the cross entropy (Lee et al., "SNIP", 2019).
- jacob_cov: minus the sum of log(v + k) + 1 / (v + k), k = 1e-5, over the eigenvalues v of the correlation matrix of
  the images' gradients of the summed outputs (Mellor et al., "Neural architecture search without training", first
  version, 2020). With a batch norm near the end the sum over a batch is constant, and this gradient is rounding noise.
- jacob_cov_held: the same with the batch's statistics as constants, so that each image has its own gradient.
- naswot: log-determinant of the kernel that counts, for each pair of images, the units at which the inputs of the
  activation function, of any kind, have the same sign (Mellor et al., arXiv 2006.04647).

The baselines follow from the architecture alone. The logarithm of a baseline gives the same ranks, so it has no row.
"""

import argparse
import csv
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

sys.path.append(str(Path(__file__).parents[2]))

from nas.architecture.architecture import Architecture
from nas.architecture.cost import cost_of
from nas.data import datasets
from nas.space.domains import Value
from nas.space.search_space import SearchSpace
from nas.training.reference import initialise
from nas.training.results import objective
from scripts.bench.ranking import (
    DRAWN,
    RESAMPLES,
    SEED,
    TOP,
    Array,
    Resampling,
    gain,
    kendall,
    more,
    partial_correlation,
    spearman,
    top_lost,
    within,
)
from scripts.bench.search_table import TABLE, cell_value, space_of

NUM_LAST_EPOCHS, BATCH = 5, 64
WEIGHTED = (nn.Conv2d, nn.Linear)
ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Hardswish)

Scores = dict[str, Array]


# Proxies: functions from an untrained network in training mode (without dropout), images and labels to a score.


def synflow(module: nn.Module, images: Tensor, labels: Tensor) -> float:
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, nn.Identity())
    module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.abs_()
    ones = torch.ones(1, *images.shape[1:], dtype=torch.float64)
    torch.autograd.backward(module(ones).sum())
    return math.log(_saliency(module))


def grad_norm(module: nn.Module, images: Tensor, labels: Tensor) -> float:
    torch.autograd.backward(functional.cross_entropy(module(images), labels))
    return math.fsum(gradient.norm().item() for _, gradient in _weights(module))


def snip(module: nn.Module, images: Tensor, labels: Tensor) -> float:
    torch.autograd.backward(functional.cross_entropy(module(images), labels))
    return _saliency(module)


def jacob_cov(module: nn.Module, images: Tensor, labels: Tensor) -> float:
    x = images.clone().requires_grad_()
    torch.autograd.backward(module(x).sum())
    assert x.grad is not None
    eigenvalues = np.linalg.eigvalsh(np.corrcoef(x.grad.flatten(1).double().numpy())).clip(0) + 1e-5
    return -float(np.sum(np.log(eigenvalues) + 1 / eigenvalues))


def jacob_cov_held(module: nn.Module, images: Tensor, labels: Tensor) -> float:
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0  # the running statistics become the batch's
    with torch.no_grad():
        module(images)
    return jacob_cov(module.eval(), images, labels)


def naswot(module: nn.Module, images: Tensor, labels: Tensor) -> float:
    kernel = torch.zeros(len(images), len(images), dtype=torch.float64)

    def add(_: nn.Module, inputs: tuple[Tensor]) -> None:
        code = (inputs[0] > 0).flatten(1).float()
        kernel.add_(code @ code.T + (1 - code) @ (1 - code).T)

    for layer in module.modules():
        if isinstance(layer, ACTIVATIONS):
            layer.register_forward_pre_hook(add)
    with torch.no_grad():
        module(images)
    return float(torch.linalg.slogdet(kernel).logabsdet)


def _weights(module: nn.Module) -> list[tuple[Tensor, Tensor]]:
    layers = (layer for layer in module.modules() if isinstance(layer, WEIGHTED))
    return [(layer.weight.detach(), layer.weight.grad) for layer in layers if layer.weight.grad is not None]


def _saliency(module: nn.Module) -> float:
    return math.fsum((weight * gradient).abs().sum().item() for weight, gradient in _weights(module))


PROXIES: dict[str, Callable[[nn.Module, Tensor, Tensor], float]] = {
    "synflow": synflow,
    "naswot": naswot,
    "jacob_cov": jacob_cov,
    "jacob_cov_held": jacob_cov_held,
    "grad_norm": grad_norm,
    "snip": snip,
}
GIVEN = ("macs", "params")
BASELINES = ("params", "macs", "convolutions", "receptive_field")


def score(proxy: str, architecture: Architecture, images: Tensor, labels: Tensor, seed: int) -> float:
    """Returns a proxy's score; minus infinity, which ranks last, if it is not finite."""
    module = initialise(architecture, seed=seed).train()
    for layer in module.modules():
        if isinstance(layer, nn.Dropout | nn.Dropout2d):
            layer.eval()
    try:
        value = PROXIES[proxy](module, images, labels)
    except (ValueError, np.linalg.LinAlgError):  # logarithm of 0, eigenvalues of NaN
        value = -math.inf
    return value if math.isfinite(value) else -math.inf


def baselines(architecture: Architecture) -> dict[str, float]:
    cost = cost_of(architecture)
    convolutions = sum(isinstance(layer, nn.Conv2d) for layer in architecture.build().modules())
    return dict(zip(BASELINES, (cost.params, cost.macs, convolutions, cost.receptive_field), strict=True))


# The table


@dataclass(frozen=True, slots=True)
class Trained:
    """Candidates whose training run with seed 0 did not diverge.

    Attributes:
        values: Parameter values of each candidate.
        objectives: Objectives with seed 0, (candidates,).
        repeated: Objectives of the candidates that were trained with every seed, (candidates, seeds).
        num_rows: Number of rows of the table.
        num_diverged: Number of candidates whose run with seed 0 diverged.
    """

    values: list[dict[str, Value]]
    objectives: Array
    repeated: Array
    num_rows: int
    num_diverged: int


def read_table(path: Path, space: SearchSpace) -> Trained:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    epochs = [name for name in rows[0] if name.startswith("epoch")]
    values: dict[int, dict[str, Value]] = {}
    reached: dict[int, dict[int, float]] = {}
    num_diverged = 0
    for row in rows:
        index, seed = int(row["candidate"]), int(row["seed"])
        if not all(row[name] for name in epochs):
            num_diverged += seed == 0
            continue
        values[index] = {name: cell_value(domain, row[name]) for name, domain in space.domains.items()}
        reached.setdefault(index, {})[seed] = objective([float(row[name]) for name in epochs], NUM_LAST_EPOCHS)
    kept = sorted(index for index in reached if 0 in reached[index])
    most = max(map(len, reached.values()))
    repeated = [[by_seed[seed] for seed in sorted(by_seed)] for by_seed in reached.values() if len(by_seed) == most > 1]
    return Trained(
        values=[values[index] for index in kept],
        objectives=np.array([reached[index][0] for index in kept]),
        repeated=np.array(repeated).reshape(-1, most),
        num_rows=len(rows),
        num_diverged=num_diverged,
    )


# Report


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print(f"\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def print_correlations(scores: Scores, target: Array, resampling: Resampling) -> None:
    given, every = ([scores[name] for name in names] for names in (GIVEN, BASELINES))
    rows = []
    for name, column in scores.items():
        rows.append(
            [
                name,
                resampling.cell(partial(spearman, column, target)),
                resampling.cell(partial(kendall, column, target)),
                "" if name in GIVEN else resampling.cell(partial(partial_correlation, given, column, target)),
                "" if name in BASELINES else resampling.cell(partial(partial_correlation, every, column, target)),
                *(f"{spearman(column, other, resampling.once)[0]:+.2f}" for other in given),
            ]
        )
    head = ["score", "Spearman's rho", "Kendall's tau", f"rho given {' and '.join(GIVEN)}", "rho given all baselines"]
    print_table([*head, *(f"rho with {name}" for name in GIVEN)], rows)


def print_within(scores: Scores, target: Array, optimizers: NDArray[np.str_], resampling: Resampling) -> None:
    names = np.unique(optimizers)
    rows = []
    for name, column in scores.items():
        row = [name, resampling.cell(partial(within, optimizers, column, target))]
        row += [
            resampling.of_some(x).cell(partial(spearman, column[x], target[x])) for x in names[:, None] == optimizers
        ]
        rows.append(row)
    print_table(
        ("score", "rho within an optimizer", *(f"{name} ({(optimizers == name).sum()})" for name in names)), rows
    )


def print_filter(
    scores: Scores, again: Scores, seconds: dict[str, float], target: Array, resampling: Resampling
) -> None:
    ends = {"at random": np.zeros_like(target), "by the objective itself": target}
    rows = []
    for name, column in {**scores, **ends}.items():
        row = [name, resampling.cell(partial(gain, column, target), "+.3f", 100)]
        for than in GIVEN:
            extra = resampling.cell(partial(more, scores[than], column, target), "+.3f", 100)
            row.append(extra if name in PROXIES else "")
        row.append(resampling.cell(partial(top_lost, column, target), ".0f", 100))
        row.append(f"{seconds[name] * 1000:.0f}" if name in seconds else "")
        row.append(f"{spearman(column, again[name], resampling.once)[0]:.2f}" if name in again else "")
        rows.append(row)
    head = [f"best of {DRAWN} by", "gain, points of accuracy", *(f"gain above that by {name}" for name in GIVEN)]
    print_table([*head, f"top {TOP:.0%} lost, %", "CPU ms a network", "rho between two initialisations"], rows)


def print_ceiling(repeated: Array, target: Array) -> None:
    size, seeds = repeated.shape
    if seeds < 2 or size < 3:
        print("\nNo candidates were repeated yet: no noise ceiling.")
        return
    pairs = [(i, j) for i in range(seeds) for j in range(i)]
    ceiling = Resampling.of(size).cell(
        lambda c: np.mean([spearman(repeated[:, i], repeated[:, j], c) for i, j in pairs], axis=0)
    )
    noise = math.sqrt(repeated.var(1, ddof=1).mean())
    print(
        f"\nNoise ceiling: rho between two seeds {ceiling}, mean of {len(pairs)} pairs of seeds, {size} candidates; "
        f"standard deviation between seeds {noise * 100:.3f} points (median candidate "
        f"{np.median(repeated.std(1, ddof=1)) * 100:.3f}), between all candidates {target.std(ddof=1) * 100:.3f}."
    )


def first_batch(name: str, data_root: str | None) -> tuple[Tensor, Tensor]:
    """Returns a random batch of normalised training images and their labels."""
    dataset = datasets.load(name, data_root=data_root)
    chosen = torch.randperm(len(dataset.train.images), generator=torch.Generator().manual_seed(SEED))[:BATCH]
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (dataset.mean, dataset.std))
    return (dataset.train.images[chosen] / 255 - mean) / std, dataset.train.labels[chosen]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--candidates", type=int, help="use only the first so many candidates of the table")
    parser.add_argument("--proxies", nargs="+", choices=PROXIES, default=list(PROXIES))
    parser.add_argument("--dataset", choices=["mnist", "digits"], default="mnist")
    parser.add_argument("--data-root")
    args = parser.parse_args()

    torch.set_num_threads(1)
    space = space_of(args.table)
    trained = read_table(args.table, space)
    target = trained.objectives[: args.candidates]
    candidates = [space.candidate(values) for values in trained.values[: args.candidates]]
    images, labels = first_batch(args.dataset, args.data_root)

    scores: Scores = {}
    again: Scores = {}
    seconds: dict[str, float] = {}
    for proxy in args.proxies:
        values, spent = [], []
        for candidate in candidates:
            start = time.process_time()
            values.append(score(proxy, candidate.architecture, images, labels, SEED))
            spent.append(time.process_time() - start)
        scores[proxy], seconds[proxy] = np.array(values), statistics.median(spent)
        again[proxy] = np.array([score(proxy, c.architecture, images, labels, SEED + 1) for c in candidates])
    described = [baselines(candidate.architecture) for candidate in candidates]
    scores |= {name: np.array([one[name] for one in described], dtype=np.float64) for name in BASELINES}

    quantiles = ", ".join(f"{q:.2%}" for q in np.quantile(target, (0, 0.1, 0.25, 0.5, 0.75, 0.9, 1)))
    infinite = {name: int(np.isinf(column).sum()) for name, column in scores.items() if np.isinf(column).any()}
    print(
        f"{trained.num_rows} rows: {len(target)} candidates, {trained.num_diverged} more that diverged, left out. "
        f"Objective: {quantiles} (minimum, 10, 25, 50, 75, 90 %, maximum). Scores that are not finite: "
        f"{infinite or 'none'}. In brackets: 95 % intervals of {RESAMPLES} resamples of the candidates."
    )
    resampling = Resampling.of(len(target))
    print_correlations(scores, target, resampling)
    print_within(scores, target, np.array([c.recipe.optimizer for c in candidates]), resampling)
    print_filter(scores, again, seconds, target, resampling)
    print_ceiling(trained.repeated, target)


if __name__ == "__main__":
    main()
