"""Compares four ways to find a network, each with the same training time or number of training runs.

    python scripts/bench/earn.py --tasks small-mnist --seeds 10 --minutes 5 --runs FOLDER   # resumes if run again
    python scripts/bench/earn.py --tasks small-mnist --seeds 10 --minutes 5 --runs FOLDER --table
    python scripts/bench/earn.py --tasks small-mnist --seeds 10 --trials 20 --runs FOLDER --together cuda

- default: `nas search`.
- random: random draws of the same space, without the portfolio.
- plain: what users write without this package: an Optuna objective over an earlier default space (tasks.py), with
  Optuna's default settings. It raises `TrialPruned` if a candidate violates a limit or was trained before.
- portfolio: the shipped designs, scaled to the limits and trained in turn with new seeds; the design with the best mean
  val accuracy is the result.

`--minutes` is training time on one core with one thread. With `--trials` all ways have the same number of training
runs, including further runs of finalists; `--together cuda` then runs all searches at once on one GPU, each with one
training run at a time.

All ways use the same engine and the same objective, the mean val accuracy of the last 5 epochs. The network that a
search has found is then trained on train and val with `--confirm-seeds` new seeds and evaluated on the test split.

A way starts no training run that would exceed the time, estimated from its earlier runs; time adds up over all
sessions. Prints one line of JSON for each finished part, and a Markdown table: each way's accuracy on the test split,
and how far the default is ahead of it, paired by seed.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache, partial
from math import inf, sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import optuna
import torch
from optuna.trial import FrozenTrial, TrialState

sys.path.append(str(Path(__file__).parents[2]))

import nas
from nas.data import datasets
from nas.errors import ShapeError, TrainingDiverged
from nas.resources import default_space
from nas.space.candidate import Candidate
from nas.space.constraints import Constraint
from nas.space.portfolio import portfolio_candidates
from nas.space.search_space import SearchSpace
from nas.training.data import TrainingData
from nas.workers.backend import Compute
from nas.workers.protocol import Job
from nas.workers.run_all import run_all
from scripts.bench.tasks import TASKS, Task
from scripts.bench.together import run_together

LAST_EPOCHS = 5
MOST_TRIALS = 3000
CONFIRM_SEED = 1000  # first seed of a confirmation; searches hardly ever use seeds 1000, 1001, …
TITLES = (
    *("task", "way", "searches", "trained", "best val", "test, mean of the searches", "lowest search"),
    *("lowest of last 5 epochs, mean", "params", "default ahead by", "minutes"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Settings that all searches of a task share.

    Attributes:
        task: Task of the searches.
        dataset: Name of its dataset for `nas`.
        data_root: Folder of the data; None for the default.
        minutes: Training time of a search; None with `trials`.
        trials: Training runs of a search; None with `minutes`.
        epochs: Epochs of a training run.
        max_macs: Limit on multiply-accumulates; None for no limit.
        confirm_seeds: Number of seeds of a confirmation.
    """

    task: Task
    dataset: str
    data_root: str | None
    minutes: float | None
    trials: int | None
    epochs: int
    max_macs: int | None
    confirm_seeds: int

    def data(self) -> datasets.Dataset:
        """Returns the task's dataset, which each process loads once."""
        return loaded(self.dataset, self.data_root)

    def space(self, name: str) -> SearchSpace:
        """Returns a shipped space, the default one if `name` is empty, bound to the task's images."""
        data = self.data()
        return SearchSpace.load(name or default_space(data.input_shape)).bind(
            input_shape=data.input_shape, num_classes=data.num_classes, epochs=self.epochs
        )

    def limits(self, space: SearchSpace) -> tuple[Constraint, ...]:
        """Returns the limits that candidates must satisfy."""
        return nas.limits(space.input_shape, max_params=self.task.max_params, max_macs=self.max_macs)


@dataclass(slots=True)
class Clock:
    """Training time and training runs of one way over all sessions, stored in a file after each run.

    Attributes:
        path: File that stores them.
        limit: Maximum seconds.
        most: Maximum training runs.
        spent: Seconds so far.
        trained: Training runs so far.
        began: When the current training run began.
    """

    path: Path
    limit: float
    most: float
    spent: float = 0.0
    trained: int = 0
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        if (before := read(self.path)) is not None:
            self.spent, self.trained = before["seconds"], before["trained"]

    def tick(self) -> None:
        """Counts a training run that has just ended."""
        self.spent += time.monotonic() - self.began
        self.trained += 1
        self.began = time.monotonic()
        write(self.path, {"seconds": self.spent, "trained": self.trained})

    def has_time(self) -> bool:
        """Returns whether one more training run of average length would end in time, and starts its clock."""
        if self.trained >= self.most:
            return False
        self.began = time.monotonic()  # time between training runs does not count
        return self.trained == 0 or self.spent * (1 + 1 / self.trained) <= self.limit


@dataclass(frozen=True, slots=True)
class Run:
    """One search and the confirmation of its result, in a folder; a part whose file exists is not run again."""

    arm: str
    seed: int
    setting: Setting
    folder: Path

    def search(self) -> str:
        """Searches, stores the best network and recipe, and returns the part's line of output."""
        quiet()
        if self.found is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            found, candidate = ARMS[self.arm](self)
            write(self.folder / "architecture.json", candidate.architecture.to_json())
            write(self.folder / "recipe.json", candidate.recipe.to_json())
            write(self.folder / "found.json", found)
        return self.line("found")

    def confirm(self) -> str:
        """Trains the best network on train and val with several seeds and evaluates it on the test split."""
        quiet()
        if self.confirmed is None:
            setting = self.setting
            repeats = nas.train_seeds(
                nas.Architecture.load(self.folder / "architecture.json"),
                nas.Recipe.load(self.folder / "recipe.json"),
                seeds=setting.confirm_seeds,
                first_seed=CONFIRM_SEED,
                dataset=setting.dataset,
                data_root=setting.data_root,
                device="cpu",
                workers=1,
                test=True,
            )
            write(self.folder / "confirmed.json", repeats.to_json())
        return self.line("confirmed")

    @property
    def found(self) -> dict[str, float] | None:
        """Result of the search (trained, best, minutes); None before it has ended."""
        row: dict[str, float] | None = read(self.folder / "found.json")
        return row

    @property
    def confirmed(self) -> dict[str, Any] | None:
        """Result of the confirmation as from `Repeats.to_json`; None before it has ended."""
        row: dict[str, Any] | None = read(self.folder / "confirmed.json")
        return row

    def line(self, part: str) -> str:
        """Returns a finished part as a line of JSON."""
        name = {"task": self.setting.task.name, "way": self.arm, "seed": self.seed}
        return json.dumps({**name, part: read(self.folder / f"{part}.json")})

    def clock(self) -> Clock:
        """Returns the clock of a way that does not use `nas search`."""
        minutes, trials = self.setting.minutes, self.setting.trials
        return Clock(self.folder / "clock.json", 60 * (minutes or inf), trials or inf)

    def objective(self, candidate: Candidate, seed: int) -> float:
        """Trains a candidate and returns its mean val accuracy of the last epochs; raises `TrainingDiverged`."""
        data = TrainingData.from_dataset(self.setting.data())
        job = Job(key=0, architecture=candidate.architecture, recipe=candidate.recipe, seed=seed)
        with closing(Compute(device="cpu", workers=1).backend().open(data)) as workers:
            ((_, history, end),) = run_all(workers, [job])
        if end.outcome == "failed":
            raise SystemExit(end.reason)
        if end.outcome != "trained":
            raise TrainingDiverged(len(history) + 1, inf)
        return fmean(metrics.val_accuracy for metrics in history[-LAST_EPOCHS:])


Result = tuple[dict[str, float], Candidate]


def nas_search(run: Run, *, drawn: bool = False) -> Result:
    """Runs `nas search`; with `drawn` all candidates are drawn at random, without the portfolio."""
    setting = run.setting
    options: dict[str, Any] = {"sampler": "random", "portfolio": False} if drawn else {}
    result = nas.search(
        dataset=setting.dataset,
        data_root=setting.data_root,
        epochs=setting.epochs,
        minutes=setting.minutes,
        trials=setting.trials,
        max_params=setting.task.max_params,
        max_macs=setting.max_macs,
        **options,
        seed=run.seed,
        device="cpu",
        workers=1,
        results=run.folder,
    )
    if not result.best or result.interrupted:
        raise SystemExit(f"{run.folder}: the search was interrupted, or every training diverged")
    best = result.best[0]
    tally = result.tally
    found = summary(tally.num_trained + tally.num_further, best.mean_objective, tally.spent_seconds)
    return found, Candidate(best.architecture, best.recipe)


def plain(run: Run) -> Result:
    """Runs an ordinary Optuna study. A diverged training run costs time, as in `nas search`."""
    setting, clock = run.setting, run.clock()
    space = setting.space(setting.task.earlier)
    kept = setting.limits(space)
    storage = f"sqlite:///{run.folder / 'plain.db'}"
    study = optuna.create_study(study_name="plain", storage=storage, direction="maximize", load_if_exists=True)
    # With the same seed a resumed study would draw the same candidates again.
    study.sampler = optuna.samplers.TPESampler(seed=run.seed + 1000 * len(study.trials))
    had = {trial.user_attrs["fingerprint"] for trial in study.trials if "fingerprint" in trial.user_attrs}

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
            return run.objective(candidate, run.seed)
        finally:
            clock.tick()

    def stop_when_spent(study: optuna.Study, trial: FrozenTrial) -> None:
        if not clock.has_time():
            study.stop()

    left = MOST_TRIALS - len(study.trials)
    if left > 0 and clock.has_time():
        study.optimize(objective, n_trials=left, catch=TrainingDiverged, callbacks=[stop_when_spent])
    if not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        raise SystemExit(f"{run.folder}: {len(study.trials)} trials, none was trained to its end")
    best = study.best_trial
    architecture = nas.Architecture.from_json(best.user_attrs["architecture"])
    candidate = Candidate(architecture, nas.Recipe.from_json(best.user_attrs["recipe"]))
    return summary(clock.trained, study.best_value, clock.spent), candidate


def portfolio_in_turn(run: Run) -> Result:
    """Trains the designs of the portfolio in turn, with a new seed each time."""
    setting, clock = run.setting, run.clock()
    space = setting.space("")
    starts, _ = portfolio_candidates(space.portfolio, space, setting.limits(space), seed=run.seed)
    if not starts:
        raise SystemExit(f"{run.folder}: no known design keeps the limits")
    reached: dict[str, list[float]] = read(run.folder / "reached.json") or {start.source: [] for start in starts}
    while clock.has_time():
        start = starts[clock.trained % len(starts)]
        seed = 10_000 * (run.seed + 1) + clock.trained
        try:
            accuracy = run.objective(space.candidate(start.values), seed)
        except TrainingDiverged:
            accuracy = 0.0
        reached[start.source].append(accuracy)
        clock.tick()
        write(run.folder / "reached.json", reached)
    means = {source: fmean(accuracies) for source, accuracies in reached.items() if accuracies}
    best = max(starts, key=lambda start: means.get(start.source, 0.0))
    return summary(clock.trained, means[best.source], clock.spent), space.candidate(best.values)


ARMS: dict[str, Callable[[Run], Result]] = {
    "default": nas_search,
    "random": partial(nas_search, drawn=True),
    "plain": plain,
    "portfolio": portfolio_in_turn,
}


@cache
def loaded(dataset: str, data_root: str | None) -> datasets.Dataset:
    """Returns the dataset from a cache of this process."""
    return datasets.load(dataset, data_root=data_root)


def summary(trained: int, best: float, seconds: float) -> dict[str, float]:
    """Returns the content of `Run.found`."""
    return {"trained": trained, "best": best, "minutes": seconds / 60}


def table(runs: Sequence[Run]) -> Iterator[str]:
    """Yields a Markdown table with one row for each task and way."""
    yield f"| {' | '.join(TITLES)} |"
    yield f"|{' --- |' * len(TITLES)}"
    for task in dict.fromkeys(run.setting.task.name for run in runs):
        finals: dict[str, dict[int, float]] = {}
        for arm in ARMS:
            own = [run for run in runs if run.setting.task.name == task and run.arm == arm]
            done = [(run, found, test) for run in own if (found := run.found) and (test := run.confirmed)]
            if not done:
                continue
            finals[arm] = {run.seed: test["final_accuracy_mean"] for run, _, test in done}
            default = finals.get("default", {})
            pairs = [(default[seed], other) for seed, other in finals[arm].items() if seed in default]
            ahead = difference(pairs) if arm != "default" else ""
            cells = [task, arm, str(len(done)), f"{fmean(found['trained'] for _, found, _ in done):.0f}"]
            cells += [spread([found["best"] for _, found, _ in done]), spread(list(finals[arm].values()))]
            cells += [f"{100 * min(finals[arm].values()):.2f}"]
            cells += [f"{100 * fmean(test['consistent_accuracy_mean'] for _, _, test in done):.2f}"]
            cells += [f"{fmean(test['params'] for _, _, test in done):,.0f}", ahead]
            yield f"| {' | '.join([*cells, format(fmean(found['minutes'] for _, found, _ in done), '.1f')])} |"


def difference(pairs: Sequence[tuple[float, float]]) -> str:
    """Returns the mean difference of pairs and its standard error, in percentage points."""
    gains = [100 * (ours - theirs) for ours, theirs in pairs]
    if len(gains) < 2:
        return f"{gains[0]:+.2f}" if gains else ""
    return f"{fmean(gains):+.3f} ± {stdev(gains) / sqrt(len(gains)):.3f}"


def spread(accuracies: Sequence[float]) -> str:
    """Returns mean and standard deviation in percent."""
    mean = f"{100 * fmean(accuracies):.2f}"
    return f"{mean} ± {100 * stdev(accuracies):.2f}" if len(accuracies) > 1 else mean


def quiet() -> None:
    """Limits torch to one thread and silences Optuna's log."""
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def read(path: Path) -> Any:
    """Returns the content of a JSON file; None if it does not exist."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def write(path: Path, content: object) -> None:
    """Writes a JSON file atomically."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    part.replace(path)


def options() -> argparse.Namespace:
    """Returns the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="folder of the runs and their settings")
    parser.add_argument("--tasks", choices=TASKS, nargs="+", required=True)
    parser.add_argument("--ways", choices=ARMS, nargs="+", default=list(ARMS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, help="training time of a search, on one core")
    parser.add_argument("--trials", type=int, help="training runs of a search")
    parser.add_argument("--together", metavar="DEVICE", help="run all searches of one task at once on this device")
    parser.add_argument("--epochs", type=int, help="default: epochs of the task")
    parser.add_argument("--max-macs", type=int)
    parser.add_argument("--confirm-seeds", type=int, default=3, help="at least 2")
    parser.add_argument("--data-root")
    parser.add_argument("--images", type=Path, default=Path("data"), help="folder to write image folders to")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--group", type=int, default=16, help="networks trained at a time, with --together")
    parser.add_argument("--table", action="store_true", help="print the table of finished runs and train nothing")
    return parser.parse_args()


def both(run: Run) -> None:
    """Runs a search and its confirmation."""
    print(run.search(), run.confirm(), sep="\n", flush=True)


def main() -> None:
    args = options()
    if (args.minutes is None) == (args.trials is None):
        raise SystemExit("give --minutes or --trials")
    if args.together and (len(args.tasks) > 1 or args.trials is None):
        raise SystemExit("--together takes one task, and --trials: searches that share a device share its time")
    runs = []
    for task in (TASKS[name] for name in args.tasks):
        setting = Setting(
            task=task,
            dataset=task.dataset(args.data_root, args.images),
            data_root=args.data_root,
            minutes=args.minutes,
            trials=args.trials,
            epochs=args.epochs or task.epochs,
            max_macs=args.max_macs,
            confirm_seeds=args.confirm_seeds,
        )
        place = args.runs / task.name
        runs += [Run(arm, seed, setting, place / f"{arm}-{seed}") for seed in range(args.seeds) for arm in args.ways]
        settled = {
            name: getattr(setting, name) for name in ("minutes", "trials", "epochs", "max_macs", "confirm_seeds")
        }
        if (before := read(place / "setting.json")) not in (None, settled):
            raise SystemExit(f"{place}: its runs have another setting, {before}; name another folder")
        place.mkdir(parents=True, exist_ok=True)
        write(place / "setting.json", settled)
    if args.together and not args.table:
        setting = runs[0].setting
        test = datasets.load_test(setting.dataset, data_root=setting.data_root)
        splits = [TrainingData.from_dataset(setting.data()), TrainingData.with_test_split(setting.data(), test)]
        tasks = [partial(both, run) for run in runs if run.confirmed is None]
        run_together(tasks, splits, device=torch.device(args.together), group=args.group)
    elif not args.table:
        with ProcessPoolExecutor(args.processes) as pool:
            for part in (Run.search, Run.confirm):
                for line in pool.map(partial(part), runs):
                    print(line, flush=True)
    print("\n".join(table(runs)))


if __name__ == "__main__":
    main()
