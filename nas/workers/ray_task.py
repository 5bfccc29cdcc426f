"""Trains a job on a node of a Ray cluster, without importing Ray."""

import hashlib
import platform
import warnings
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

import nas
from nas.distribution import package_version
from nas.training.data import TrainingData
from nas.workers.in_process import InProcess
from nas.workers.protocol import Job, Report

SPLITS = ("train_images", "train_labels", "val_images", "val_labels")


@cache
def versions() -> Mapping[str, str]:
    """Returns the versions that must be equal on all nodes for results to be comparable.

    The CUDA version of torch's build (the part after "+") is left out: a search may run on a machine without a GPU.
    """
    return {
        "Python": ".".join(platform.python_version_tuple()[:2]),
        "torch": torch.__version__.partition("+")[0],
        "nas": f"{package_version()} (source {_source_digest()})",
    }


def _source_digest() -> str:
    """Returns a digest of the package's source, since the version number does not change with every commit."""
    folder, digest = Path(nas.__file__).parent, hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode())
        digest.update(path.read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()[:8]


def data_to_arrays(data: TrainingData) -> dict[str, Any]:
    """Returns the data as arrays, which Ray keeps in a node's shared memory and passes on without a copy."""
    return {name: getattr(data, name).cpu().contiguous().numpy() for name in SPLITS} | {
        "mean": data.mean,
        "std": data.std,
    }


def arrays_to_data(arrays: Mapping[str, Any]) -> TrainingData:
    """Returns the data as tensors on the CPU that share the memory of the arrays."""
    with warnings.catch_warnings():
        # Ray's memory is read-only, and engines only read the images.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        tensors = {name: torch.from_numpy(arrays[name]) for name in SPLITS}
    return TrainingData(**tensors, mean=arrays["mean"], std=arrays["std"])


def train_job(job: Job, arrays: Mapping[str, Any], *, on_gpu: bool, exact: bool) -> Iterator[Report]:
    """Yields the reports of a job that it trains in this process, on the first GPU assigned by Ray or on the CPU."""
    torch.set_num_threads(1)
    # One network at a time: other networks are Ray tasks of their own.
    trainer = InProcess(arrays_to_data(arrays), torch.device("cuda:0" if on_gpu else "cpu"), exact=exact, group_size=1)
    trainer.submit(job)
    while trainer.is_busy:
        for report in trainer.reports():  # noqa: UP028
            yield report
