"""The last stage of a search: trains the best candidates again with other seeds."""

from collections.abc import Callable
from dataclasses import replace

from nas.commands.events import Event, FinalRunFinished, FinalsStarted
from nas.commands.further_runs import train_runs
from nas.commands.search_loop import MAX_FAILURES
from nas.errors import StudyError
from nas.study.budget import Budget
from nas.study.reader import StudyRecords
from nas.study.runs import FinalistChoice, Run
from nas.workers.protocol import Workers


def run_finals(records: StudyRecords, budget: Budget, workers: Workers, on_event: Callable[[Event], None]) -> None:
    """Trains the missing runs of the finalists that the budget admits, and stores each when it ends.

    Raises `StudyError` if `MAX_FAILURES` runs in a row fail.
    """
    missing = _choose_missing_runs(records, budget)
    if not missing:
        return
    candidates = {run.trial: records.trained_trial(run.trial) for run in missing}
    on_event(FinalsStarted(trials=tuple(candidates), num_runs=len(missing)))
    failures = 0
    for num_done, (run, history, end) in enumerate(train_runs(missing, candidates, workers), start=1):
        failed = end.outcome == "failed"
        failures = failures + 1 if failed else 0
        if failures == MAX_FAILURES:
            raise StudyError(f"{failures} runs of finalists in a row failed, the last one: {end.reason}")
        if not failed:
            records.runs.store_history(run, history)
        reason = end.reason if failed else ""
        on_event(
            FinalRunFinished(
                run=run,
                history=history,
                num_runs=len(missing),
                num_done=num_done,
                tally=records.tally(),
                reason=reason,
            )
        )


def _choose_missing_runs(records: StudyRecords, budget: Budget) -> list[Run]:
    """Returns the runs still to train; first chooses finalists again if candidates have ended since."""
    tally = records.tally()
    finals = records.runs.finalist_choice()
    if finals.num_candidates != tally.num_trained:
        num_finalists, num_runs = budget.finalist_counts(tally)
        trials = tuple(trial.number for trial in records.best_by_mean(num_finalists))
        finals = FinalistChoice(trials=trials, num_runs=num_runs if trials else 0, num_candidates=tally.num_trained)
    missing = records.runs.missing_runs(finals)
    while missing and not budget.admits(tally, running=len(missing) - 1):
        missing.pop()
    if missing:
        records.runs.store_finalist_choice(replace(finals, num_runs=finals.runs().index(missing[-1]) + 1))
    return missing
