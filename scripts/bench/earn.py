"""Does the search earn its keep? Three ways to search under the same limits, each with the same budget.

    python scripts/bench/earn.py --trials 20 --seeds 3 --runs FOLDER     # hours on two cores; run again, it goes on
    python scripts/bench/earn.py --trials 20 --seeds 3 --runs FOLDER --table

default: `nas search`. random: `nas search --sampler random`. plain: what people write without this tool, an Optuna
objective over the same space that raises `TrialPruned` where a candidate misses a limit or has been had before, with
Optuna's own defaults, until as many candidates are trained or 3,000 trials are over. All three train with the same
engine, one thread, and are judged by the mean val accuracy of the last 5 epochs. The best of each search is then
trained on train and val with `--confirm-seeds` seeds and held against the test split, the same way for all three.

At most 500,000 multiply-accumulates unless told otherwise, so that nine searches end within hours: networks with more
do better, but train several times as long. Prints a line of JSON for each part that ends, and a table in Markdown.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, TypedDict

import optuna
import torch
from optuna.trial import TrialState

import nas
from nas.errors import ShapeError, TrainingDiverged

ARMS = ("default", "random", "plain")
INPUT_SHAPE, NUM_CLASSES = (1, 28, 28), 10  # of every dataset that may be named
LAST_EPOCHS = 5
MOST_TRIALS = 3000
TITLES = (
    *("way", "seed", "trained", "discarded or wasted", "best val", "mean val", "params"),
    *("test, mean ± sd over seeds", "lowest of last 5 epochs, mean", "minutes"),
)


class Limits(TypedDict):
    """What a candidate has to keep."""

    max_params: int
    max_macs: int
    min_receptive_field: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What all searches have in common."""

    dataset: str
    data_root: str | None
    space: str
    epochs: int
    trials: int
    max_params: int
    max_macs: int
    min_receptive_field: int | None
    confirm_seeds: int

    @property
    def limits(self) -> "Limits":
        """As `nas.search` and `nas.limits` take them."""
        return {
            "max_params": self.max_params,
            "max_macs": self.max_macs,
            "min_receptive_field": self.min_receptive_field,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a search came to. discarded: candidates that were not trained."""

    trained: int
    discarded: int
    best: float
    mean: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Run:
    """One search and the confirmation of what it found, in a folder; a part whose file is there is not run again."""

    arm: str
    seed: int
    setting: Setting
    folder: Path

    def search(self) -> str:
        """Searches, and keeps the best network and recipe as files."""
        quiet()
        if self.found is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            began = time.monotonic()
            try:
                found, architecture, recipe = (plain if self.arm == "plain" else ours)(self)
            finally:
                seconds = self._spent() + time.monotonic() - began
                write(self.folder / "seconds.json", seconds)
            write(self.folder / "architecture.json", architecture.to_json())
            write(self.folder / "recipe.json", recipe.to_json())
            write(self.folder / "found.json", {**found, "seconds": seconds})
        return self.line("found")

    def confirm(self) -> str:
        """Trains the best with several seeds, on train and val, and judges it on the test split."""
        quiet()
        if self.confirmed is None:
            setting = self.setting
            repeats = nas.train_seeds(
                nas.Architecture.load(self.folder / "architecture.json"),
                nas.Recipe.load(self.folder / "recipe.json"),
                seeds=setting.confirm_seeds,
                dataset=setting.dataset,
                data_root=setting.data_root,
                device="cpu",
                workers=1,
                test=True,
            )
            write(self.folder / "confirmed.json", repeats.to_json())
        return self.line("confirmed")

    @property
    def found(self) -> Found | None:
        """What the search came to, None before it has ended."""
        row = read(self.folder / "found.json")
        return None if row is None else Found(**row)

    @property
    def confirmed(self) -> dict[str, Any] | None:
        """What `Repeats.to_json` gave, None before it has ended."""
        row: dict[str, Any] | None = read(self.folder / "confirmed.json")
        return row

    def line(self, part: str) -> str:
        """A part that has ended, as JSON."""
        return json.dumps({"arm": self.arm, "seed": self.seed, part: read(self.folder / f"{part}.json")})

    def _spent(self) -> float:
        """Seconds of earlier sessions, those that were killed left out."""
        return float(read(self.folder / "seconds.json") or 0.0)


Result = tuple[dict[str, float], nas.Architecture, nas.Recipe]


def ours(run: Run) -> Result:
    """`nas search`."""
    setting = run.setting
    result = nas.search(
        dataset=setting.dataset,
        data_root=setting.data_root,
        space=setting.space,
        epochs=setting.epochs,
        trials=setting.trials,
        **setting.limits,
        sampler="random" if run.arm == "random" else None,
        seed=run.seed,
        device="cpu",
        workers=1,
        results=run.folder,
    )
    if not result.best or result.interrupted:
        raise SystemExit(f"{run.folder}: the search was interrupted, or every training diverged")
    best = result.best[0]
    assert best.architecture is not None
    assert best.recipe is not None
    reached = [trial.objective for trial in nas.trials(results=run.folder) if trial.objective is not None]
    return summary(reached, discarded=sum(result.discards.values())), best.architecture, best.recipe


def plain(run: Run) -> Result:
    """An ordinary study of Optuna's. A training that diverges costs budget, as it does in `nas search`."""
    setting = run.setting
    space = nas.SearchSpace.load(setting.space).bind(
        input_shape=INPUT_SHAPE, num_classes=NUM_CLASSES, epochs=setting.epochs
    )
    kept = nas.limits(INPUT_SHAPE, **setting.limits)
    storage = f"sqlite:///{run.folder / 'plain.db'}"
    study = optuna.create_study(study_name="plain", storage=storage, direction="maximize", load_if_exists=True)
    # Begun again with the same seed it would draw the same candidates again.
    study.sampler = optuna.samplers.TPESampler(seed=run.seed + 1000 * len(study.trials))
    had = {trial.user_attrs["fingerprint"] for trial in ended(study)}

    def objective(trial: optuna.Trial) -> float:
        try:
            candidate = space.suggest(trial)
            cost = nas.cost_of(candidate.architecture)
        except ShapeError:
            raise optuna.TrialPruned from None
        if any(limit.violation(cost) > 0 for limit in kept) or candidate.fingerprint() in had:
            raise optuna.TrialPruned
        had.add(candidate.fingerprint())
        trial.set_user_attr("fingerprint", candidate.fingerprint())
        trial.set_user_attr("architecture", candidate.architecture.to_json())
        trial.set_user_attr("recipe", candidate.recipe.to_json())
        try:
            fit = nas.train(
                candidate.architecture,
                candidate.recipe,
                dataset=setting.dataset,
                data_root=setting.data_root,
                seed=run.seed,
                device="cpu",
            )
        except TrainingDiverged:
            trial.set_user_attr("diverged", True)
            raise
        return fmean(metrics.val_accuracy for metrics in fit.history[-LAST_EPOCHS:])

    def stop_when_spent(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        if len(ended(study)) >= setting.trials:
            study.stop()

    left = MOST_TRIALS - len(study.trials)
    if left > 0 and len(ended(study)) < setting.trials:
        study.optimize(objective, n_trials=left, catch=TrainingDiverged, callbacks=[stop_when_spent])
    reached = [trial.values[0] for trial in ended(study) if trial.state == TrialState.COMPLETE]
    if not reached:
        raise SystemExit(f"{run.folder}: {len(study.trials)} trials, none was trained to its end")
    best = study.best_trial.user_attrs
    wasted = len(study.get_trials(deepcopy=False, states=(TrialState.PRUNED,)))
    architecture = nas.Architecture.from_json(best["architecture"])
    return summary(reached, discarded=wasted), architecture, nas.Recipe.from_json(best["recipe"])


def ended(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """The trials that were trained: to the end, or until their loss was no number."""
    trials = study.get_trials(deepcopy=False)
    return [trial for trial in trials if trial.state == TrialState.COMPLETE or "diverged" in trial.user_attrs]


def summary(reached: Sequence[float], *, discarded: int) -> dict[str, float]:
    """The fields of `Found`, without seconds."""
    return {"trained": len(reached), "discarded": discarded, "best": max(reached), "mean": fmean(reached)}


def table(runs: Sequence[Run]) -> Iterator[str]:
    """A row a search, and one for each way over its seeds."""
    yield f"| {' | '.join(TITLES)} |"
    yield f"|{' --- |' * len(TITLES)}"
    for arm in ARMS:
        done = [(run, found) for run in runs if run.arm == arm and (found := run.found) is not None]
        yield from (search_row(run, found) for run, found in done)
        if len(done) < 2:
            continue
        best, mean = spread([found.best for _, found in done]), spread([found.mean for _, found in done])
        finals = [row["final_accuracy_mean"] for run, _ in done if (row := run.confirmed) is not None]
        final = f"{spread(finals)} (of the seeds' means)" if len(finals) > 1 else ""
        minutes = fmean(found.seconds for _, found in done) / 60
        yield f"| **{arm}** | all | | | {best} | {mean} | | {final} | | {minutes:.0f} |"


def search_row(run: Run, found: Found) -> str:
    """One search, accuracies in per cent."""
    test = ["", "", ""]
    if (row := run.confirmed) is not None:
        mean, sd = row["final_accuracy_mean"], row["final_accuracy_sd"]
        lowest = row["consistent_accuracy_mean"]
        test = [f"{row['params']:,}", f"{100 * mean:.2f} ± {100 * sd:.2f}", f"{100 * lowest:.2f}"]
    cells = [run.arm, run.seed, found.trained, found.discarded, f"{100 * found.best:.2f}", f"{100 * found.mean:.2f}"]
    return f"| {' | '.join(map(str, [*cells, *test, f'{found.seconds / 60:.0f}']))} |"


def spread(accuracies: Sequence[float]) -> str:
    """Mean and standard deviation, in per cent."""
    return f"{100 * fmean(accuracies):.2f} ± {100 * stdev(accuracies):.2f}"


def quiet() -> None:
    """One thread, and no line a trial."""
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def read(path: Path) -> Any:
    """What the file holds, None where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def write(path: Path, content: object) -> None:
    """The file is there whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    part.replace(path)


def options() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="folder of the runs, and of their setting")
    parser.add_argument("--dataset", choices=["mnist", "fashion-mnist", "kmnist", "digits"], default="mnist")
    parser.add_argument("--data-root")
    parser.add_argument("--space", default="mnist")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--confirm-seeds", type=int, default=3, help="at least 2")
    parser.add_argument("--max-params", type=int, default=8_000)
    parser.add_argument("--max-macs", type=int, default=500_000)
    parser.add_argument("--min-receptive-field", type=int, help="default: the image's side")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="print the table of what has ended, and train nothing")
    return parser.parse_args()


def main() -> None:
    args = options()
    setting = Setting(**{name: getattr(args, name) for name in Setting.__dataclass_fields__})
    runs = [Run(arm, seed, setting, args.runs / f"{arm}-{seed}") for seed in range(args.seeds) for arm in ARMS]
    if not args.table:
        path, settled = args.runs / "setting.json", {**asdict(setting), "data_root": None}
        args.runs.mkdir(parents=True, exist_ok=True)
        if (before := read(path)) not in (None, settled):
            raise SystemExit(f"{args.runs}: its runs have another setting, {before}; name another folder")
        write(path, settled)
        with ProcessPoolExecutor(args.processes) as pool:
            for part in (Run.search, Run.confirm):
                for line in pool.map(partial(part), runs):
                    print(line, flush=True)
    print("\n".join(table(runs)))


if __name__ == "__main__":
    main()
