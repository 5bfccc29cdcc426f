"""Fine-tuning rounds as int8 does, and lowers the loss of the rounded network."""

from random import Random

import numpy as np
import pytest
import torch
from support.architectures import draw_architecture
from support.c_networks import normalisation, random_images, random_weights
from support.effort import seeds
from torch.nn import functional

from nas.architecture.architecture import Architecture
from nas.architecture.layers import Conv, Flatten, GlobalAvgPool
from nas.data import datasets
from nas.exporters.c.calibration import calibrate
from nas.exporters.c.finetune import RoundedNetwork, fine_tuned
from nas.exporters.c.int8_reference import run_int8
from nas.exporters.c.quantise import quantise
from nas.inference.lowering import C_KINDS
from nas.recipe import Recipe
from nas.training.data import TrainingData

pytestmark = pytest.mark.usefixtures("one_thread")


def training_data(images, mean, std):
    labels = torch.zeros(len(images), dtype=torch.int64)
    return TrainingData(
        train_images=images, train_labels=labels, val_images=images, val_labels=labels, mean=tuple(mean), std=tuple(std)
    )


def normalised(data, images):
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (data.mean, data.std))
    return (images / 255 - mean) / std


@pytest.mark.parametrize("seed", seeds(20))
def test_forward_pass_rounds_as_int8_does(seed):
    """Logits of the two differ by much less than rounding changes them; they add and round in another order."""
    architecture = draw_architecture(Random(seed), kinds=C_KINDS)
    images = random_images(architecture.input_shape, 32)
    numbers = normalisation(architecture.input_shape[0])
    calibration = calibrate(architecture, random_weights(architecture, seed), images, **numbers)
    data = training_data(images, **numbers)
    module = RoundedNetwork(calibration, data).eval()
    network = quantise(calibration, is_bias_corrected=False)
    exact = architecture.build().eval()
    exact.load_state_dict(random_weights(architecture, seed))
    with torch.inference_mode():
        rounded, logits = (each(normalised(data, images)).flatten(1).numpy() for each in (module, exact))
    integers = run_int8(network, images.numpy()) * network.logit_scale
    assert np.abs(rounded - integers).mean() <= 0.5 * np.abs(logits - integers).mean() + 2 * network.logit_scale


def test_fine_tuning_lowers_the_loss_of_the_rounded_network():
    digits = datasets.load("digits")
    layers = (Conv(out_channels=10, kernel_size=5, padding="same"), GlobalAvgPool(), Flatten())
    architecture = Architecture(input_shape=digits.input_shape, layers=layers)
    numbers = {"mean": digits.mean, "std": digits.std}
    data = TrainingData.from_dataset(digits)
    calibration = calibrate(architecture, random_weights(architecture, 0), digits.train.images[:200], **numbers)

    def loss(network):
        logits = run_int8(network, digits.train.images.numpy()) * network.logit_scale
        return float(functional.cross_entropy(torch.from_numpy(logits), digits.train.labels))

    before = loss(quantise(calibration, is_bias_corrected=False))
    after = loss(fine_tuned(calibration, Recipe(batch_size=32), data, epochs=2))
    assert after < 0.99 * before
