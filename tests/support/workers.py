"""Jobs for workers, and helpers that collect their reports."""

import io
from dataclasses import replace

import torch

from nas.architecture.architecture import Architecture
from nas.recipe import Recipe
from nas.workers.protocol import EndReport, EpochReport, Job

CPU = torch.device("cpu")


NETWORK = Architecture.from_json(
    {
        "version": 1,
        "input_shape": [1, 28, 28],
        "layers": [
            {"kind": "conv", "out_channels": 4, "kernel_size": 3},
            {"kind": "batch_norm"},
            {"kind": "activation"},
            {"kind": "dropout", "rate": 0.1},
            {"kind": "max_pool", "kernel_size": 4},
            {"kind": "flatten"},
            {"kind": "linear", "out_features": 10},
        ],
    }
)


RECIPE = Recipe(epochs=2, learning_rate=0.05, rotation=5.0)


def job(key, **others):
    return Job(**{"key": key, "architecture": NETWORK, "recipe": RECIPE, "seed": key, **others})


def run(workers, *jobs):
    """Runs the jobs; returns all reports of each job, by key."""
    waiting, found = list(jobs), {given.key: [] for given in jobs}
    while waiting or any(not isinstance(reports[-1:], list) or not ended(reports) for reports in found.values()):
        while waiting and sum(not ended(found[given.key]) for given in jobs if given not in waiting) < workers.capacity:
            workers.submit(waiting.pop(0))
        for report in workers.reports():
            found[report.key].append(report)
    return found


def ended(reports):
    return bool(reports) and isinstance(reports[-1], EndReport)


def numbers(reports):
    return [replace(report.metrics, seconds=0.0) for report in reports if isinstance(report, EpochReport)]


def weights(report):
    return torch.load(io.BytesIO(report.weights), weights_only=True)
