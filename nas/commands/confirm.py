"""Retrains the best trials of a study with several seeds and evaluates the winner on the test split."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import fmean
from typing import Any

from nas.commands.display import confirm_line
from nas.commands.events import ConfirmEvent, ConfirmStarted, Ranked, RunFinished, StageStarted, TargetSource
from nas.commands.further_runs import train_runs
from nas.data import datasets
from nas.errors import StudyError, argument_text
from nas.schema import DEFAULT_TARGET, check_counts, check_target
from nas.seed_stats import Finalist, Ranking, SeedAccuracies
from nas.study.confirmation import ConfirmationRecords, Opening
from nas.study.database import errors_on_use
from nas.study.locks import open_locks
from nas.study.reader import StudyRecords
from nas.study.reference import StudyRef
from nas.study.runs import EvalSplit, Run
from nas.study.settings import Settings
from nas.study.trial import TrainedTrial
from nas.text import count_text, html_lines
from nas.training.data import TrainingData
from nas.training.metrics import EpochMetrics
from nas.training.results import objective, val_accuracies
from nas.workers.backend import Backend, Compute
from nas.workers.protocol import Workers


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation:
    """What `confirm` returns. The study stores a summary of it, a `StoredConfirmation`.

    Attributes:
        study: Name of the study.
        dataset: Name of the dataset.
        winner: Trial that was evaluated on the test split.
        ranking: Ranking of the finalists; None if there was only one.
        cost: Metric that decided among finalists whose accuracies were tied.
        test: Test accuracies of the winner, compared with the target.
        num_openings: How often the test split has been opened for this study, including this time.
    """

    study: str
    dataset: str
    winner: TrainedTrial
    ranking: Ranking | None
    cost: str
    test: SeedAccuracies
    num_openings: int

    def lines(self) -> list[str]:
        """Returns the winner, the verdict and the number of openings as lines of text."""
        winner = self.winner
        once = self.num_openings == 1
        times = "once" if once else f"{self.num_openings} times: its figures are no longer unbiased"
        return [
            f"Trial {winner.number} on {self.dataset}: {winner.params:,} parameters, {winner.macs:,} MACs,"
            f" receptive field {winner.receptive_field}",
            *self.test.lines(),
            f"The test split of this study was opened {times}.",
        ]

    def __str__(self) -> str:
        """Returns how the winner was picked, and the lines about it."""
        picked = [f"{self.ranking.pick_text}."] if self.ranking else []
        return "\n".join([*picked, *self.lines()])

    def _repr_html_(self) -> str:
        """Returns the ranking, the accuracies by epoch and the verdict as HTML, for notebooks."""
        from nas.tables import epoch_table, ranking_table, table_html

        ranked = self.ranking
        ranking = table_html(ranking_table(ranked, self.cost)) + html_lines([f"{ranked.pick_text}."]) if ranked else ""
        return ranking + table_html(epoch_table(self.test)) + html_lines(self.lines())

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


DEFAULT_NUM_FINALISTS = 5
"""Default number of finalists if the search has not ranked any."""

DATA_ROOT_HINT = "name the folder of the original data with `data_root`"


def confirm(
    study: str | None = None,
    *,
    top: int | None = None,
    seeds: int = 5,
    target: float | None = None,
    again: bool = False,
    data_root: str | Path | None = None,
    device: str = "auto",
    workers: int | None = None,
    ray: str | None = None,
    gpus_per_trial: float | None = None,
    exact: bool = False,
    results: str | Path = "results",
    storage: str | None = None,
    progress: bool = False,
    on_event: Callable[[ConfirmEvent], None] = lambda event: None,
) -> Confirmation:
    """Retrains the best trials with several seeds, picks a winner by val accuracy and tests only the winner.

    The finalists are ranked by their mean objective over seeds that the search did not use. Of those within one
    standard error of the best, the one with the lowest cost wins: the fewest parameters, or the lowest second objective
    of the study. The winner is retrained on train + val with the same number of seeds and evaluated on the test split
    after every epoch.

    Every run is stored when it ends: an interrupted confirmation continues where it stopped, and a complete one is only
    read. The test split is meant to be opened once per study, so other finalists or seeds are refused unless `again`.

    Args:
        study (str | None): Name of the study. Default: "search".
        top (int | None): Number of finalists. Default: 1 if the search has ranked finalists itself, else up to 5.
        seeds (int): Number of seeds that each finalist is trained with, at least 2. Default: 5.
        target (float | None): Test accuracy to reach in each of the last epochs, a fraction above 0 and at most 1.
            Default: that of the study's last confirmation, else 0.994.
        again (bool): Whether to open the test split although it was opened for other finalists or seeds. Default:
            False.
        data_root (str | Path | None): Folder that datasets are read from and downloaded to. Default: `$NAS_DATA`, or
            the user's cache.
        device (str): "auto" (CUDA, then MPS, then CPU), "cuda" (all GPUs), "cuda:N", "mps" or "cpu". Default: "auto".
        workers (int | None): Number of worker processes. Default: one per CPU core, or one per GPU; with `ray`, as many
            as fit.
        ray (str | None): Ray cluster to train on: "auto", "local" or "HOST:PORT". Default: None, this machine.
        gpus_per_trial (float | None): GPUs per run, 0 or 0.01 to 1, only with `ray`. Default: 1 if the cluster has
            GPUs, else 0.
        exact (bool): Whether training on a GPU is bitwise reproducible, which is slower. Default: False.
        results (str | Path): Results folder of the study. Default: "results".
        storage (str | None): Database URL of the study. Default: the SQLite file `studies.db` in `results`.
        progress (bool): Whether to print a line for each event. Default: False.
        on_event (Callable[[ConfirmEvent], None]): Called with each event. Default: does nothing.

    Returns:
        The winner, the ranking and the test accuracies.

    Raises:
        StudyError: If the study is missing, damaged or being confirmed by another process; if it has fewer than `top`
            trained trials; if its data have changed; if the test split was opened before; or if a run fails.
        NasError: If an argument is out of range, or the dataset or the device is not available.
    """
    check_counts(top=(top, 1), seeds=(seeds, 2), workers=(workers, 1))
    if target is not None:
        check_target(target)
    compute = Compute(device=device, workers=workers, ray=ray, gpus_per_trial=gpus_per_trial, exact=exact)
    backend, ref = compute.backend(), StudyRef(results, storage, study)

    def show(event: ConfirmEvent) -> None:
        if progress:
            print(confirm_line(event), flush=True)
        on_event(event)

    # Before locking: the lock would create a folder for a misspelt study.
    StudyRecords.open(ref)
    with backend, errors_on_use(ref.url), closing(open_locks(ref)) as locks:
        if not locks.try_acquire("confirm"):
            raise StudyError(f"{ref.masked_url}: another process is confirming study {ref.name!r}; wait until it ends")
        records = StudyRecords.open(ref)
        confirmation_records = ConfirmationRecords(records)
        finalists = _finalists(records, top)
        opening = _earlier_opening(confirmation_records, finalists, seeds, again=again)
        dataset = _load_unchanged_dataset(records.settings, data_root)
        start = _start(confirmation_records, finalists, opening, seeds, target, backend.num_workers)
        show(start)
        trainer = _Trainer(confirmation_records, finalists, backend, exact=exact, on_event=show)
        ranking = trainer.rank(range(seeds), dataset) if len(finalists) > 1 else None
        if opening is None:  # stored before the split is read, because reading it cannot be undone
            best = ranking.winner.trial if ranking else finalists[0].number
            opening = _record_opening(confirmation_records, best, finalists, seeds)
        test = trainer.test(opening.trial, range(seeds), dataset, data_root, start.target)
        confirmation = Confirmation(
            study=records.name,
            dataset=dataset.name,
            winner=records.trained_trial(opening.trial),
            ranking=ranking,
            cost=records.settings.cost,
            test=test,
            num_openings=len(confirmation_records.openings()),
        )
        confirmation_records.store_summary(confirmation.to_json())
        return confirmation


def _finalists(records: StudyRecords, top: int | None) -> list[TrainedTrial]:
    """Returns the best `top` trained trials (None: the default number); raises `StudyError` if there are fewer."""
    finalists = records.best(top or (1 if records.runs.has_ranked_finalists() else DEFAULT_NUM_FINALISTS))
    if len(finalists) < (top or 1):
        num = len(finalists)
        if not num:
            raise StudyError(f"study {records.name!r} has no trained trials yet")
        expected = f"at most {num}, since study {records.name!r} has {count_text(num, 'trained trial')}"
        raise StudyError(f"{argument_text('top', top)}: expected {expected}")
    return finalists


def _numbers(finalists: Sequence[TrainedTrial]) -> tuple[int, ...]:
    return tuple(sorted(trial.number for trial in finalists))


def _earlier_opening(
    confirmation_records: ConfirmationRecords, finalists: Sequence[TrainedTrial], seeds: int, *, again: bool
) -> Opening | None:
    """Returns the earlier opening of the test split for the same finalists and seeds, or None.

    Raises `StudyError` if it was opened only for others, unless `again`.
    """
    openings = confirmation_records.openings()
    same = next((each for each in openings if each.matches(_numbers(finalists), seeds)), None)
    if same is None and openings and not again:
        raise StudyError(_opened_before_text(openings, confirmation_records.records.name))
    return same


def _record_opening(
    confirmation_records: ConfirmationRecords, winner: int, finalists: Sequence[TrainedTrial], seeds: int
) -> Opening:
    """Stores that the test split is opened for the winner; returns the opening."""
    opening = Opening(trial=winner, seeds=seeds, finalists=_numbers(finalists), date=date.today().isoformat())
    confirmation_records.record_opening(opening)
    return opening


def _opened_before_text(openings: Sequence[Opening], study_name: str) -> str:
    last = openings[-1]
    times = "once" if len(openings) == 1 else f"{len(openings)} times"
    others = ", ".join(map(str, last.finalists))
    return (
        f"the test split of study {study_name!r} was opened {times} already, last on {last.date} for trial {last.trial}"
        f" (finalists {others}; {last.seeds} seeds); repeat that `top` and `seeds` to see the result, unless the study"
        " has grown, or give `again=True` to open it once more: its figures are then no longer unbiased"
    )


def _ranking(
    finalists: Sequence[TrainedTrial],
    histories: Mapping[tuple[int, int], Sequence[EpochMetrics]],
    settings: Settings,
    seeds: Sequence[int],
) -> Ranking:
    return Ranking.from_finalists(
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


def _start(
    confirmation_records: ConfirmationRecords,
    finalists: Sequence[TrainedTrial],
    opening: Opening | None,
    seeds: int,
    target: float | None,
    num_workers: int,
) -> ConfirmStarted:
    """Returns the first event: the target, and how many runs are to be trained; the winner may not be known yet."""
    records = confirmation_records.records

    def is_missing(trial: TrainedTrial, judged_on: EvalSplit, seed: int) -> bool:
        return confirmation_records.history(Run(trial=trial.number, judged_on=judged_on, seed=seed)) is None

    ranked = finalists if len(finalists) > 1 else ()
    seconds = [trial.seconds for seed in range(seeds) for trial in ranked if is_missing(trial, "val", seed)]
    if opening is None:
        seconds += [fmean(trial.seconds for trial in finalists)] * seeds
    else:
        winner = next(trial for trial in finalists if trial.number == opening.trial)
        seconds += [winner.seconds for seed in range(seeds) if is_missing(winner, "test", seed)]
    num_runs = (len(ranked) + 1) * seeds
    chosen, source = _target(target, records)
    return ConfirmStarted(
        target=chosen,
        target_source=source,
        trials=tuple(trial.number for trial in finalists),
        seeds=seeds,
        epochs=records.settings.epochs,
        consistency=records.settings.consistency,
        num_runs=num_runs,
        num_done=num_runs - len(seconds),
        seconds=sum(seconds) / num_workers,
    )


def _target(target: float | None, records: StudyRecords) -> tuple[float, TargetSource]:
    """Returns the target and where it comes from."""
    if target is not None:
        return target, "given"
    stored = records.stored_confirmation
    return (stored.test.target, "study") if stored else (DEFAULT_TARGET, "default")


def _load_unchanged_dataset(settings: Settings, data_root: str | Path | None) -> datasets.Dataset:
    dataset = datasets.load(settings.dataset, data_root=data_root)
    if (dataset.fingerprint, dataset.split_id) != (settings.data_fingerprint, settings.split):
        raise StudyError(f"dataset {settings.dataset} has changed since the study began; {DATA_ROOT_HINT}")
    return dataset


def _load_unchanged_test_split(
    confirmation_records: ConfirmationRecords, name: str, data_root: str | Path | None
) -> datasets.Split:
    """Loads the test split; raises `StudyError` if earlier runs of this study were evaluated on another one."""
    test = datasets.load_test(name, data_root=data_root)
    if not confirmation_records.record_test_split(len(test.labels), datasets.fingerprint(test)):
        raise StudyError(f"the test split of {name} has changed since it was first opened; {DATA_ROOT_HINT}")
    return test


class _Trainer:
    """Trains the missing runs of the finalists and stores each when it ends."""

    def __init__(
        self,
        confirmation_records: ConfirmationRecords,
        finalists: Sequence[TrainedTrial],
        backend: Backend,
        *,
        exact: bool,
        on_event: Callable[[ConfirmEvent], None],
    ) -> None:
        self.confirmation_records = confirmation_records
        self.finalists = {trial.number: trial for trial in finalists}
        self.backend = backend
        self.exact = exact
        self.on_event = on_event

    def rank(self, seeds: Sequence[int], dataset: datasets.Dataset) -> Ranking:
        """Ranks the finalists by val accuracy over the seeds."""
        settings = self.confirmation_records.records.settings
        finalists = list(self.finalists.values())
        histories = self._histories("val", _numbers(finalists), seeds, lambda: TrainingData.from_dataset(dataset))
        ranking = _ranking(finalists, histories, settings, seeds)
        self.on_event(Ranked(ranking=ranking, cost=settings.cost))
        return ranking

    def test(
        self, winner: int, seeds: Sequence[int], dataset: datasets.Dataset, data_root: str | Path | None, target: float
    ) -> SeedAccuracies:
        """Returns the test accuracies of the winner over the seeds, compared with the target."""
        records = self.confirmation_records
        settings = records.records.settings

        def load() -> TrainingData:
            return TrainingData.with_test_split(dataset, _load_unchanged_test_split(records, dataset.name, data_root))

        histories = self._histories("test", (winner,), seeds, load)
        return SeedAccuracies(
            accuracies=tuple(val_accuracies(histories[winner, seed], settings.epochs) for seed in seeds),
            consistency=settings.consistency,
            target=target,
            num_images=records.num_images(),
        )

    def _histories(
        self, judged_on: EvalSplit, trials: Sequence[int], seeds: Sequence[int], load: Callable[[], TrainingData]
    ) -> dict[tuple[int, int], tuple[EpochMetrics, ...]]:
        """Returns the epochs of each run by (trial, seed), after training the missing runs."""
        # Seed by seed, so that partial results compare all trials.
        runs = [Run(trial=trial, judged_on=judged_on, seed=seed) for seed in seeds for trial in trials]
        missing = [run for run in runs if self.confirmation_records.history(run) is None]
        num_done = len(runs) - len(missing)
        self.on_event(
            StageStarted(
                judged_on=judged_on,
                trials=tuple(trials),
                num_runs=len(runs),
                num_done=num_done,
                device=self.backend.description,
            )
        )
        if missing:
            workers = self.backend.open(load(), exact=self.exact)
            try:
                self._train(missing, workers, len(runs))
            finally:
                workers.close()
        return {(run.trial, run.seed): self.confirmation_records.history(run) or () for run in runs}

    def _train(self, missing: list[Run], workers: Workers, num_runs: int) -> None:
        first = num_runs - len(missing) + 1
        for num_done, (run, history, end) in enumerate(train_runs(missing, self.finalists, workers), start=first):
            if end.outcome == "failed":
                raise StudyError(f"trial {run.trial} with seed {run.seed} failed: {end.reason}")
            if history and run.judged_on == "test" and run.seed == 0:
                self.confirmation_records.store_weights(run.trial, end.weights)
            self.confirmation_records.store_history(run, history)
            self.on_event(
                RunFinished(
                    run=run,
                    history=history,
                    consistency=self.confirmation_records.records.settings.consistency,
                    num_runs=num_runs,
                    num_done=num_done,
                )
            )
