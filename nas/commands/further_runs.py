"""Trains candidates of a study again with other seeds."""

from collections.abc import Iterator, Mapping, Sequence

from nas.study.runs import Run
from nas.study.trial import TrainedTrial
from nas.training.metrics import EpochMetrics
from nas.workers.protocol import EndReport, Job, Workers
from nas.workers.run_all import run_all


def train_runs(
    runs: Sequence[Run], trials: Mapping[int, TrainedTrial], workers: Workers
) -> Iterator[tuple[Run, tuple[EpochMetrics, ...], EndReport]]:
    """Yields each run when it ends, with its epochs and the final report of the worker.

    The epochs are empty if the run diverged or failed. `trials` holds the trials of all runs, by number.
    """
    jobs = [
        Job(key=key, architecture=trials[run.trial].architecture, recipe=trials[run.trial].recipe, seed=run.seed)
        for key, run in enumerate(runs)
    ]
    for job, history, end in run_all(workers, jobs):
        yield runs[job.key], tuple(history) if end.outcome == "trained" else (), end
