"""The end of a search: its best candidates are trained again with other seeds, and ranked by their mean."""

from collections.abc import Callable

from nas.commands.events import Event, FinalRunFinished, FinalsStarted
from nas.errors import StudyError
from nas.study.budget import Budget
from nas.study.reader import StudyRecords
from nas.study.runs import FINAL_SEED, Run
from nas.training.metrics import EpochMetrics
from nas.workers.protocol import Job, Workers
from nas.workers.run_all import run_all


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
    jobs = [
        Job(
            key=key,
            architecture=candidates[run.trial].architecture,
            recipe=candidates[run.trial].recipe,
            seed=run.seed,
        )
        for key, run in enumerate(missing)
    ]
    for num_done, (job, history, end) in enumerate(run_all(workers, jobs), start=1):
        run = missing[job.key]
        if end.outcome == "failed":
            raise StudyError(f"trial {run.trial} with seed {run.seed} failed: {end.reason}")
        kept: list[EpochMetrics] = [] if end.outcome == "diverged" else history
        records.runs.keep(run, kept)
        on_event(FinalRunFinished(run=run, history=tuple(kept), num_runs=len(missing), num_done=num_done))
