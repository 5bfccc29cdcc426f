"""How a network is trained and judged: everything above imports it from here."""

from nas.training.augmentation import affine, augment
from nas.training.data import SharedData, TrainingData
from nas.training.device import describe, num_cores, pick_device, pick_devices
from nas.training.engine import Engine, GroupFullError, most_at_once, open_engine, train
from nas.training.metrics import EpochMetrics, val_accuracies
from nas.training.objective import CONSISTENCY, consistent_accuracy, objective
from nas.training.reference import evaluate, initialise, state_dict_on_cpu
from nas.training.schedule import learning_rate

__all__ = [
    "CONSISTENCY",
    "Engine",
    "EpochMetrics",
    "GroupFullError",
    "SharedData",
    "TrainingData",
    "affine",
    "augment",
    "consistent_accuracy",
    "describe",
    "evaluate",
    "initialise",
    "learning_rate",
    "most_at_once",
    "num_cores",
    "objective",
    "open_engine",
    "pick_device",
    "pick_devices",
    "state_dict_on_cpu",
    "train",
    "val_accuracies",
]
