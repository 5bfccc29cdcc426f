"""Images for training in tests: noise and real digits."""

import torch
from torch.nn import functional

from nas.training.data import TrainingData

EVERY_AUGMENTATION = {"rotation": 10, "translation": 0.1, "scale": 0.1, "shear": 5, "brightness": 0.1, "contrast": 0.1}


def noise(num_train: int = 50, num_val: int = 21, side: int = 12) -> TrainingData:
    """Returns random images with random labels."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (num_train + num_val, 1, side, side), generator=generator, dtype=torch.uint8)
    labels = torch.randint(10, (num_train + num_val,), generator=generator)
    return TrainingData(
        train_images=images[:num_train],
        train_labels=labels[:num_train],
        val_images=images[num_train:],
        val_labels=labels[num_train:],
        mean=(0.5,),
        std=(0.29,),
    )


def scans(side: int) -> TrainingData:
    """Returns scikit-learn's digits: 1,500 for training and 297 for validation."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(bunch.images).float()[:, None] * (255 / 16)
    images = functional.interpolate(images, (side, side), mode="bilinear", align_corners=False).round().to(torch.uint8)
    labels = torch.from_numpy(bunch.target).long()
    # The scans are sorted by writer: without a shuffle, val would contain other writers, and its accuracy be noisy.
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return TrainingData(
        train_images=images[order[:1500]],
        train_labels=labels[order[:1500]],
        val_images=images[order[1500:]],
        val_labels=labels[order[1500:]],
        mean=(0.3,),
        std=(0.33,),
    )
