"""Where training happens: in this process, in others, or on a Ray cluster. Who searches sees no difference."""

from nas.workers.here import Here
from nas.workers.jobs import Ended, Job, Progress, Report, Workers
from nas.workers.places import Place, ThisMachine, open_workers, pick_place
from nas.workers.processes import Processes
from nas.workers.runs import run_all

__all__ = [
    "Ended",
    "Here",
    "Job",
    "Place",
    "Processes",
    "Progress",
    "Report",
    "ThisMachine",
    "Workers",
    "open_workers",
    "pick_place",
    "run_all",
]
