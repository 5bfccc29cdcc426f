"""Confirm: the best trials of a study trained again with several seeds, and the winner held against the test split."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from nas.commands.further_runs import train_runs
from nas.data import datasets
from nas.errors import StudyError
from nas.schema import check_counts, check_target
from nas.seed_stats import Finalist, Ranking, TestResult
from nas.study.confirmation import ConfirmedRecords, Opening
from nas.study.database import usable
from nas.study.locks import locks
from nas.study.reader import StudyRecords
from nas.study.reference import StudyRef
from nas.study.runs import JudgedOn, Run
from nas.study.settings import Settings
from nas.study.trial import TrainedTrial
from nas.training.data import TrainingData
from nas.training.metrics import EpochMetrics
from nas.training.results import objective, val_accuracies
from nas.workers.backend import Compute, Place
from nas.workers.protocol import Workers


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
    winner: TrainedTrial
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


TOP = 5
"""Finalists of a search that has not ranked any itself."""


def confirm(
    *,
    top: int | None = None,
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
    worse than the best the smallest wins. `top` is 1 by default where the search has trained its finalists with further
    seeds, else 5 or all that there are. The winner is trained on train + val with as many seeds, and each epoch
    judged on the test split against `target`, a fraction to be reached in every one of the last epochs. Runs that have
    ended are kept: called again, it goes on where it stopped, and what is complete is only read.

    The test split is opened once a study: for other finalists or seeds it raises `StudyError`, unless `again`, and
    counts. Raises `StudyError`, too, where there are fewer trained trials, or the data are not those of the search.
    """
    check_counts(top=(top, 1), seeds=(seeds, 2), workers=(workers, 1))
    check_target(target)
    compute = Compute(device=device, workers=workers, ray=ray, gpus_per_trial=gpus_per_trial, exact=exact)
    place, ref = compute.place(), StudyRef(results, storage, study)
    # Before the lock, which would make a folder where a study was misspelt.
    StudyRecords.open(ref)
    with place, usable(ref.url), closing(locks(ref)) as held:
        if not held.hold("confirm"):
            raise StudyError(f"{ref.shown_url}: another process is confirming study {ref.name!r}")
        records = StudyRecords.open(ref)
        kept = ConfirmedRecords(records)
        finalists = _finalists(records, top)
        opened = _opening(kept, finalists, seeds, again=again)
        dataset = _same_data(records.settings, data_root)
        trainer = _Trainer(kept, finalists, place, exact=exact, on_event=on_event)
        ranking = None
        if len(finalists) > 1:
            ranking = trainer.rank(range(seeds), lambda: TrainingData.of(dataset))
        winner = ranking.winner.trial if ranking else finalists[0].number
        if opened is not None:
            winner = opened.trial
        else:  # noted before it is opened: a look cannot be taken back
            kept.open(Opening(trial=winner, seeds=seeds, finalists=_numbers(finalists), date=date.today().isoformat()))
        histories = trainer.train(
            "test",
            (winner,),
            range(seeds),
            lambda: TrainingData.on_test(dataset, _same_test(kept, dataset.name, data_root)),
        )
        confirmation = Confirmation(
            study=records.name,
            dataset=dataset.name,
            winner=records.trained(winner),
            ranking=ranking,
            test=TestResult(
                accuracies=tuple(
                    val_accuracies(histories[winner, seed], records.settings.epochs) for seed in range(seeds)
                ),
                consistency=records.settings.consistency,
                target=target,
                num_images=kept.num_images(),
            ),
            num_openings=len(kept.openings()),
        )
        kept.conclude(confirmation.to_json())
        return confirmation


def _finalists(records: StudyRecords, top: int | None) -> list[TrainedTrial]:
    """The best `top` trained trials, or as many as `confirm` takes; raises `StudyError` where the study has fewer."""
    finalists = records.best(top or (1 if records.runs.ranked() else TOP))
    if len(finalists) < (top or 1):
        found = len(finalists)
        allowed = f", allowed: {'1' if found == 1 else f'1 to {found}'}" if found else ""
        has = f"has {found} trained trial{'s' * (found != 1)}"
        asked = f"--top {top}: " if top else ""
        raise StudyError(f"{asked}study {records.name!r} {has}{allowed}")
    return finalists


def _numbers(finalists: Sequence[TrainedTrial]) -> tuple[int, ...]:
    return tuple(sorted(trial.number for trial in finalists))


def _opening(kept: ConfirmedRecords, finalists: Sequence[TrainedTrial], seeds: int, *, again: bool) -> Opening | None:
    """The earlier opening of the test split for the same finalists and seeds, if there was one.

    Raises `StudyError` where it was opened for others, unless `again`.
    """
    openings = kept.openings()
    same = next((each for each in openings if each.same_question(_numbers(finalists), seeds)), None)
    if same is None and openings and not again:
        raise StudyError(_opened_before(openings, kept.records.name))
    return same


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
    finalists: Sequence[TrainedTrial],
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
    """Trains the finalists' runs that have not been trained yet, and keeps each as it ends."""

    def __init__(
        self,
        kept: ConfirmedRecords,
        finalists: Sequence[TrainedTrial],
        place: Place,
        *,
        exact: bool,
        on_event: Callable[[ConfirmEvent], None],
    ) -> None:
        self.kept = kept
        self.finalists = {trial.number: trial for trial in finalists}
        self.place = place
        self.exact = exact
        self.on_event = on_event

    def rank(self, seeds: Sequence[int], load: Callable[[], TrainingData]) -> Ranking:
        """The finalists by val accuracy over further seeds."""
        settings = self.kept.records.settings
        finalists = list(self.finalists.values())
        histories = self.train("val", _numbers(finalists), seeds, load)
        ranking = _ranking(finalists, histories, settings, seeds)
        self.on_event(Ranked(ranking=ranking, cost=settings.cost))
        return ranking

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
                device=self.place.description,
            )
        )
        if missing:
            workers = self.place.open(load(), exact=self.exact)
            try:
                self._train(missing, workers, len(runs))
            finally:
                workers.close()
        return {(run.trial, run.seed): self.kept.history(run) or () for run in runs}

    def _train(self, missing: list[Run], workers: Workers, num_runs: int) -> None:
        first = num_runs - len(missing) + 1
        for num_done, (run, history, end) in enumerate(train_runs(missing, self.finalists, workers), start=first):
            if end.outcome == "failed":
                raise StudyError(f"trial {run.trial} with seed {run.seed} failed: {end.reason}")
            if history and run.judged_on == "test" and run.seed == 0:
                self.kept.keep_weights(run.trial, end.weights)
            self.kept.keep(run, history)
            self.on_event(
                RunFinished(
                    run=run,
                    history=history,
                    consistency=self.kept.records.settings.consistency,
                    num_runs=num_runs,
                    num_done=num_done,
                )
            )
