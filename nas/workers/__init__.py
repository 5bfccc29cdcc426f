"""Where training happens: in this process, or in processes of its own. Who searches sees no difference."""

import torch

from nas.training import TrainingData, most_at_once
from nas.workers.here import Here
from nas.workers.jobs import Ended, Job, Progress, Report, Workers
from nas.workers.processes import Processes

__all__ = ["Ended", "Here", "Job", "Processes", "Progress", "Report", "Workers", "open_workers"]


def open_workers(
    data: TrainingData,
    device: torch.device,
    *,
    num: int,
    exact: bool = False,
    group: int | None = None,
) -> Workers:
    """Workers on a device: `num` processes, or where that is one this process.

    `group`: networks that one CUDA device trains at once, None: as many as pay. `exact`: bitwise repeatable.
    """
    if num == 1:
        return Here(data, device, exact=exact, group=group)
    return Processes(data, [device] * num, exact=exact, group=group, most=most_at_once(device, group))
