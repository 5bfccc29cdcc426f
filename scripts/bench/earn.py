"""Does the search earn its keep? Four ways to come to a network, each with the same time, or as many trainings.

    python scripts/bench/earn.py --tasks small-mnist --seeds 10 --minutes 5 --runs FOLDER   # run again, it goes on
    python scripts/bench/earn.py --tasks small-mnist --seeds 10 --minutes 5 --runs FOLDER --table
    python scripts/bench/earn.py --tasks small-mnist --seeds 10 --trials 20 --runs FOLDER --together cuda

default: `nas search`. random: random draws of the same space, no portfolio. plain: what people write without this tool,
an Optuna objective over the space that the default was before (tasks.py), with Optuna's own defaults, which raises
`TrialPruned` where a candidate misses a limit or has been had before. portfolio: the known designs that come along,
scaled to the limits and trained with seed after seed; the one with the best mean on val is taken.

`--minutes` are of training on one core, with one thread. With `--trials` all ways have as many trainings, further runs
of finalists included; `--together cuda` then runs all searches at once, each a training at a time, on one GPU.

All train with the same engine, and are judged by the mean val accuracy of the last 5 epochs. Then what each
has found is trained on train and val with `--confirm-seeds` fresh seeds, and held against the test split.

A way begins no training that would not end in time, going by those before it; the time counts over all sessions. Prints
a line of JSON for each part that ends, and a table in Markdown: each way's accuracy on the test split, and how far the
default is ahead of it, paired by seed.
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
from nas.space.portfolio import portfolio
from nas.space.search_space import SearchSpace
from nas.training.data import TrainingData
from nas.workers.backend import Compute
from nas.workers.protocol import Job
from nas.workers.run_all import run_all
from scripts.bench.tasks import TASKS, Task
from scripts.bench.together import run_together

LAST_EPOCHS = 5
MOST_TRIALS = 3000
CONFIRM_SEED = 1000  # the first of the fresh seeds: no search trains with so large a one by itself
TITLES = (
    *("task", "way", "searches", "trained", "best val", "test, mean of the searches", "lowest search"),
    *("lowest of last 5 epochs, mean", "params", "default ahead by", "minutes"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What all searches of a task have in common."""

    task: Task
    dataset: str
    data_root: str | None
    minutes: float | None
    trials: int | None
    epochs: int
    max_macs: int | None
    confirm_seeds: int

    def data(self) -> datasets.Dataset:
        """The task's images, read once a process: no way pays for that more than once."""
        return loaded(self.dataset, self.data_root)

    def space(self, name: str) -> SearchSpace:
        """A shipped space, for the task's images."""
        data = self.data()
        return SearchSpace.load(name or default_space(data.input_shape)).bind(
            input_shape=data.input_shape, num_classes=data.num_classes, epochs=self.epochs
        )

    def limits(self, space: SearchSpace) -> tuple[Constraint, ...]:
        """What a candidate has to keep."""
        return nas.limits(space.input_shape, max_params=self.task.max_params, max_macs=self.max_macs)


@dataclass(slots=True)
class Clock:
    """What a way has trained, over all sessions; kept in a file after each training.

    limit: seconds; most: trainings.
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
        """A training has ended."""
        self.spent += time.monotonic() - self.began
        self.trained += 1
        self.began = time.monotonic()
        write(self.path, {"seconds": self.spent, "trained": self.trained})

    def has_time(self) -> bool:
        """Whether one more training would end in time."""
        if self.trained >= self.most:
            return False
        self.began = time.monotonic()  # what came before the training is nobody's
        return self.trained == 0 or self.spent * (1 + 1 / self.trained) <= self.limit


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
            found, candidate = ARMS[self.arm](self)
            write(self.folder / "architecture.json", candidate.architecture.to_json())
            write(self.folder / "recipe.json", candidate.recipe.to_json())
            write(self.folder / "found.json", found)
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
        """What the search came to, None before it has ended: trained, best, minutes."""
        row: dict[str, float] | None = read(self.folder / "found.json")
        return row

    @property
    def confirmed(self) -> dict[str, Any] | None:
        """What `Repeats.to_json` gave, None before it has ended."""
        row: dict[str, Any] | None = read(self.folder / "confirmed.json")
        return row

    def line(self, part: str) -> str:
        """A part that has ended, as JSON."""
        name = {"task": self.setting.task.name, "way": self.arm, "seed": self.seed}
        return json.dumps({**name, part: read(self.folder / f"{part}.json")})

    def clock(self) -> Clock:
        """Of a way that trains by itself."""
        minutes, trials = self.setting.minutes, self.setting.trials
        return Clock(self.folder / "clock.json", 60 * (minutes or inf), trials or inf)

    def objective(self, candidate: Candidate, seed: int) -> float:
        """Mean val accuracy of the last epochs; raises `TrainingDiverged`."""
        data = TrainingData.of(self.setting.data())
        job = Job(key=0, architecture=candidate.architecture, recipe=candidate.recipe, seed=seed)
        with closing(Compute(device="cpu", workers=1).place().open(data)) as workers:
            ((_, history, end),) = run_all(workers, [job])
        if end.outcome == "failed":
            raise SystemExit(end.reason)
        if end.outcome != "trained":
            raise TrainingDiverged(len(history) + 1, inf)
        return fmean(metrics.val_accuracy for metrics in history[-LAST_EPOCHS:])


Result = tuple[dict[str, float], Candidate]


def ours(run: Run, *, drawn: bool = False) -> Result:
    """`nas search`; `drawn`: candidates are drawn at random, all of them."""
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
    """An ordinary study of Optuna's. A training that diverges costs time, as it does in `nas search`."""
    setting, clock = run.setting, run.clock()
    space = setting.space(setting.task.earlier)
    kept = setting.limits(space)
    storage = f"sqlite:///{run.folder / 'plain.db'}"
    study = optuna.create_study(study_name="plain", storage=storage, direction="maximize", load_if_exists=True)
    # Begun again with the same seed it would draw the same candidates again.
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


def known(run: Run) -> Result:
    """The designs that come along, one after the other, with seed after seed."""
    setting, clock = run.setting, run.clock()
    space = setting.space("")
    starts, _ = portfolio(space.portfolio, space, setting.limits(space), seed=run.seed)
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
    "default": ours,
    "random": partial(ours, drawn=True),
    "plain": plain,
    "portfolio": known,
}


@cache
def loaded(dataset: str, data_root: str | None) -> datasets.Dataset:
    """What `datasets.load` gives."""
    return datasets.load(dataset, data_root=data_root)


def summary(trained: int, best: float, seconds: float) -> dict[str, float]:
    """What `Run.found` gives."""
    return {"trained": trained, "best": best, "minutes": seconds / 60}


def table(runs: Sequence[Run]) -> Iterator[str]:
    """A row for each task and way."""
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
    """Mean difference of pairs and its standard error, in points."""
    gains = [100 * (ours - theirs) for ours, theirs in pairs]
    if len(gains) < 2:
        return f"{gains[0]:+.2f}" if gains else ""
    return f"{fmean(gains):+.3f} ± {stdev(gains) / sqrt(len(gains)):.3f}"


def spread(accuracies: Sequence[float]) -> str:
    """Mean and standard deviation, in per cent."""
    mean = f"{100 * fmean(accuracies):.2f}"
    return f"{mean} ± {100 * stdev(accuracies):.2f}" if len(accuracies) > 1 else mean


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
    parser.add_argument("--tasks", choices=TASKS, nargs="+", required=True)
    parser.add_argument("--ways", choices=ARMS, nargs="+", default=list(ARMS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, help="of training on one core, a search")
    parser.add_argument("--trials", type=int, help="trainings, a search")
    parser.add_argument("--together", metavar="DEVICE", help="run all searches at once on it, one task only")
    parser.add_argument("--epochs", type=int, help="default: the task's")
    parser.add_argument("--max-macs", type=int)
    parser.add_argument("--confirm-seeds", type=int, default=3, help="at least 2")
    parser.add_argument("--data-root")
    parser.add_argument("--images", type=Path, default=Path("data"), help="where image folders are written to")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--group", type=int, default=16, help="networks that train at a time, with --together")
    parser.add_argument("--table", action="store_true", help="print the table of what has ended, and train nothing")
    return parser.parse_args()


def both(run: Run) -> None:
    """Searches and confirms."""
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
        splits = [TrainingData.of(setting.data()), TrainingData.on_test(setting.data(), test)]
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
