"""Small archives and folders of images, and a check of datasets."""

import gzip
import hashlib

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from nas.data.datasets import merge_train_and_val
from nas.errors import DatasetError

MNIST_FINGERPRINT = "91911860c092df3a"


DIGITS_FINGERPRINT = "e3079e25bc4ca1e3"


UNRESOLVED = "could not resolve host ossci-datasets.s3.amazonaws.com: [Errno -2] Name or service not known"


DATA_ROOT_HINT = "name another folder with `data_root` or the environment variable NAS_DATA"


GZ = tuple(name for name, _ in torchvision.datasets.MNIST.resources)


ENDINGS = ("images-idx3-ubyte", "labels-idx1-ubyte")


def error_of(function, *args, **kwargs):
    with pytest.raises(DatasetError) as caught:
        function(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def check(dataset):
    """Asserts the properties that every dataset has."""
    for split in (dataset.train, dataset.val):
        assert split.images.dtype == torch.uint8
        assert split.labels.dtype == torch.int64
        assert split.images.shape == (len(split.labels), *dataset.input_shape)
        assert split.images.is_contiguous()
        assert set(split.labels.tolist()) == set(range(dataset.num_classes))
    pixels = dataset.train.images.float() / 255
    std, mean = torch.std_mean(pixels, dim=(0, 2, 3), correction=0)
    assert dataset.mean == pytest.approx(mean.tolist(), rel=1e-4)
    assert dataset.std == pytest.approx(std.tolist(), rel=1e-4)
    counts = [torch.bincount(split.labels).double() for split in (dataset.val, merge_train_and_val(dataset))]
    share = len(dataset.val.labels) / (len(dataset.val.labels) + len(dataset.train.labels))
    assert (counts[0] - counts[1] * share).abs().max() < 1


def rows(*splits):
    """Returns the examples of the splits as sorted bytes; duplicates are kept."""
    return sorted(
        image.tobytes() + bytes([label])
        for split in splits
        for image, label in zip(split.images.numpy(), split.labels.tolist(), strict=True)
    )


def idx(array):
    header = bytes((0, 0, 8, array.ndim)) + b"".join(side.to_bytes(4, "big") for side in array.shape)
    return header + array.astype(np.uint8).tobytes()


def examples(count, seed):
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (count, 5, 4)), np.arange(count) % 10


def archive(root, monkeypatch, kind):
    folder = root / kind / "raw"
    folder.mkdir(parents=True)
    resources = []
    for stem, count in (("train", 120), ("t10k", 20)):
        for ending, array in zip(ENDINGS, examples(count, seed=count), strict=True):
            data = gzip.compress(idx(array), mtime=0)
            (folder / f"{stem}-{ending}.gz").write_bytes(data)
            resources.append((f"{stem}-{ending}.gz", hashlib.md5(data).hexdigest()))
    monkeypatch.setattr(getattr(torchvision.datasets, kind), "resources", resources)
    return root


def write_images(folder, count, *, mode="L", size=(6, 4), suffix=".png", seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng([seed, *folder.name.encode()])
    for i in range(count):
        shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
        Image.fromarray(generator.integers(0, 256, shape).astype(np.uint8)).save(folder / f"{i:03}{suffix}")
