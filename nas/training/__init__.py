"""How a network is trained and judged: everything above imports it from here."""

from nas.training.augmentation import affine, augment
from nas.training.data import TrainingData
from nas.training.device import describe, pick_device
from nas.training.metrics import EpochMetrics
from nas.training.objective import consistent_accuracy, objective
from nas.training.reference import evaluate, initialise, state_dict_on_cpu, train
from nas.training.schedule import learning_rate

__all__ = [
    "EpochMetrics",
    "TrainingData",
    "affine",
    "augment",
    "consistent_accuracy",
    "describe",
    "evaluate",
    "initialise",
    "learning_rate",
    "objective",
    "pick_device",
    "state_dict_on_cpu",
    "train",
]
