"""Selects the devices to train on and describes them."""

import os
import platform
from pathlib import Path

import torch

from nas.errors import DeviceError, argument_text, one_of


def pick_device(name: str = "auto") -> torch.device:
    """Returns the first device that `pick_devices` returns."""
    return pick_devices(name)[0]


def pick_devices(name: str = "auto") -> tuple[torch.device, ...]:
    """Returns the devices that `name` selects.

    Args:
        name: "cuda" (every GPU in `CUDA_VISIBLE_DEVICES`), "cuda:N", "mps", "cpu" or "auto" (every GPU, or else MPS,
            or else the CPU).

    Raises:
        DeviceError: the device is not available.
    """
    available = _available()
    kind = available[0].partition(":")[0] if name == "auto" else name
    picked = [one for one in available if one == kind or (kind == "cuda" and one.startswith("cuda:"))]
    if not picked:
        raise DeviceError(
            f"{argument_text('device', name)}: not available on this machine, expected {one_of(available)}"
        )
    return tuple(torch.device(one) for one in picked)


def describe(*devices: torch.device) -> str:
    """Returns a description, such as "cuda:0 (NVIDIA H200)", "8 GPUs (NVIDIA H200)" or "cpu (AMD EPYC, 2 cores)"."""
    if len(devices) > 1:
        names = dict.fromkeys(torch.cuda.get_device_name(device) for device in devices)
        return f"{len(devices)} GPUs ({', '.join(names)})"
    (device,) = devices
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    cores = f"{num_cores()} core{'s' * (num_cores() != 1)}"
    return f"{device} ({_processor()}, {cores})" if device.type == "cpu" else f"{device} ({_processor()})"


def num_cores() -> int:
    """Returns the number of cores that this process may use, in a container often fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _available() -> list[str]:
    """Returns the names of the available devices, the preferred one first."""
    cuda = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return [*cuda, *["mps"] * torch.backends.mps.is_available(), "cpu"]


def _processor() -> str:
    """Returns the model name of the CPU."""
    info = Path("/proc/cpuinfo")  # on Linux; on other systems `platform` returns the name, or at least the architecture
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
