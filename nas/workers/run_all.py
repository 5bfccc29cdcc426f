"""Runs a list of jobs to the end, as many at a time as there are workers."""

from collections.abc import Iterator, Sequence

from nas.training.metrics import EpochMetrics
from nas.workers.protocol import Ended, Job, Workers


def run_all(workers: Workers, jobs: Sequence[Job]) -> Iterator[tuple[Job, list[EpochMetrics], Ended]]:
    """Each job with its epochs and the last word on it, as it ends; each has a key of its own."""
    waiting = list(reversed(jobs))
    running: dict[int, tuple[Job, list[EpochMetrics]]] = {}
    while waiting or running:
        while waiting and len(running) < workers.capacity:
            job = waiting.pop()
            running[job.key] = job, []
            workers.submit(job)
        for report in workers.reports():
            if isinstance(report, Ended):
                yield *running.pop(report.key), report
            else:
                running[report.key][1].append(report.metrics)
