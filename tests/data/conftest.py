"""Small datasets that tests read or damage."""

import hashlib
import pickle

import numpy as np
import pytest
import torchvision
from support.data import archive, write_images

from nas.data import downloads
from nas.data.datasets import load


@pytest.fixture(scope="session")
def mnist(mnist_root):
    return load("mnist", data_root=mnist_root)


@pytest.fixture
def small_mnist(tmp_path, monkeypatch):
    """A data root with MNIST/raw/*.gz of 120 and 20 examples; torchvision expects their MD5s."""
    return archive(tmp_path / "root", monkeypatch, "MNIST")


@pytest.fixture
def small_cifar10(tmp_path, monkeypatch):
    """A data root with cifar-10-batches-py of 5 x 20 and 20 examples; torchvision expects their MD5s."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    generator = np.random.default_rng(0)

    def write(name, content):
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        return [name, hashlib.md5(data).hexdigest()]

    def batch(name):
        pixels = generator.integers(0, 256, (20, 3072)).astype(np.uint8)
        return write(name, {"data": pixels, "labels": [i % 10 for i in range(20)]})

    kind = torchvision.datasets.CIFAR10
    monkeypatch.setattr(kind, "train_list", [batch(f"data_batch_{i}") for i in range(1, 6)])
    monkeypatch.setattr(kind, "test_list", [batch("test_batch")])
    filename, md5 = write("batches.meta", {"label_names": list(downloads.CIFAR10)})
    monkeypatch.setattr(kind, "meta", {"filename": filename, "key": "label_names", "md5": md5})
    return tmp_path


@pytest.fixture(scope="session")
def digits():
    return load("digits")


@pytest.fixture
def folder(tmp_path):
    """Grey images, 6 wide and 4 high: 12 and 24 in train/, 3 and 2 in test/."""
    for part, label, count in (("train", "a", 12), ("train", "b", 24), ("test", "a", 3), ("test", "b", 2)):
        write_images(tmp_path / part / label, count, seed=len(part))
    return tmp_path
