"""Chooses where to train, on local devices or on a Ray cluster, and opens workers there."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import torch

from nas.errors import NasError, argument_text
from nas.training.data import TrainingData
from nas.training.device import describe, num_cores, pick_devices
from nas.training.select import max_engine_capacity
from nas.workers.in_process import InProcess
from nas.workers.process_pool import ProcessPool
from nas.workers.protocol import Workers


class Backend(Protocol):
    """Where to train: a context manager in which sets of workers are opened, one after another."""

    @property
    def description(self) -> str:
        """Devices or cluster as text."""

    @property
    def num_workers(self) -> int:
        """Number of processes or tasks that train at a time."""

    def open(self, data: TrainingData, *, exact: bool = False) -> Workers:
        """Opens workers for these images."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...


@dataclass(frozen=True, slots=True)
class LocalBackend:
    """Devices of this machine, used in turn by `num_workers` processes. A single worker trains in this process."""

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
    """Options that say where to train.

    Attributes:
        device: "auto", "cuda", "cuda:N", "mps" or "cpu"; with `ray` "auto", "cuda" or "cpu".
        workers: Number of workers. None: one per CPU core, one per GPU, or as many as a Ray cluster has room for.
        ray: Address of a Ray cluster; None: this machine.
        gpus_per_trial: GPUs of a trial on a Ray cluster: 0, or 0.01 to 1. None: 1 on GPUs, otherwise 0.
        exact: Whether training on GPUs is bitwise repeatable, as it always is on CPUs.
    """

    device: str = "auto"
    workers: int | None = None
    ray: str | None = None
    gpus_per_trial: float | None = None
    exact: bool = False

    def backend(self) -> Backend:
        """Returns where to train; raises `NasError` for contradictory options or an unavailable device."""
        if self.ray is not None:
            from nas.workers.ray_backend import RayCluster

            return RayCluster.from_options(
                self.ray, device=self.device, workers=self.workers, gpus_per_trial=self.gpus_per_trial
            )
        if self.gpus_per_trial is not None:
            raise NasError(
                f"{argument_text('gpus_per_trial', self.gpus_per_trial)}: only for a Ray cluster; give `ray`, too"
            )
        devices = pick_devices(self.device)
        return LocalBackend(devices, self.workers or (num_cores() if devices[0].type == "cpu" else len(devices)))


def open_workers(
    data: TrainingData,
    devices: Sequence[torch.device],
    *,
    num: int,
    exact: bool = False,
    group_size: int | None = None,
) -> Workers:
    """Opens workers on this machine: `num` processes that use `devices` in turn, or this process if `num` is 1.

    Args:
        data: Images and labels to train on.
        devices: Devices of this machine, all of one type.
        num: Number of workers.
        exact: Whether training on GPUs is bitwise repeatable.
        group_size: Maximum number of networks that a CUDA device trains at once, if memory allows; None is 16.
    """
    if num == 1:
        return InProcess(data, devices[0], exact=exact, group_size=group_size)
    device_of_each = [devices[index % len(devices)] for index in range(num)]
    return ProcessPool(
        data,
        device_of_each,
        exact=exact,
        group_size=group_size,
        max_per_device=max_engine_capacity(devices[0], group_size),
    )
