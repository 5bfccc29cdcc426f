"""The end of a search: its best candidates are trained again with other seeds, and ranked by their mean."""

from collections.abc import Callable

from nas.commands.events import Event, FinalRunFinished, FinalsStarted
from nas.commands.further_runs import train_runs
from nas.commands.search_loop import MAX_FAILURES
from nas.errors import StudyError
from nas.study.budget import Budget
from nas.study.reader import StudyRecords
from nas.study.runs import FINAL_SEED, Run
from nas.workers.protocol import Workers


def run_finals(records: StudyRecords, budget: Budget, workers: Workers, on_event: Callable[[Event], None]) -> None:
    """Trains the finalists with the seeds that they have not had, while the budget lasts; keeps each run as it ends."""
    tally = records.tally()
    missing = _missing(records, *records.runs.finalists())  # of a search that was interrupted
    if not missing:
        num_finalists, num_runs = budget.finals(tally)
        numbers = tuple(trial.number for trial in records.contenders(num_finalists))
        missing = _missing(records, numbers, num_runs)
        if missing and budget.admits(tally):
            records.runs.keep_finalists(numbers, num_runs)
    while missing and not budget.admits(tally, running=len(missing) - 1):
        missing.pop()
    if not missing:
        return
    candidates = {run.trial: records.trained(run.trial) for run in missing}
    on_event(FinalsStarted(trials=tuple(candidates), num_runs=len(missing)))
    failures = 0
    for num_done, (run, history, end) in enumerate(train_runs(missing, candidates, workers), start=1):
        failed = end.outcome == "failed"
        failures = failures + 1 if failed else 0
        if failures == MAX_FAILURES:
            raise StudyError(f"{failures} runs of finalists in a row failed, the last one: {end.reason}")
        if not failed:
            records.runs.keep(run, history)
        reason = end.reason if failed else ""
        on_event(FinalRunFinished(run=run, history=history, num_runs=len(missing), num_done=num_done, reason=reason))


def _missing(records: StudyRecords, trials: tuple[int, ...], num_runs: int) -> list[Run]:
    """The runs that these trials have not had yet, ordered by seed, so that the last seeds are cut first."""
    runs = [Run(trial=trial, judged_on="val", seed=FINAL_SEED + index) for index in range(num_runs) for trial in trials]
    return [run for run in runs if records.runs.history(run) is None]
