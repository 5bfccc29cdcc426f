"""The images a training sees, kept as bytes on its device."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from nas.data.datasets import Dataset, Split, merged


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingData:
    """Two splits, on one device: images uint8 (N, C, H, W), labels int64 (N,); mean and std of each channel in 0..1."""

    train_images: Tensor
    train_labels: Tensor
    val_images: Tensor
    val_labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("train", "val"):
            images, labels = getattr(self, f"{name}_images"), getattr(self, f"{name}_labels")
            if images.dtype != torch.uint8 or images.ndim != 4 or labels.dtype != torch.int64:
                raise ValueError(f"{name}: images {images.dtype} {tuple(images.shape)}, labels {labels.dtype}")
            if not len(images) == len(labels) >= 1:
                raise ValueError(f"{name}: {len(images)} images and {len(labels)} labels")

    @classmethod
    def of(cls, dataset: Dataset) -> "TrainingData":
        """The splits of a dataset that a search may see."""
        return cls(
            train_images=dataset.train.images,
            train_labels=dataset.train.labels,
            val_images=dataset.val.images,
            val_labels=dataset.val.labels,
            mean=tuple(dataset.mean),
            std=tuple(dataset.std),
        )

    @classmethod
    def on_test(cls, dataset: Dataset, test: Split) -> "TrainingData":
        """Train and val together to train on, and the test split to judge on; normalised as in the search."""
        every = merged(dataset)
        return cls(
            train_images=every.images,
            train_labels=every.labels,
            val_images=test.images,
            val_labels=test.labels,
            mean=tuple(dataset.mean),
            std=tuple(dataset.std),
        )

    def to(self, device: torch.device) -> "TrainingData":
        """The same data on `device`; uint8, so all of MNIST takes 55 MB there."""
        return replace(
            self,
            train_images=self.train_images.to(device),
            train_labels=self.train_labels.to(device),
            val_images=self.val_images.to(device),
            val_labels=self.val_labels.to(device),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedData:
    """Training data in files, which any number of processes map into memory without a copy of their own."""

    folder: Path
    shapes: Mapping[str, tuple[int, ...]]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def write(cls, data: TrainingData, folder: Path) -> "SharedData":
        """Writes the files into `folder`."""
        shapes = {}
        for name in _DTYPES:
            tensor: Tensor = getattr(data, name).cpu().contiguous()
            tensor.numpy().tofile(folder / name)
            shapes[name] = tuple(tensor.shape)
        return cls(folder=folder, shapes=shapes, mean=data.mean, std=data.std)

    def open(self) -> TrainingData:
        """The data, on the CPU; nothing is read before it is used."""
        tensors = {
            name: torch.from_file(
                str(self.folder / name), shared=False, size=math.prod(shape), dtype=_DTYPES[name]
            ).view(shape)
            for name, shape in self.shapes.items()
        }
        return TrainingData(**tensors, mean=self.mean, std=self.std)


_DTYPES = {
    "train_images": torch.uint8,
    "train_labels": torch.int64,
    "val_images": torch.uint8,
    "val_labels": torch.int64,
}


def per_channel(values: Sequence[float], device: torch.device) -> Tensor:
    """(1, C, 1, 1): one value for each channel of a batch of images, on `device`."""
    return torch.tensor(values, dtype=torch.float32, device=device).view(1, -1, 1, 1)
