"""Confirm: the best trials of a study trained again with several seeds, and the winner held against the test split."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from nas.data import datasets
from nas.errors import StudyError
from nas.schema import check_counts, check_target
from nas.seed_stats import Finalist, Ranking, TestResult
from nas.study.confirmation import ConfirmedRecords, JudgedOn, Opening, Run
from nas.study.database import default_storage, shown, usable
from nas.study.locks import locks
from nas.study.reader import DEFAULT_STUDY, StudyRecords
from nas.study.trial import Settings, TrialRecord
from nas.training.data import TrainingData
from nas.training.metrics import EpochMetrics
from nas.training.results import objective, val_accuracies
from nas.workers.backend import pick_place
from nas.workers.protocol import Job, Workers
from nas.workers.run_all import run_all


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStarted:
    """`num_runs` trainings are wanted, of which `num_done` have ended already."""

    judged_on: JudgedOn
    trials: tuple[int, ...]
    num_runs: int
    num_done: int
    device: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFinished:
    """A training has ended; no epochs: its loss was no number."""

    run: Run
    history: tuple[EpochMetrics, ...]
    consistency: int
    num_runs: int
    num_done: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """The finalists are ranked by val accuracy, and the winner is fixed. `cost`: the metric that breaks ties."""

    ranking: Ranking
    cost: str


ConfirmEvent = StageStarted | RunFinished | Ranked


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation:
    """What came out. `num_openings`: how often the test split has been opened for this study, this time included.

    `ranking` is None where there was one finalist alone.
    """

    study: str
    dataset: str
    winner: TrialRecord
    ranking: Ranking | None
    test: TestResult
    num_openings: int

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dump`."""
        return {
            "study": self.study,
            "dataset": self.dataset,
            "trial": self.winner.number,
            "params": self.winner.params,
            "macs": self.winner.macs,
            "receptive_field": self.winner.receptive_field,
            "num_openings": self.num_openings,
            "ranking": self.ranking.to_json() if self.ranking else None,
            **self.test.to_json(),
        }


def confirm(
    *,
    top: int = 5,
    seeds: int = 5,
    target: float = 0.994,
    again: bool = False,
    data_root: str | Path | None = None,
    device: str = "auto",
    workers: int | None = None,
    ray: str | None = None,
    gpus_per_trial: float | None = None,
    exact: bool = False,
    results: str | Path = "results",
    storage: str | None = None,
    study: str | None = None,
    on_event: Callable[[ConfirmEvent], None] = lambda event: None,
) -> Confirmation:
    """Trains the `top` trials with `seeds` seeds, picks one by val accuracy, and opens the test split for it alone.

    Several trials are ranked by their mean objective over seeds that the search did not use; among those not measurably
    worse than the best the smallest wins. The winner is trained on train + val with as many seeds, and each epoch
    judged on the test split against `target`, a fraction to be reached in every one of the last epochs. Runs that have
    ended are kept: called again, it goes on where it stopped, and what is complete is only read.

    The test split is opened once a study: for other finalists or seeds it raises `StudyError`, unless `again`, and
    counts. Raises `StudyError`, too, where there are fewer trained trials, or the data are not those of the search.
    """
    check_counts(top=(top, 1), seeds=(seeds, 2), workers=(workers, 1))
    check_target(target)
    trained_on = pick_place(device=device, workers=workers, ray=ray, gpus_per_trial=gpus_per_trial)
    # Before the lock, which would make a folder where a study was misspelt.
    StudyRecords.open(results=results, storage=storage, study=study)
    url = storage or default_storage(results)
    with trained_on, usable(url), closing(locks(url, study or DEFAULT_STUDY, Path(results))) as held:
        if not held.hold("confirm"):
            raise StudyError(f"{shown(url)}: another process is confirming study {study or DEFAULT_STUDY!r}")
        records = StudyRecords.open(results=results, storage=storage, study=study)
        kept, settings = ConfirmedRecords(records), records.settings
        finalists = records.best(top)
        if len(finalists) < top:
            found = len(finalists)
            allowed = f", allowed: {'1' if found == 1 else f'1 to {found}'}" if found else ""
            has = f"has {found} trained trial{'s' * (found != 1)}"
            raise StudyError(f"--top {top}: study {records.study.study_name!r} {has}{allowed}")
        numbers = tuple(sorted(record.number for record in finalists))
        opened = next((o for o in kept.openings() if o.same_question(numbers, seeds)), None)
        if opened is None and kept.openings() and not again:
            raise StudyError(_opened_before(kept.openings(), records.study.study_name))
        dataset = _same_data(settings, data_root)
        trainer = _Trainer(
            kept,
            {record.number: record for record in finalists},
            on_event,
            lambda data: trained_on.open(data, exact=exact),
            trained_on.description,
        )
        winner, ranking = numbers[0], None
        if top > 1:
            histories = trainer.train("val", numbers, range(seeds), lambda: TrainingData.of(dataset))
            ranking = _ranking(finalists, histories, settings, range(seeds))
            on_event(Ranked(ranking=ranking, cost=settings.cost))
            winner = ranking.winner.trial
        if opened is not None:
            winner = opened.trial
        else:  # noted before it is opened: a look cannot be taken back
            kept.open(Opening(trial=winner, seeds=seeds, finalists=numbers, date=date.today().isoformat()))
        histories = trainer.train(
            "test",
            (winner,),
            range(seeds),
            lambda: TrainingData.on_test(dataset, _same_test(kept, dataset.name, data_root)),
        )
        confirmation = Confirmation(
            study=records.study.study_name,
            dataset=dataset.name,
            winner=records.trial(winner),
            ranking=ranking,
            test=TestResult(
                accuracies=tuple(val_accuracies(histories[winner, seed], settings.epochs) for seed in range(seeds)),
                consistency=settings.consistency,
                target=target,
                num_images=kept.num_images(),
            ),
            num_openings=len(kept.openings()),
        )
        kept.conclude(confirmation.to_json())
        return confirmation


def _opened_before(openings: Sequence[Opening], study: str) -> str:
    last = openings[-1]
    times = "once" if len(openings) == 1 else f"{len(openings)} times"
    others = ", ".join(map(str, last.finalists))
    return (
        f"the test split was opened {times} for study {study!r} already, last on {last.date} for trial {last.trial}"
        f" (finalists {others}; {last.seeds} seeds): the same --top and --seeds, if the study has not grown, show what"
        " came out; --again opens it once more, for figures that are no longer quite unbiased"
    )


def _ranking(
    finalists: Sequence[TrialRecord],
    histories: Mapping[tuple[int, int], Sequence[EpochMetrics]],
    settings: Settings,
    seeds: Sequence[int],
) -> Ranking:
    return Ranking.of(
        [
            Finalist(
                trial=record.number,
                cost=getattr(record, settings.cost),
                objectives=tuple(
                    objective(val_accuracies(histories[record.number, seed], settings.epochs), settings.consistency)
                    for seed in seeds
                ),
            )
            for record in finalists
        ]
    )


def _same_data(settings: Settings, data_root: str | Path | None) -> datasets.Dataset:
    dataset = datasets.load(settings.dataset, data_root=data_root)
    if (dataset.fingerprint, dataset.split_id) != (settings.data_fingerprint, settings.split):
        raise StudyError(f"{settings.dataset} is not what it was when the study was begun; give its --data-root")
    return dataset


def _same_test(kept: ConfirmedRecords, name: str, data_root: str | Path | None) -> datasets.Split:
    """The test split, the one that earlier runs of this study were judged on."""
    test = datasets.load_test(name, data_root=data_root)
    if not kept.keep_test(len(test.labels), datasets.fingerprint(test)):
        raise StudyError(f"the test split of {name} is not what it was when it was opened first; give its --data-root")
    return test


class _Trainer:
    """Trains what has not been trained yet, and keeps it."""

    def __init__(
        self,
        kept: ConfirmedRecords,
        records: dict[int, TrialRecord],
        on_event: Callable[[ConfirmEvent], None],
        open_on: Callable[[TrainingData], Workers],
        device: str,
    ) -> None:
        self.kept = kept
        self.records = records
        self.on_event = on_event
        self.open_on = open_on
        self.device = device

    def train(
        self, judged_on: JudgedOn, trials: Sequence[int], seeds: Sequence[int], load: Callable[[], TrainingData]
    ) -> dict[tuple[int, int], tuple[EpochMetrics, ...]]:
        """The epochs of every trial with every seed, by both."""
        # Seed by seed, so that an early look compares all trials.
        runs = [Run(trial=trial, judged_on=judged_on, seed=seed) for seed in seeds for trial in trials]
        missing = [run for run in runs if self.kept.history(run) is None]
        num_done = len(runs) - len(missing)
        self.on_event(
            StageStarted(
                judged_on=judged_on,
                trials=tuple(trials),
                num_runs=len(runs),
                num_done=num_done,
                device=self.device,
            )
        )
        if missing:
            workers = self.open_on(load())
            try:
                self._train(missing, workers, len(runs))
            finally:
                workers.close()
        return {(run.trial, run.seed): self.kept.history(run) or () for run in runs}

    def _train(self, missing: list[Run], workers: Workers, num_runs: int) -> None:
        jobs = [self._job(key, run) for key, run in enumerate(missing)]
        for num_done, (job, epochs, end) in enumerate(run_all(workers, jobs), start=num_runs - len(missing) + 1):
            run, history = missing[job.key], epochs
            if end.outcome == "failed":
                raise StudyError(f"trial {run.trial} with seed {run.seed} failed: {end.reason}")
            if end.outcome == "diverged":
                history = []
            elif run.judged_on == "test" and run.seed == 0:
                self.kept.keep_weights(run.trial, end.weights)
            self.kept.keep(run, history)
            self.on_event(
                RunFinished(
                    run=run,
                    history=tuple(history),
                    consistency=self.kept.records.settings.consistency,
                    num_runs=num_runs,
                    num_done=num_done,
                )
            )

    def _job(self, key: int, run: Run) -> Job:
        record = self.records[run.trial]
        assert record.architecture is not None
        assert record.recipe is not None
        return Job(key=key, architecture=record.architecture, recipe=record.recipe, seed=run.seed)
