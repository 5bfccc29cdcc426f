"""The end of a search: its best candidates are trained again with other seeds, and ranked by their mean."""

from collections.abc import Callable

from nas.commands.events import Event, FinalRunFinished, FinalsStarted
from nas.commands.further_runs import train_runs
from nas.study.budget import Budget
from nas.study.reader import StudyRecords
from nas.study.runs import FINAL_SEED, Run
from nas.workers.protocol import Workers


def run_finals(records: StudyRecords, budget: Budget, workers: Workers, on_event: Callable[[Event], None]) -> None:
    """Trains the finalists with the seeds that they have not had, while the budget lasts; keeps each run as it ends."""
    tally = records.tally()
    num_finalists, num_runs = budget.finals(tally)
    finalists = records.contenders(num_finalists)
    # Seed by seed: what is left out, where the budget ends, is the last seed of the last finalists.
    runs = [
        Run(trial=finalist.number, judged_on="val", seed=FINAL_SEED + index)
        for index in range(num_runs)
        for finalist in finalists
    ]
    missing = [run for run in runs if records.runs.history(run) is None]
    while missing and not budget.admits(tally, running=len(missing) - 1):
        missing.pop()
    if not missing:
        return
    on_event(FinalsStarted(trials=tuple(finalist.number for finalist in finalists), num_runs=len(missing)))
    candidates = {finalist.number: finalist for finalist in finalists}
    for num_done, (run, history, _) in enumerate(train_runs(missing, candidates, workers), start=1):
        records.runs.keep(run, history)
        on_event(FinalRunFinished(run=run, history=history, num_runs=len(missing), num_done=num_done))
