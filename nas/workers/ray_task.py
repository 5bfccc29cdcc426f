"""What runs on a node of a Ray cluster: one job, its epochs reported as they end. It knows nothing of Ray."""

import hashlib
import platform
import warnings
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import nas
from nas.training.data import TrainingData
from nas.workers.in_process import InProcess
from nas.workers.protocol import Job, Report

SPLITS = ("train_images", "train_labels", "val_images", "val_labels")


@cache
def versions() -> Mapping[str, str]:
    """What must be the same wherever a candidate may be trained, for results to be comparable.

    torch's build for a certain CUDA (the part behind "+") may differ: a driver without a GPU has another.
    """
    return {
        "Python": ".".join(platform.python_version_tuple()[:2]),
        "torch": torch.__version__.partition("+")[0],
        "nas": f"{_nas_version()} (source {_source_digest()})",
    }


def _nas_version() -> str:
    try:
        return version("nas")
    except PackageNotFoundError:  # a checkout that PYTHONPATH names
        return "not installed"


def _source_digest() -> str:
    """The package's own files in eight digits: a version's number does not change with every commit."""
    folder, digest = Path(nas.__file__).parent, hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode())
        digest.update(path.read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()[:8]


def packed(data: TrainingData) -> dict[str, Any]:
    """The data as arrays, which Ray keeps in a node's shared memory and hands out without a copy."""
    return {name: getattr(data, name).cpu().contiguous().numpy() for name in SPLITS} | {
        "mean": data.mean,
        "std": data.std,
    }


def unpacked(arrays: Mapping[str, Any]) -> TrainingData:
    """The data, on the CPU: views of the arrays' memory."""
    with warnings.catch_warnings():
        # Ray's memory must not be written to, and nobody does: engines read the images alone.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        tensors = {name: torch.from_numpy(arrays[name]) for name in SPLITS}
    return TrainingData(**tensors, mean=arrays["mean"], std=arrays["std"])


def reports(job: Job, arrays: Mapping[str, Any], *, on_gpu: bool, exact: bool) -> Iterator[Report]:
    """Trains a job in this process, on the first GPU that Ray lets it see or on the CPU."""
    torch.set_num_threads(1)
    # The device is this job's own share: further networks are tasks of their own.
    trainer = InProcess(unpacked(arrays), torch.device("cuda:0" if on_gpu else "cpu"), exact=exact, group=1)
    trainer.submit(job)
    while trainer.busy:
        for report in trainer.reports():  # noqa: UP028  # not `yield from`, for Ray sends a value to whoever yields
            yield report
