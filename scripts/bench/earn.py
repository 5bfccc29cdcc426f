"""Does the search earn its keep? Searches on MNIST under 8,000 parameters, three ways, with one budget.

    python scripts/bench/earn.py --trials 20 --seeds 3 --runs FOLDER     # hours on two cores; run again, it goes on
    python scripts/bench/earn.py --trials 20 --seeds 3 --runs FOLDER --table

At most 500,000 multiply-accumulates, too, so that nine searches end within hours: networks with more do better, but
train several times as long.

default: `nas search`. random: `nas search --sampler random`. plain: what people write without this tool, an Optuna
objective over the same space that raises `TrialPruned` where a candidate misses a limit or has been had before, with
Optuna's own defaults, until as many candidates are trained or 3,000 trials are over. All three train with the same
engine, one thread, 15 epochs, 50,000 images, and are judged by the mean val accuracy of the last 5 epochs. The best of
each search is then confirmed: trained on all 60,000 images with three seeds, and held against the test split.
"""

import argparse
import io
import json
import platform
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import fmean, stdev

import optuna
import torch

from nas.architecture.cost import cost_of
from nas.commands.confirm import confirm
from nas.commands.search import search
from nas.data import datasets
from nas.errors import NasError, ShapeError, TrainingDiverged
from nas.space.constraints import limits, worst
from nas.space.search_space import SearchSpace
from nas.study.reader import StudyRecords
from nas.study.trial import Settings
from nas.training.data import TrainingData
from nas.training.reference import initialise, state_dict_on_cpu
from nas.training.results import CONSISTENCY, objective
from nas.training.select import train

EPOCHS, MAX_PARAMS, MAX_MACS, MOST_TRIALS = 15, 8000, 500_000, 3000
ARMS = ("default", "random", "plain")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    runs = [Run(arm, seed, args.trials, args.runs) for seed in range(args.seeds) for arm in ARMS]
    if args.table:
        print("\n".join(table(runs)))
        return
    with ProcessPoolExecutor(args.processes) as pool:
        for line in pool.map(Run.search, runs):
            print(line, flush=True)
        for line in pool.map(Run.confirm, runs):
            print(line, flush=True)
    print("\n".join(table(runs)))


@dataclass(frozen=True)
class Run:
    """One search and the confirmation of what it found."""

    arm: str
    seed: int
    trials: int
    runs: Path

    @property
    def folder(self) -> Path:
        return self.runs / f"{self.arm}-{self.seed}"

    def search(self) -> str:
        torch.set_num_threads(1)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        began, path = time.monotonic(), self.folder / "seconds.json"
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.arm == "plain":
            self._plain()
        else:
            search(
                max_params=MAX_PARAMS,
                max_macs=MAX_MACS,
                epochs=EPOCHS,
                trials=self.trials,
                dataset="mnist",
                sampler="random" if self.arm == "random" else None,
                seed=self.seed,
                workers=1,
                results=self.folder,
            )
        before = json.loads(path.read_text()) if path.exists() else 0.0
        path.write_text(json.dumps(before + time.monotonic() - began))
        return f"{self.arm} {self.seed}: {json.dumps(self.facts())}"

    def _plain(self) -> None:
        """An ordinary objective. What it trained is stored like a search's, so that it can be confirmed like one."""
        dataset = datasets.load("mnist")
        data = TrainingData.of(dataset)
        space = SearchSpace.load("mnist").bind(
            input_shape=dataset.input_shape, num_classes=dataset.num_classes, epochs=EPOCHS
        )
        kept = limits(dataset.input_shape, max_params=MAX_PARAMS, max_macs=MAX_MACS)
        records = self._records(dataset, space, [str(constraint) for constraint in kept])
        study = records.study
        study.sampler = optuna.samplers.TPESampler(seed=self.seed)
        had = records.fingerprints()

        def one(trial: optuna.Trial) -> float:
            try:
                candidate = space.suggest(trial)
                cost = cost_of(candidate.architecture)
            except ShapeError:
                raise optuna.TrialPruned from None
            if worst(kept, cost) is not None or candidate.fingerprint() in had:
                raise optuna.TrialPruned
            had.add(candidate.fingerprint())
            records.start(trial, candidate, cost, kept, seed=self.seed, index=len(had), discards={})
            module = initialise(candidate.architecture, seed=self.seed)
            history = []
            for metrics in train(module, candidate.recipe, data, seed=self.seed, device=torch.device("cpu")):
                trial.report(metrics.val_accuracy, metrics.epoch)
                history.append(metrics)
            weights = io.BytesIO()
            torch.save(state_dict_on_cpu(module), weights)
            records.finish(trial, history, weights.getvalue())
            return objective([metrics.val_accuracy for metrics in history], CONSISTENCY)

        for number in count(len(study.get_trials(deepcopy=False))):
            if records.tally().num_trained >= self.trials or number >= MOST_TRIALS:
                return
            trial = study.ask()
            try:
                one(trial)
            except optuna.TrialPruned:
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            except TrainingDiverged as error:
                records.fail(trial, "diverged", str(error))

    def _records(self, dataset: datasets.Dataset, space: SearchSpace, constraints: list[str]) -> StudyRecords:
        settings = Settings(
            dataset=dataset.name,
            data_fingerprint=dataset.fingerprint,
            split=dataset.split_id,
            space=space.name,
            space_fingerprint=space.fingerprint(),
            epochs=EPOCHS,
            consistency=CONSISTENCY,
            constraints=tuple(constraints),
            seed=self.seed,
            sampler="plain",
        )
        found = StudyRecords.find(results=self.folder)
        if found is None:
            notes = {
                "command": "python " + " ".join(sys.argv),
                "machine": platform.node(),
                "dataset_note": "plain",
                "normalisation": {"mean": dataset.mean, "std": dataset.std},
                "classes": dataset.classes,
            }
            found = StudyRecords.create(settings, results=self.folder, notes=notes)
        return found

    def confirm(self) -> str:
        torch.set_num_threads(1)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            found = confirm(top=1, seeds=3, workers=1, results=self.folder, data_root=None)
        except NasError as error:
            return f"{self.arm} {self.seed}: {error}"
        (self.folder / "confirmed.json").write_text(json.dumps(found.to_json()))
        return f"{self.arm} {self.seed}: {' '.join(found.test.lines()[:2])}"

    def facts(self) -> dict[str, float]:
        """What the search came to."""
        records = StudyRecords.open(results=self.folder)
        trials = records.study.get_trials(deepcopy=False)
        trained = [trial.values[0] for trial in trials if trial.state == optuna.trial.TrialState.COMPLETE]
        discards = sum(records.discards().values())
        pruned = sum(trial.state == optuna.trial.TrialState.PRUNED for trial in trials)
        return {
            "trained": len(trained),
            "trials": len(trained) + pruned if self.arm == "plain" else len(trained),
            "discarded": pruned if self.arm == "plain" else discards,
            "best": max(trained, default=0.0),
            "mean": fmean(trained) if trained else 0.0,
            "seconds": json.loads((self.folder / "seconds.json").read_text()),
        }


def table(runs: list[Run]) -> list[str]:
    """A row a search, and one for each way over its seeds."""
    lines = [
        "| way | seed | trained | discarded or wasted | best val | mean val | params | test, mean ± sd of 3 seeds"
        " | lowest of last 5 epochs, mean | minutes |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for arm in ARMS:
        rows = []
        for run in (run for run in runs if run.arm == arm and (run.folder / "seconds.json").exists()):
            facts = run.facts()
            path = run.folder / "confirmed.json"
            found = json.loads(path.read_text()) if path.exists() else None
            rows.append((facts, found))
            test = ["", "", ""]
            if found:
                mean, sd = found["final_accuracy_mean"], found["final_accuracy_sd"]
                test = [f"{found['params']:,}", f"{100 * mean:.2f} ± {100 * sd:.2f}"]
                test.append(f"{100 * found['consistent_accuracy_mean']:.2f}")
            lines.append(
                f"| {arm} | {run.seed} | {facts['trained']} | {facts['discarded']} | {100 * facts['best']:.2f}"
                f" | {100 * facts['mean']:.2f} | {' | '.join(test)} | {facts['seconds'] / 60:.0f} |"
            )
        if len(rows) > 1:
            best, mean = ([100 * facts[key] for facts, _ in rows] for key in ("best", "mean"))
            finals = [100 * found["final_accuracy_mean"] for _, found in rows if found]
            final = f"{fmean(finals):.2f} ± {stdev(finals):.2f}" if len(finals) > 1 else ""
            lines.append(
                f"| **{arm}** | all | | | {fmean(best):.2f} ± {stdev(best):.2f} | {fmean(mean):.2f} ± {stdev(mean):.2f}"
                f" | | {final} (of the seeds' means) | | {fmean(f['seconds'] for f, _ in rows) / 60:.0f} |"
            )
    return lines


if __name__ == "__main__":
    main()
