"""Runs a list of jobs to the end, as many at a time as the workers have capacity for."""

from collections.abc import Iterator, Sequence

from nas.training.metrics import EpochMetrics
from nas.workers.protocol import EndReport, Job, Workers


def run_all(workers: Workers, jobs: Sequence[Job]) -> Iterator[tuple[Job, list[EpochMetrics], EndReport]]:
    """Yields each job with its epochs and its last report when it ends. The keys of the jobs must be distinct."""
    waiting = list(reversed(jobs))
    running: dict[int, tuple[Job, list[EpochMetrics]]] = {}
    while waiting or running:
        while waiting and len(running) < workers.capacity:
            job = waiting.pop()
            running[job.key] = job, []
            workers.submit(job)
        for report in workers.reports():
            if isinstance(report, EndReport):
                yield *running.pop(report.key), report
            else:
                running[report.key][1].append(report.metrics)
