"""Loads datasets by name or folder: train and val splits together, the test split separately."""

import hashlib
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nas.data.downloads import TEN, TORCHVISION_DATASETS, TorchvisionDataset, download_if_missing, why_unreachable
from nas.data.image_folder import common_mode, list_images, read_pixels
from nas.errors import DatasetError, argument_text, first_line, names_text, one_of, suggestion

if TYPE_CHECKING:
    from torch import Tensor

SPLIT_SEED = 0  # not the study's seed, which must not move examples between splits


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Split:
    """Examples of a dataset.

    Attributes:
        images: pixels from 0 to 255, uint8 (N, channels, height, width).
        labels: index of the class of each image, int64 (N,).
    """

    images: "Tensor"
    labels: "Tensor"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dataset:
    """The train and val splits of a dataset, without the test split.

    Attributes:
        name: name that `load` takes.
        train, val: the splits.
        classes: names of the classes; a label is an index into them.
        mean, std: per channel, of the train split's pixels scaled to 0..1.
        split_id: how train and val were split, as text.
        fingerprint: `fingerprint(train, val)`, so that a study can refuse changed data.
    """

    name: str
    train: Split
    val: Split
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    split_id: str
    fingerprint: str

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape of one example: (channels, height, width)."""
        _, channels, height, width = self.train.images.shape
        return channels, height, width

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)


def resolve(name: str | None = None, *, data_root: str | Path | None = None, download: bool = True) -> tuple[str, str]:
    """Returns the name of the dataset to load, and the reason as a short phrase.

    Without a name this is "mnist" if it is present or can be downloaded, otherwise "digits". Raises `DatasetError` for
    an unknown name.
    """
    if name is not None:
        _check_name(name)
        return name, "named by the user"
    mnist = TORCHVISION_DATASETS["mnist"]
    root = _data_root(data_root, mnist)
    place = root / mnist.folder
    if place.is_dir() and any(place.iterdir()):  # `load` reports missing and damaged files
        return "mnist", f"MNIST found in {place}"
    url, _ = mnist.archives(root)
    if not (reason := why_unreachable(url) if download else "downloads are off"):
        return "mnist", f"MNIST is not in {place} yet and will be downloaded to it"
    digits = "using scikit-learn's digits (1,797 real 8x8 scans, scaled to 28x28)"
    return "digits", f"MNIST is neither in {place} nor downloadable here ({reason}): {digits}"


def load(name: str | None = None, *, data_root: str | Path | None = None, download: bool = True) -> Dataset:
    """Loads a dataset and splits it into train and val, always in the same way.

    Args:
        name: "mnist", "fashion-mnist", "kmnist", "emnist-digits", "cifar10", "digits" or "folder:PATH"; None is the one
            that `resolve` picks.
        data_root: folder that holds datasets; None is $NAS_DATA or the user's cache.
        download: downloads the dataset if it is missing.

    Raises:
        DatasetError: the dataset is unknown, missing, damaged or unsuitable.
    """
    name, _ = resolve(name, data_root=data_root, download=download)
    pool, classes = _read(name, data_root, download=download, test=False)
    kept, held_out = _stratified_split(pool.labels, classes, parts=6, where=f"{name}, train and val")
    train, val = (Split(images=pool.images[i], labels=pool.labels[i]) for i in (kept, held_out))
    mean, std = _statistics(train.images)
    return Dataset(
        name=name,
        train=train,
        val=val,
        classes=classes,
        mean=mean,
        std=std,
        split_id=f"val {len(held_out)} of {len(pool.labels)}, stratified, seed {SPLIT_SEED}",
        fingerprint=fingerprint(train, val),
    )


def load_test(name: str, *, data_root: str | Path | None = None) -> Split:
    """Loads the test split; raises `DatasetError` as `load` does.

    Only `nas confirm` and `nas train --test` may call this. A test split that is used to choose networks is no longer
    unbiased.
    """
    _check_name(name)
    return _read(name, data_root, download=True, test=True)[0]


def merge_train_and_val(dataset: Dataset) -> Split:
    """Returns train and val as one split, on which chosen networks are trained again."""
    return merge_splits(dataset.train, dataset.val)


def merge_splits(*splits: Split) -> Split:
    """Returns the examples of several splits as one split, in order."""
    import torch

    return Split(images=torch.cat([x.images for x in splits]), labels=torch.cat([x.labels for x in splits]))


def _check_name(name: str) -> None:
    """Raises `DatasetError` unless it is the name of a dataset."""
    if name in TORCHVISION_DATASETS or name == "digits" or (name.startswith("folder:") and name != "folder:"):
        return
    names = [*TORCHVISION_DATASETS, "digits", "folder:PATH"]
    raise DatasetError(f"{argument_text('dataset', name)}{suggestion(name, names)}: expected {one_of(names)}")


def _data_root(argument: str | Path | None, dataset: TorchvisionDataset) -> Path:
    """Returns the given folder, else $NAS_DATA or the user's cache.

    The first of these two that has the dataset is taken; if neither has it, $NAS_DATA if set, else the cache.
    """
    if argument:
        return Path(argument).expanduser()
    named = os.environ.get("NAS_DATA")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "nas" / "data"
    places = [Path(named).expanduser(), cache] if named else [cache]
    return next((place for place in places if (place / dataset.folder).is_dir()), places[0])


def _read(name: str, data_root: str | Path | None, *, download: bool, test: bool) -> tuple[Split, tuple[str, ...]]:
    """Returns the test split, or all other examples, and the names of the classes."""
    if name == "digits":
        return _read_digits(test=test)
    try:
        if name.startswith("folder:"):
            return _read_folder(Path(name.removeprefix("folder:")).expanduser(), test=test)
        source = TORCHVISION_DATASETS[name]
        root = _data_root(data_root, source)
        download_if_missing(name, source, root, download=download, test=test)
        return (_read_cifar10 if name == "cifar10" else _read_idx)(source, root, test=test), source.classes
    except OSError as error:
        raise DatasetError(f"{error.filename or name}: {error.strerror or first_line(error)}") from None


def _stratified_split(
    labels: "Tensor", classes: tuple[str, ...], *, parts: int, where: str
) -> tuple["Tensor", "Tensor"]:
    """Holds out 1/`parts` of the examples, stratified; returns ascending indices of the kept and the held-out ones.

    Raises `DatasetError` if a class has fewer than `parts` examples. This check, and rounding up the number of held-out
    examples, leave each class with an example on both sides.
    """
    import torch
    from sklearn.model_selection import train_test_split

    for label, count in zip(classes, torch.bincount(labels, minlength=len(classes)).tolist(), strict=True):
        if count < parts:
            raise DatasetError(f"{where}: class {label!r} has {count} images, expected at least {parts} to split")
    size = -(-len(labels) // parts)
    sides = train_test_split(range(len(labels)), test_size=size, random_state=SPLIT_SEED, stratify=labels.numpy())
    kept, held_out = (torch.tensor(sorted(side)) for side in sides)
    return kept, held_out


def _statistics(images: "Tensor") -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and standard deviation per channel, of pixels scaled to 0..1.

    They are computed from histograms in integers, so they are the same on every machine.
    """
    import torch

    values, means, stds = torch.arange(256), [], []
    for channel in images.unbind(1):
        counts, total = torch.bincount(channel.flatten(), minlength=256), channel.numel()
        first, second = int((counts * values).sum()), int((counts * values**2).sum())
        means.append(first / total / 255)
        # 1 for a constant channel, so that normalisation does not divide by 0
        stds.append(math.sqrt(second * total - first**2) / total / 255 or 1.0)
    return tuple(means), tuple(stds)


def fingerprint(*splits: Split) -> str:
    """Returns 16 hexadecimal digits: a SHA-256 over shapes, pixels and labels of the splits."""
    digest = hashlib.sha256()
    for split in splits:
        digest.update(repr(tuple(split.images.shape)).encode())
        digest.update(split.images.numpy().data)
        digest.update(split.labels.numpy().data)
    return digest.hexdigest()[:16]


def _read_idx(source: TorchvisionDataset, root: Path, *, test: bool) -> Split:
    images_path, labels_path = source.unpacked_files(root, test=test)
    images, labels = _read_idx_array(images_path, num_axes=3), _read_idx_array(labels_path, num_axes=1).long()
    if len(images) != len(labels):
        raise DatasetError(f"{labels_path}: {len(labels)} labels found, expected {len(images)}, one per image")
    if (highest := int(labels.max())) >= len(source.classes):
        raise DatasetError(f"{labels_path}: label {highest} found, expected 0 to {len(source.classes) - 1}")
    if source.kind == "EMNIST":  # stores images transposed
        images = images.transpose(1, 2)
    return Split(images=images.unsqueeze(1).contiguous(), labels=labels)


def _read_idx_array(path: Path, *, num_axes: int) -> "Tensor":
    """Reads the uint8 array of an unpacked idx file; raises `DatasetError` unless its size agrees with its header."""
    import torch

    data = bytearray(path.read_bytes())
    start = 4 + 4 * num_axes
    if data[:4] != bytes((0, 0, 8, num_axes)) or len(data) <= start:
        raise DatasetError(f"{path}: not an idx file of bytes with {num_axes} axes; delete the file and run again")
    shape = [int.from_bytes(data[i : i + 4], "big") for i in range(4, start, 4)]
    if len(data) != (size := start + math.prod(shape)):
        text = f"{len(data)} bytes found, expected {size} according to its header; delete the file and run again"
        raise DatasetError(f"{path}: {text}")
    return torch.frombuffer(data, dtype=torch.uint8, offset=start).reshape(shape)


def _read_cifar10(source: TorchvisionDataset, root: Path, *, test: bool) -> Split:
    import torch

    try:
        data = source.torchvision_class()(root, train=not test)  # checks the MD5 of every file
    except RuntimeError:
        text = "a file is missing, or its MD5 is not the published one; delete the folder and run again"
        raise DatasetError(f"{root / source.folder}: {text}") from None
    images = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()
    return Split(images=images, labels=torch.tensor(data.targets))


def _read_digits(*, test: bool) -> tuple[Split, tuple[str, ...]]:
    import torch
    from sklearn.datasets import load_digits

    digits = load_digits()
    labels = torch.from_numpy(digits.target).long()
    small = torch.from_numpy(digits.images).unsqueeze(1)  # (1797, 1, 8, 8), 0 to 16
    large = torch.nn.functional.interpolate(small, size=(28, 28), mode="bilinear", align_corners=False)
    images = (large * (255 / 16)).round().to(torch.uint8)
    kept, held_out = _stratified_split(labels, TEN, parts=5, where="digits")
    chosen = held_out if test else kept
    return Split(images=images[chosen], labels=labels[chosen]), TEN


def _read_folder(path: Path, *, test: bool) -> tuple[Split, tuple[str, ...]]:
    """Reads PATH/train/CLASS/* and PATH/test/CLASS/*; without test/, one sixth of train/ is the test split."""
    import torch

    files, labels, classes = list_images(path / "train")
    if (path / "test").is_dir():
        test_files, test_labels, test_classes = list_images(path / "test")
        if in_one := sorted(set(test_classes) ^ set(classes)):
            state = "found" if in_one[0] in test_classes else "is missing"
            raise DatasetError(
                f"{path / 'test'}: class {in_one[0]!r} {state}, expected the classes of train: {names_text(classes)}"
            )
    else:
        kept, held_out = _stratified_split(labels, classes, parts=6, where=str(path / "train"))
        test_files, test_labels = [files[i] for i in held_out.tolist()], labels[held_out]
        files, labels = [files[i] for i in kept.tolist()], labels[kept]
    mode = common_mode([*files, *test_files])  # headers only; finds an unsuitable test image before the search
    if test:
        files, labels = test_files, test_labels
    return Split(images=torch.stack([read_pixels(file, mode) for file in files]), labels=labels), classes
