"""Training and validation data as uint8 tensors on a device, or as files that several processes share."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from nas.data.datasets import Dataset, Split, merge_train_and_val


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingData:
    """Training and validation split on one device.

    Attributes:
        train_images, val_images: uint8 (N, C, H, W).
        train_labels, val_labels: int64 (N,).
        mean, std: of each channel, for pixels scaled to 0..1.

    Raises:
        ValueError: a split is empty, or its tensors have the wrong type, rank or length.
    """

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
    def from_dataset(cls, dataset: Dataset) -> "TrainingData":
        """Returns the train and val split of a dataset."""
        return cls(
            train_images=dataset.train.images,
            train_labels=dataset.train.labels,
            val_images=dataset.val.images,
            val_labels=dataset.val.labels,
            mean=tuple(dataset.mean),
            std=tuple(dataset.std),
        )

    @classmethod
    def with_test_split(cls, dataset: Dataset, test: Split) -> "TrainingData":
        """Returns train and val as training data and the test split as validation data, normalised as in the search."""
        every = merge_train_and_val(dataset)
        return cls(
            train_images=every.images,
            train_labels=every.labels,
            val_images=test.images,
            val_labels=test.labels,
            mean=tuple(dataset.mean),
            std=tuple(dataset.std),
        )

    def to(self, device: torch.device) -> "TrainingData":
        """Returns the same data on `device`. As uint8, all of MNIST takes 55 MB."""
        return replace(
            self,
            train_images=self.train_images.to(device),
            train_labels=self.train_labels.to(device),
            val_images=self.val_images.to(device),
            val_labels=self.val_labels.to(device),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedData:
    """Training data in files, which several processes map into memory without copies.

    Attributes:
        folder: holds one file for each tensor.
        shapes: of the tensors, by name.
        mean, std: as in `TrainingData`.
    """

    folder: Path
    shapes: Mapping[str, tuple[int, ...]]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def write(cls, data: TrainingData, folder: Path) -> "SharedData":
        """Writes one file for each tensor into `folder`."""
        shapes = {}
        for name in _DTYPES:
            tensor: Tensor = getattr(data, name).cpu().contiguous()
            tensor.numpy().tofile(folder / name)
            shapes[name] = tuple(tensor.shape)
        return cls(folder=folder, shapes=shapes, mean=data.mean, std=data.std)

    def open(self) -> TrainingData:
        """Returns the data on the CPU, mapped from the files: pages are read when they are first used."""
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
    """Returns one value for each channel as a float32 tensor (1, C, 1, 1) on `device`."""
    return torch.tensor(values, dtype=torch.float32, device=device).view(1, -1, 1, 1)
