"""Chooses local devices or a Ray cluster before a search, and opens them when it starts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import torch

from nas.errors import NasError
from nas.training.data import TrainingData
from nas.training.device import describe, num_cores, pick_devices
from nas.training.select import most_at_once
from nas.workers.in_process import InProcess
from nas.workers.process_pool import ProcessPool
from nas.workers.protocol import Workers


class Place(Protocol):
    """A context, inside which workers can be opened, one set after another."""

    @property
    def description(self) -> str:
        """Where it is, in words."""

    @property
    def num_workers(self) -> int:
        """How many processes or tasks train at a time."""

    def open(self, data: TrainingData, *, exact: bool = False) -> Workers: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...


@dataclass(frozen=True, slots=True)
class ThisMachine:
    """`num_workers` processes on `devices` in turn; where that is one this process."""

    devices: Sequence[torch.device]
    num_workers: int

    @property
    def description(self) -> str:
        return describe(*self.devices)

    def open(self, data: TrainingData, *, exact: bool = False) -> Workers:
        return open_workers(data, self.devices, num=self.num_workers, exact=exact)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Compute:
    """What to train on, as options name it.

    device: "auto", "cuda", "cuda:N", "mps" or "cpu". workers: processes that train; None is one a core on processors,
    one for each GPU, and on a cluster as many as it has room for. ray: address of a Ray cluster. gpus_per_trial: share
    of a GPU, 0 to 1, with `ray`. exact: bitwise repeatable on a GPU, too.
    """

    device: str = "auto"
    workers: int | None = None
    ray: str | None = None
    gpus_per_trial: float | None = None
    exact: bool = False

    def place(self) -> Place:
        """Where it is; raises `NasError` for options that do not fit together, or for a device that is not there."""
        if self.ray is not None:
            from nas.workers.ray_backend import RayCluster

            return RayCluster.named(
                self.ray, device=self.device, workers=self.workers, gpus_per_trial=self.gpus_per_trial
            )
        if self.gpus_per_trial is not None:
            raise NasError("--gpus-per-trial is for a Ray cluster: give --ray, too, or leave it out")
        devices = pick_devices(self.device)
        return ThisMachine(devices, self.workers or (num_cores() if devices[0].type == "cpu" else len(devices)))


def open_workers(
    data: TrainingData,
    devices: Sequence[torch.device],
    *,
    num: int,
    exact: bool = False,
    group: int | None = None,
) -> Workers:
    """Workers on devices of this machine: `num` processes on them in turn, or where that is one this process.

    `group`: networks that one CUDA device trains at once, None: 16, or as many as memory allows. `exact`: bitwise
    repeatable.
    """
    if num == 1:
        return InProcess(data, devices[0], exact=exact, group=group)
    each = [devices[index % len(devices)] for index in range(num)]
    return ProcessPool(data, each, exact=exact, group=group, most=most_at_once(devices[0], group))
