"""Memory of a search's processes, trial by trial: does it grow, and how large does it become? Linux alone.

    python scripts/bench_memory.py [--trials 50] [--epochs 1] [--data-root FOLDER]

A real search on MNIST under 8,000 parameters in a folder that is thrown away. Prints what each process has in memory
(resident, MB) after every tenth trial, and the largest it ever had.
"""

import argparse
import os
import tempfile
from pathlib import Path

import optuna

from nas import search
from nas.events import Event, TrialFinished


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--data-root")
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def show(event: Event) -> None:
        if isinstance(event, TrialFinished) and (event.tally.num_trained % 10 == 0 or event.tally.num_trained <= 2):
            for name, process in (("search", os.getpid()), *(("worker", child) for child in children())):
                now, most = (megabytes(process, field) for field in ("VmRSS", "VmHWM"))
                print(f"after {event.tally.num_trained:>3} trials: {name} {now} MB, at most {most} MB", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        search(
            max_params=8000,
            epochs=args.epochs,
            trials=args.trials,
            dataset="mnist",
            data_root=args.data_root,
            device="cpu",
            results=folder,
            on_event=show,
        )


def children() -> list[int]:
    """Processes that this one has started."""
    threads = Path(f"/proc/{os.getpid()}/task").iterdir()
    return sorted(int(child) for thread in threads for child in (thread / "children").read_text().split())


def megabytes(process: int, field: str) -> int:
    """A figure of /proc/PROCESS/status, which counts in KiB."""
    lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 // 10**6 for line in lines if line.startswith(field))


if __name__ == "__main__":
    main()
