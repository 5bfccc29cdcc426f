"""Compares samplers and pruners at equal training budget, on a model of trained candidates.

    python scripts/bench/search.py --budgets 20 50 100 --seeds 10
    python scripts/bench/search.py --model          # quality of the model, and objective by parameter value

`search_table.py` made the table of trained candidates. A sampler may propose candidates that are not in the table, so a
model predicts their learning curves: a random forest for the logarithm of the error after each epoch. What the model
does not explain (a candidate's own residual and seed noise) is drawn for each candidate, as a whole curve, from the
model's out-of-bag residuals. So the unexplained variance, and how well early epochs predict late ones, are as in the
table. Searches use the samplers and pruners of `nas search`, with one worker.
"""

import argparse
import csv
import math
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from random import Random
from statistics import fmean, stdev
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.ensemble import RandomForestRegressor

sys.path.append(str(Path(__file__).parents[2]))

from nas.architecture.composites import DepthwiseSeparable
from nas.architecture.cost import cost_of
from nas.architecture.layers import AvgPool, Conv, Convolution, Dropout
from nas.sampling.candidate_view import CandidateView
from nas.sampling.feasible import FeasibleSampler
from nas.sampling.pruners import CandidatePruner, pruner_named
from nas.sampling.samplers import NUM_CHOICES, NUM_STARTUP, sampler_named
from nas.space.candidate import Candidate
from nas.space.constraints import limits
from nas.space.domains import Choice, IntRange, Value
from nas.space.search_space import SearchSpace
from nas.training.results import objective
from scripts.bench.search_table import EPOCHS, TABLE, cell_value, space_of

NUM_LAST_EPOCHS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--model", action="store_true")
    parser.add_argument("--samplers", nargs="+", default=["tpe", "random", "nsga2", "evolution"])
    parser.add_argument("--pruners", nargs="+", default=["none", "median", "asha", "hyperband"])
    parser.add_argument("--budgets", type=int, nargs="+", default=[20, 50, 100])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--startup", type=int, default=NUM_STARTUP)
    parser.add_argument("--choices", type=int, nargs="+", default=[1, NUM_CHOICES])
    parser.add_argument("--space", default=str(TABLE.with_suffix(".toml")))
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    table = Table.read(args.table)
    if args.model:
        print("\n".join(table.lines()))
        return
    replays = [
        Replay(args.table, args.space, sampler, pruner_name, budget, seed, args.startup, choices)
        for budget in args.budgets
        for sampler in args.samplers
        for choices in args.choices
        for pruner_name in args.pruners
        for seed in range(args.seeds)
    ]
    with ProcessPoolExecutor(args.processes) as pool:
        found = list(pool.map(Replay.run, replays))
    print(
        "| budget | sampler | largest of | pruner | best found | above random | mean of all trained | trained"
        " | stopped |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    by_setting: dict[tuple[int, str, int, str], list[dict[str, float]]] = {}
    for replay, row in zip(replays, found, strict=True):
        by_setting.setdefault((replay.budget, replay.sampler, replay.choices, replay.pruner), []).append(row)
    for setting, rows in by_setting.items():
        budget, *words = setting
        # Paired by seed, because equal seeds begin with the same draws.
        plain = by_setting.get((budget, "random", 1, "none"), rows)
        gains = [100 * (row["best"] - other["best"]) for row, other in zip(rows, plain, strict=True)]
        cells = [
            spread([100 * row["best"] for row in rows]),
            f"{fmean(gains):+.3f} ± {stdev(gains) / len(gains) ** 0.5:.3f}",
        ]
        cells.append(spread([100 * row["mean"] for row in rows]))
        cells += [f"{fmean(row[key] for row in rows):.0f}" for key in ("num_trained", "num_pruned")]
        print(f"| {budget} | {' | '.join(map(str, words))} | {' | '.join(cells)} |")


def spread(values: Sequence[float]) -> str:
    return f"{fmean(values):.3f} ± {stdev(values):.3f}" if len(values) > 1 else f"{values[0]:.3f}"


def features(candidate: Candidate) -> list[float]:
    """Returns the model's inputs: features of the network and the recipe, without unused parameters."""
    cost, recipe = cost_of(candidate.architecture), candidate.recipe
    layers = [inner for layer in candidate.architecture.layers for inner in (layer, *layer.children())]
    convs = [layer for layer in layers if isinstance(layer, Convolution)]
    widths = [conv.out_channels for conv in convs]
    kinds = [layer.kind for layer in layers]
    drops = [layer.rate for layer in layers if isinstance(layer, Dropout)]
    names = ("relu", "leaky_relu", "silu", "hardswish")
    functions = [getattr(layer, "function", None) for layer in layers]
    return [
        math.log(cost.params), math.log(cost.macs), cost.receptive_field, len(convs), len(widths),
        fmean(widths), min(widths), max(widths), widths[0], widths[-1],
        sum(conv.kernel_size == 5 for conv in convs), sum(conv.kernel_size == 1 for conv in convs),
        sum(isinstance(conv, DepthwiseSeparable) for conv in convs) / len(convs),
        sum(isinstance(conv, Conv) and conv.padding == 0 for conv in convs) / len(convs),
        kinds.count("max_pool") + kinds.count("avg_pool"), any(isinstance(x, AvgPool) for x in layers),
        kinds.count("repeat"), kinds.count("residual"), kinds.count("linear"), max(drops, default=0.0),
        fmean(drops) if drops else 0.0, *(name in functions for name in names),
        next((i for i, kind in enumerate(kinds) if kind == "batch_norm"), 99)
        < next((i for i, kind in enumerate(kinds) if kind == "activation"), 99),
        kinds[-2] == "global_avg_pool", kinds[-3:] == ["global_avg_pool", "flatten", "linear"],
        recipe.optimizer == "sgd", recipe.optimizer == "adamw", math.log(recipe.learning_rate),
        math.log(recipe.learning_rate / (0.1 if recipe.optimizer == "sgd" else 0.01)),
        recipe.schedule == "cosine", math.log(recipe.weight_decay), recipe.label_smoothing, recipe.batch_size,
        recipe.rotation, recipe.translation, recipe.scale, recipe.shear, recipe.brightness, recipe.contrast,
    ]  # fmt: skip


@dataclass
class Table:
    """Trained candidates, to fit a model of their learning curves to.

    Attributes:
        space: Search space of the candidates.
        values: Parameter values of each candidate.
        candidates: Candidates whose run with seed 0 did not diverge.
        curves: Accuracies with seed 0, (candidates, EPOCHS).
        repeats: Accuracies of each candidate with several seeds, (seeds, EPOCHS) each.
        num_diverged: Number of diverged runs.
    """

    space: SearchSpace
    values: list[dict[str, Value]]
    candidates: list[Candidate]
    curves: NDArray[Any]
    repeats: list[NDArray[Any]]
    num_diverged: int

    @classmethod
    def read(cls, path: Path) -> "Table":
        space = space_of(path)
        values: list[dict[str, Value]] = []
        curves: list[list[float]] = []
        by_candidate: dict[str, list[list[float]]] = {}
        num_diverged = 0
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                cells = [row[f"epoch{epoch + 1}"] for epoch in range(EPOCHS)]
                if "" in cells:
                    num_diverged += 1
                    continue
                curve = [float(cell) for cell in cells]
                by_candidate.setdefault(row["candidate"], []).append(curve)
                if row["seed"] == "0":
                    values.append({name: cell_value(domain, row[name]) for name, domain in space.domains.items()})
                    curves.append(curve)
        return cls(
            space=space,
            values=values,
            candidates=[space.candidate(each) for each in values],
            curves=np.array(curves),
            repeats=[np.array(runs) for runs in by_candidate.values() if len(runs) > 1],
            num_diverged=num_diverged,
        )

    def model(self) -> "Model":
        inputs = np.array([features(candidate) for candidate in self.candidates])
        targets = np.log(1 - self.curves)
        forest = RandomForestRegressor(500, min_samples_leaf=2, max_features=0.4, oob_score=True, random_state=0)
        forest.fit(inputs, targets)
        return Model(forest, targets - forest.oob_prediction_)

    def objectives(self) -> list[float]:
        return [objective(curve, NUM_LAST_EPOCHS) for curve in self.curves.tolist()]

    def lines(self) -> list[str]:
        """Returns a report: objectives, seed noise, quality of the model, and the objective by parameter value."""
        found = np.array(self.objectives())
        model = self.model()
        predicted = 1 - np.exp(model.forest.oob_prediction_[:, -NUM_LAST_EPOCHS:]).mean(1)
        within = [runs[:, -NUM_LAST_EPOCHS:].mean(1) for runs in self.repeats]
        noise = math.sqrt(fmean(each.var(ddof=1) for each in within)) if within else math.nan
        quantiles = np.quantile(found, [0, 0.25, 0.5, 0.75, 0.9, 1])
        lines = [
            f"{len(found)} candidates, {self.num_diverged} runs diverged",
            "objective: smallest, quartiles, 90 %, largest " + " ".join(f"{100 * q:.2f}" for q in quantiles),
            f"noise of the seed: sd {100 * noise:.3f} points ({len(within)} candidates)",
            f"model, out of bag: Spearman {spearmanr(predicted, found)[0]:.3f},"
            f" sd of residuals {100 * np.std(predicted - found):.3f} points of {100 * np.std(found):.3f}",
            "accuracy after an epoch against the objective, Spearman: "
            + " ".join(f"{e + 1}: {spearmanr(self.curves[:, e], found)[0]:.2f}" for e in range(EPOCHS)),
            "",
            "| parameter | value | candidates | mean objective | of the best fifth |",
            "| --- | --- | --- | --- | --- |",
        ]
        best = found >= np.quantile(found, 0.8)
        for name, groups in self._groups().items():
            for label, members in groups.items():
                mask = np.array(members)
                if mask.sum() >= 5:
                    share = best[mask].sum() / best.sum()
                    lines.append(f"| {name} | {label} | {mask.sum()} | {100 * found[mask].mean():.2f} | {share:.0%} |")
        return lines

    def _groups(self) -> dict[str, dict[str, list[bool]]]:
        groups: dict[str, dict[str, list[bool]]] = {}
        for name, domain in self.space.domains.items():
            if "block" in name and not name.startswith(("block1.", "num_blocks")):
                continue
            column = [each[name] for each in self.values]
            if isinstance(domain, Choice) or (isinstance(domain, IntRange) and domain.high - domain.low < 4):
                groups[name] = {str(v): [x == v for x in column] for v in sorted(set(column), key=str)}
            else:
                uses = {"recipe.sgd_learning_rate": ("sgd",), "recipe.adam_learning_rate": ("adam", "adamw")}.get(name)
                used = [uses is None or c.recipe.optimizer in uses for c in self.candidates]
                cuts = np.quantile([float(x) for x, u in zip(column, used, strict=True) if u], [0, 0.25, 0.5, 0.75, 1])
                for low, high in pairwise(cuts):
                    groups.setdefault(name, {})[f"{low:.3g} to {high:.3g}"] = [
                        u and low <= float(x) <= high for x, u in zip(column, used, strict=True)
                    ]
        costs = [cost_of(candidate.architecture) for candidate in self.candidates]
        for metric in ("params", "macs", "receptive_field"):
            sizes: list[int] = [getattr(cost, metric) for cost in costs]
            cuts = np.quantile(sizes, [0, 0.25, 0.5, 0.75, 1])
            groups[metric] = {
                f"{low:,.0f} to {high:,.0f}": [low <= size <= high for size in sizes] for low, high in pairwise(cuts)
            }
        return groups


@dataclass
class Model:
    """Model of the learning curves of any candidate."""

    forest: RandomForestRegressor
    residuals: NDArray[Any]

    def curve(self, candidate: Candidate, rng: Random) -> list[float]:
        """Returns the accuracies after each epoch of a simulated training run."""
        mean = self.forest.predict(np.array([features(candidate)]))[0]
        own = self.residuals[rng.randrange(len(self.residuals))]
        curve: list[float] = (1 - np.exp(np.minimum(mean + own, -0.1))).tolist()
        return curve


MODELS: dict[Path, Model] = {}


@dataclass(frozen=True)
class Replay:
    """One simulated search."""

    table: Path
    space: str
    sampler: str
    pruner: str
    budget: int
    seed: int
    startup: int
    choices: int

    def run(self) -> dict[str, float]:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        space = SearchSpace.load(self.space).bind(input_shape=(1, 28, 28), num_classes=10, epochs=EPOCHS)
        if self.table not in MODELS:
            MODELS[self.table] = Table.read(self.table).model()
        model = MODELS[self.table]
        study = optuna.create_study(direction="maximize")
        sampler = FeasibleSampler(
            space,
            limits((1, 28, 28), max_params=8000),
            propose=sampler_named(self.sampler),
            seed=self.seed,
            num_startup=self.startup,
            num_choices=self.choices,
        )
        view = CandidateView(
            lambda: {trial.number: trial for trial in study.get_trials(deepcopy=False)}, study.directions
        )
        asked = CandidatePruner(pruner_named(self.pruner, EPOCHS), view)
        seen: set[str] = set()
        spent, index = 0, 0
        trained: list[float] = []
        while spent + EPOCHS <= self.budget * EPOCHS:
            drawn = sampler.draw(view, seen)
            seen.add(drawn.fingerprint)
            study.enqueue_trial(drawn.values, user_attrs={"candidate": index})
            trial = study.ask(space.distributions())
            curve = model.curve(drawn.candidate, Random(f"{self.seed} {drawn.fingerprint}"))
            for epoch, accuracy in enumerate(curve, start=1):
                trial.report(accuracy, epoch)
                spent += 1
                if epoch < EPOCHS and asked.should_prune(trial.number, index):
                    study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                    break
            else:
                found = objective(curve, NUM_LAST_EPOCHS)
                study.tell(trial, found)
                trained.append(found)
            index += 1
        return {
            "best": max(trained),
            "mean": fmean(trained),
            "num_trained": len(trained),
            "num_pruned": index - len(trained),
        }


if __name__ == "__main__":
    main()
