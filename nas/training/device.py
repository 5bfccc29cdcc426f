"""Which device to train on, and what to call it."""

import os
import platform
from pathlib import Path

import torch

from nas.errors import DeviceError


def pick_device(name: str = "auto") -> torch.device:
    """The device called `name`; "auto" is the first there is of CUDA, MPS and the CPU."""
    available = _available()
    wanted = {"auto": available[0], "cuda": "cuda:0"}.get(name, name)
    if wanted not in available:
        raise DeviceError(f"device {name!r} is not available here; available: {', '.join(available)}")
    return torch.device(wanted)


def describe(device: torch.device) -> str:
    """The device in words, such as "cuda:0 (NVIDIA H200)" or "cpu (AMD EPYC, 2 cores)"."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    cores = f"{num_cores()} core{'s' * (num_cores() != 1)}"
    return f"{device} ({_processor()}, {cores})" if device.type == "cpu" else f"{device} ({_processor()})"


def num_cores() -> int:
    """Cores that this process may use: in a container often fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _available() -> list[str]:
    """Names of the devices there are, the preferred one first."""
    cuda = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return [*cuda, *["mps"] * torch.backends.mps.is_available(), "cpu"]


def _processor() -> str:
    """The processor's name as the system knows it."""
    info = Path("/proc/cpuinfo")  # Linux; elsewhere platform knows the name, or at least the architecture
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
