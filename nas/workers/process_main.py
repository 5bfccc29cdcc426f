"""Runs a worker process: reads jobs from standard input, and writes reports to standard output.

An integer on standard input is the key of a job to stop.
"""

import os
import pickle
import queue
import sys
import threading
from contextlib import suppress
from typing import BinaryIO

import torch

from nas.workers.in_process import InProcess
from nas.workers.process_pool import ReportBatch, WorkerConfig
from nas.workers.protocol import Job


def main() -> None:
    """Runs until standard input ends, which happens when the parent process ends."""
    # Redirects standard output to standard error, so that printed text cannot corrupt the reports.
    reports = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    torch.set_num_threads(1)
    messages: queue.SimpleQueue[Job | int] = queue.SimpleQueue()
    config: WorkerConfig = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_listen, args=(sys.stdin.buffer, messages), daemon=True).start()
    trainer = InProcess(config.data.open(), config.device, exact=config.exact, group_size=config.group_size)
    with suppress(BrokenPipeError):
        while True:
            while not trainer.is_busy or not messages.empty():
                message = messages.get()
                if isinstance(message, Job):
                    trainer.submit(message)
                else:
                    trainer.stop(message)
            found = trainer.reports()
            pickle.dump(ReportBatch(capacity=trainer.capacity, reports=found), reports)
            reports.flush()


def _listen(stream: BinaryIO, messages: "queue.SimpleQueue[Job | int]") -> None:
    """Passes on the messages of the parent process; ends this process when there are no more."""
    with suppress(EOFError, pickle.UnpicklingError):
        while True:
            messages.put(pickle.load(stream))
    os._exit(0)  # does not wait for the main thread, whose results no process reads any more


if __name__ == "__main__":
    main()
