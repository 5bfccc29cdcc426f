"""A small confirmation: its options, and helpers that inspect its results."""

from dataclasses import replace

from nas.commands.confirm import Ranked, RunFinished
from nas.study.confirmation import ConfirmationRecords
from nas.study.reader import StudyRecords
from nas.study.reference import StudyRef
from nas.study.runs import Run
from nas.training.metrics import EpochMetrics

SPACE = """
[network]
num_blocks = 2

[block]
num_convs = 1
kernel_size = [3, 5]

[conv]
channels = { low = 2, high = 4 }

[recipe]
sgd_learning_rate = { low = 0.05, high = 0.5, log = true }
batch_size = 64
"""


EPOCHS, TOP, SEEDS, TARGET = 2, 2, 2, 0.15


NUM_RUNS = TOP * SEEDS + SEEDS


ON_CPU = {"device": "cpu", "workers": 1}


ASKED = {"top": TOP, "seeds": SEEDS, "target": TARGET, **ON_CPU}


def runs_in(events):
    return [event.run for event in events if isinstance(event, RunFinished)]


def openings(folder):
    return ConfirmationRecords(StudyRecords.open(StudyRef(folder))).openings()


def finalists_of(folder, top=TOP):
    """Returns the `top` best trials by the objective of the search."""
    trained = [trial for trial in StudyRecords.open(StudyRef(folder)).trials() if trial.outcome == "trained"]
    return sorted(trained, key=lambda trial: (-trial.objective, trial.params))[:top]


def untimed(history):
    return [replace(metrics, seconds=0.0) for metrics in history]


def epochs_of(*accuracies):
    """Returns the epochs of a run, as a study stores them."""
    return [
        EpochMetrics(
            epoch=epoch,
            train_loss=1.0,
            train_accuracy=0.5,
            val_loss=1.0,
            val_accuracy=accuracy,
            learning_rate=0.1,
            seconds=0.0,
        )
        for epoch, accuracy in enumerate(accuracies, start=1)
    ]


def keep(folder, judged_on, accuracies):
    """Stores ended runs. `accuracies`: by trial, for each seed the accuracy of all epochs; None: diverged."""
    kept = ConfirmationRecords(StudyRecords.open(StudyRef(folder)))
    for trial, seeds in accuracies.items():
        for seed, accuracy in enumerate(seeds):
            history = [] if accuracy is None else epochs_of(*[accuracy] * EPOCHS)
            kept.store_history(Run(trial=trial, judged_on=judged_on, seed=seed), history)


class Stop(KeyboardInterrupt):
    """Interruption raised by a test, distinct from the user's Ctrl-C."""


def stop_at(wanted):
    """Returns a callback that raises `Stop` at the first event for which `wanted` is true."""

    def on_event(event):
        if wanted(event):
            raise Stop

    return on_event


def is_ranked(event):
    return isinstance(event, Ranked)
