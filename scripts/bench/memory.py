"""Measures a long search: memory of its processes, size of its database and seconds per trial. Linux only.

    python scripts/bench/memory.py [--dataset mnist] [--trials 50] [--epochs 1] [--workers 2] [--results FOLDER]

Runs a real search within 8,000 parameters (digits: 2,000), in a temporary folder unless `--results` names one. Prints
one line of JSON after each tenth of the trials: resident memory of each process (MB), database size (kB per trial), and
seconds per trial since the previous line.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import optuna

from nas import search
from nas.commands.events import Event, TrialFinished
from nas.study.database import DATABASE_FILE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--space")
    parser.add_argument("--results", type=Path)
    parser.add_argument("--data-root")
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        results = args.results or Path(folder)
        search(
            max_params=2000 if args.dataset == "digits" else 8000,
            min_receptive_field=8 if args.dataset == "digits" else None,
            epochs=args.epochs,
            trials=args.trials,
            dataset=args.dataset,
            data_root=args.data_root,
            device="cpu",
            workers=args.workers,
            space=args.space,
            results=results,
            on_event=Watch(results, every=max(1, args.trials // 10)),
        )


class Watch:
    """Receives the search's events and prints the measurements."""

    def __init__(self, results: Path, *, every: int) -> None:
        self.results, self.every = results, every
        self.before = time.monotonic()

    def __call__(self, event: Event) -> None:
        if not isinstance(event, TrialFinished) or event.tally.num_trained % self.every:
            return
        now, trials = time.monotonic(), event.tally.num_trained
        size = sum(path.stat().st_size for path in self.results.glob(f"{DATABASE_FILE}*"))
        found = {
            "trials": trials,
            "loop_mb": megabytes(os.getpid(), "VmRSS"),
            "workers_mb": [megabytes(child, "VmRSS") for child in children()],
            "database_kb_a_trial": round(size / trials / 1000, 1),
            "seconds_a_trial": round((now - self.before) / self.every, 2),
        }
        print(json.dumps(found), flush=True)
        self.before = now


def children() -> list[int]:
    """Returns the IDs of the processes that this process has started."""
    threads = Path(f"/proc/{os.getpid()}/task").iterdir()
    return sorted(int(child) for thread in threads for child in (thread / "children").read_text().split())


def megabytes(process: int, field: str) -> int:
    """Returns a field of /proc/PROCESS/status, which is in KiB, in MB."""
    lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 // 10**6 for line in lines if line.startswith(field))


if __name__ == "__main__":
    main()
