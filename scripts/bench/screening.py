"""Measures how fast candidates are drawn, costed and judged, compared with the usual way.

The usual way builds the module inside the objective, counts its parameters and raises `TrialPruned`.

    python scripts/bench/screening.py [--json] [--seed 0]

Prints three groups of figures:
- random: candidates per second that are drawn, costed and judged, and that are drawn, built and counted, for draws with
  the same seed.
- learning: seconds to sample a feasible candidate (a survivor), at limits that 0.4 % of the space `mnist` satisfies,
  with 500 trained trials in the study (SQLite, as in `nas search`).
- usual: trials and seconds per survivor at the same limits, with Optuna's TPE and `TrialPruned`.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

import optuna
import torch

from nas.architecture.cost import cost_of
from nas.errors import ShapeError
from nas.sampling.candidate_view import CandidateView
from nas.sampling.feasible import FeasibleSampler
from nas.space.constraints import Constraint
from nas.space.domains import Value
from nas.space.feasibility import judge
from nas.space.search_space import SearchSpace
from nas.space.survey import survey
from nas.study.database import open_storage


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Amount of work.

    Attributes:
        screened: Candidates to judge.
        built: Modules to build.
        trained: Trials in the study before sampling is timed.
        survivors: Feasible candidates to sample.
        usual_seconds: Seconds to spend on the usual way.
    """

    screened: int
    built: int
    trained: int
    survivors: int
    usual_seconds: float


def limits_at(space: SearchSpace, share: float, screened: int) -> tuple[Constraint, ...]:
    """Returns a minimum receptive field of 28 and the limit on parameters that leaves `share` of the space."""
    receptive_field = Constraint("receptive_field", ">=", 28)
    rng = Random(1)
    verdicts = (judge(space, (receptive_field,), space.draw(rng)) for _ in range(2 * screened))
    params = sorted(verdict.cost.params for verdict in verdicts if verdict.cost is not None and not verdict.reason)
    return Constraint("params", "<=", params[int(share * 2 * screened)]), receptive_field


def bench_random(space: SearchSpace, limits: tuple[Constraint, ...], sizes: Sizes, seed: int) -> dict[str, float]:
    rng = Random(seed)
    start = time.perf_counter()
    feasible = sum(not judge(space, limits, space.draw(rng)).reason for _ in range(sizes.screened))
    screened = sizes.screened / (time.perf_counter() - start)
    rng = Random(seed)
    start = time.perf_counter()
    for _ in range(sizes.built):
        try:
            module = space.architecture(space.draw(rng)).build()
            sum(p.numel() for p in module.parameters() if p.requires_grad)
        except ShapeError:
            pass
    built = sizes.built / (time.perf_counter() - start)
    return {
        "feasible_share": feasible / sizes.screened,
        "screened_per_second": screened,
        "built_per_second": built,
        "screened_to_built_ratio": screened / built,
    }


def objective_of(space: SearchSpace, values: Mapping[str, Value]) -> float:
    """Returns a cheap objective to learn: it rewards multiply-accumulates and a learning rate near 0.05."""
    candidate = space.candidate(values)
    return cost_of(candidate.architecture).macs / 1e6 - abs(candidate.recipe.learning_rate - 0.05)


def bench_learning(space: SearchSpace, limits: tuple[Constraint, ...], sizes: Sizes, seed: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        sampler = FeasibleSampler(space, limits, seed=seed)
        storage = open_storage(f"sqlite:///{folder}/studies.db")
        study = optuna.create_study(direction="maximize", storage=storage)
        view = CandidateView(
            lambda: {trial.number: trial for trial in study.get_trials(deepcopy=False)}, study.directions
        )
        distributions = space.distributions()
        rng = Random(seed)
        seen: set[str] = set()

        def add(values: Mapping[str, Value]) -> None:
            study.add_trial(
                optuna.trial.create_trial(
                    value=objective_of(space, values),
                    params=dict(values),
                    distributions=distributions,
                    user_attrs={"candidate": len(seen)},
                )
            )
            seen.add(space.candidate(values).fingerprint())

        while len(seen) < sizes.trained:
            values = space.draw(rng)
            if not judge(space, limits, values).reason:
                add(values)
        seconds, draws = [], []
        for _ in range(sizes.survivors):
            start = time.perf_counter()
            drawn = sampler.draw(view, seen)
            seconds.append(time.perf_counter() - start)
            draws.append(drawn.num_draws)
            add(drawn.values)
        storage.engine.dispose()
    return {
        "num_trained": sizes.trained,
        "num_survivors": sizes.survivors,
        "sampling_seconds_median": statistics.median(seconds),
        "sampling_seconds_max": max(seconds),
        "draws_per_survivor": statistics.mean(draws),
    }


def bench_usual(space: SearchSpace, limits: tuple[Constraint, ...], sizes: Sizes, seed: int) -> dict[str, float]:
    sampler = optuna.samplers.TPESampler(multivariate=True, seed=seed)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    num_trials = num_survivors = 0
    distinct = set()

    def objective(trial: optuna.Trial) -> float:
        nonlocal num_survivors
        try:
            candidate = space.suggest(trial)
            module = candidate.architecture.build()
        except ShapeError:
            raise optuna.TrialPruned from None
        num_params = sum(p.numel() for p in module.parameters() if p.requires_grad)
        receptive_field = cost_of(candidate.architecture).receptive_field
        if num_params > limits[0].bound or receptive_field < limits[1].bound:
            raise optuna.TrialPruned
        num_survivors += 1
        distinct.add(candidate.fingerprint())
        return objective_of(space, trial.params)

    start = time.perf_counter()
    while time.perf_counter() - start < sizes.usual_seconds:
        study.optimize(objective, n_trials=10)
        num_trials += 10
    elapsed = time.perf_counter() - start
    return {
        "usual_trials": num_trials,
        "usual_survivors": num_survivors,
        "usual_distinct_survivors": len(distinct),
        "usual_seconds_for_each_survivor": elapsed / max(1, num_survivors),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--screened", type=int, default=10_000)
    parser.add_argument("--built", type=int, default=500)
    parser.add_argument("--trained", type=int, default=500)
    parser.add_argument("--survivors", type=int, default=30)
    parser.add_argument("--usual-seconds", type=float, default=60)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = SearchSpace.load("mnist")
    main_job = (Constraint("params", "<=", 8000), Constraint("receptive_field", ">=", 28))
    sizes = Sizes(**{name: getattr(options, name) for name in Sizes.__dataclass_fields__})
    tight = limits_at(space, 0.004, sizes.screened)
    figures: dict[str, object] = {
        "machine": f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}",
        "seed": options.seed,
        "random": bench_random(space, main_job, sizes, options.seed),
        "tight_limits": [str(limit) for limit in tight],
        "tight_feasible_share": survey(space, tight, num_draws=sizes.screened, seed=2).feasible_share,
        "learning": bench_learning(space, tight, sizes, options.seed),
        "usual": bench_usual(space, tight, sizes, options.seed),
    }
    usual, learning = figures["usual"], figures["learning"]
    assert isinstance(usual, dict)
    assert isinstance(learning, dict)
    figures["usual_to_ours_seconds_ratio"] = (
        usual["usual_seconds_for_each_survivor"] / learning["sampling_seconds_median"]
    )
    if options.json:
        print(json.dumps(figures, indent=2))
        return
    for name, value in figures.items():
        rows = value.items() if isinstance(value, dict) else [("", value)]
        for key, number in rows:
            text = f"{number:,.4g}" if isinstance(number, float) else number
            print(f"{name + ' ' + key:<45} {text}")


if __name__ == "__main__":
    main()
