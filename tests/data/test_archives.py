"""Archives of published datasets: unpacking, download, damage."""

import errno
import hashlib
import pickle
import shutil
import socket

import numpy as np
import pytest
import torch
import torchvision
from support.data import (
    DATA_ROOT_HINT,
    ENDINGS,
    GZ,
    archive,
    check,
    error_of,
    examples,
    idx,
    rows,
)

from nas.data import downloads
from nas.data.datasets import Split, load, load_test, merge_train_and_val, resolve


@pytest.mark.parametrize(
    ("name", "kind"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST"), ("kmnist", "KMNIST")]
)
def test_archives_are_unpacked_and_read(name, kind, tmp_path, monkeypatch):
    root = archive(tmp_path, monkeypatch, kind)
    dataset = load(name, data_root=root, download=False)
    check(dataset)
    assert dataset.input_shape == (1, 5, 4)
    assert dataset.split_id == "val 20 of 120, stratified, seed 0"
    images, labels = (torch.from_numpy(array) for array in examples(120, seed=120))
    assert rows(merge_train_and_val(dataset)) == rows(Split(images=images.to(torch.uint8).unsqueeze(1), labels=labels))
    images, labels = (torch.from_numpy(array) for array in examples(20, seed=20))
    test = load_test(name, data_root=root)
    assert torch.equal(test.images[:, 0], images)
    assert torch.equal(test.labels, labels)


def test_download_sets_socket_timeout_and_restores_it(small_mnist, tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [f"file://{small_mnist}/MNIST/raw/"])
    timeouts = []
    extract = torchvision.datasets.utils.extract_archive

    def extracting(*args, **kwargs):
        timeouts.append(socket.getdefaulttimeout())
        return extract(*args, **kwargs)

    monkeypatch.setattr(torchvision.datasets.utils, "extract_archive", extracting)
    root = tmp_path / "new" / "place"
    sentence = f"MNIST is not in {root}/MNIST/raw yet and will be downloaded to it"
    assert resolve(data_root=root) == ("mnist", sentence)
    assert load(data_root=root).fingerprint == load("mnist", data_root=small_mnist).fingerprint
    assert timeouts[:4] == [downloads.DOWNLOAD_TIMEOUT_SECONDS] * 4
    assert socket.getdefaulttimeout() is None


def test_interrupted_download_can_be_repeated(small_mnist, tmp_path, monkeypatch):
    mirror = tmp_path / "mirror"
    shutil.copytree(small_mnist / "MNIST" / "raw", mirror)
    whole = (mirror / GZ[1]).read_bytes()
    (mirror / GZ[1]).write_bytes(whole[:-9])
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [f"file://{mirror}/"])
    root = tmp_path / "new"
    text = error_of(load, "mnist", data_root=root)  # then torchvision's reason, worded by its version
    assert text.startswith(f"{root}/MNIST/raw: mnist cannot be downloaded and unpacked (")
    assert text.endswith(f"), expected a writable folder; {DATA_ROOT_HINT}")
    assert [path.name for path in (root / "MNIST" / "raw").glob("*.gz")] == [GZ[0]]
    (mirror / GZ[1]).write_bytes(whole)
    assert load("mnist", data_root=root).split_id == "val 20 of 120, stratified, seed 0"


def test_damaged_archive_error_names_file_and_md5(small_mnist):
    path = small_mnist / "MNIST" / "raw" / "train-images-idx3-ubyte.gz"
    data = bytearray(path.read_bytes())
    expected = hashlib.md5(data).hexdigest()
    data[100] ^= 1
    path.write_bytes(data)
    found = hashlib.md5(data).hexdigest()
    mend = "delete the file and run again to download it anew; if it differs on purpose, unpack it yourself"
    text = f"{path}: MD5 is {found}, expected {expected}; {mend}"
    assert error_of(load, "mnist", data_root=small_mnist) == text
    assert error_of(load, data_root=small_mnist) == text  # no silent fallback to digits


@pytest.mark.parametrize("kept", [0, 15, 16, 100, 2415])
def test_truncated_unpacked_file_is_rejected(kept, small_mnist):
    load("mnist", data_root=small_mnist)
    path = small_mnist / "MNIST" / "raw" / "train-images-idx3-ubyte"
    whole = path.read_bytes()
    path.write_bytes(whole[:kept])
    text = (
        f"{kept} bytes found, expected {len(whole)} according to its header"
        if kept > 16
        else "not an idx file of bytes with 3 axes"
    )
    assert error_of(load, "mnist", data_root=small_mnist) == f"{path}: {text}; delete the file and run again"
    path.unlink()  # as the error message asks
    assert load("mnist", data_root=small_mnist).num_classes == 10


def test_labels_not_matching_images_are_rejected(small_mnist):
    load("mnist", data_root=small_mnist)
    path = small_mnist / "MNIST" / "raw" / "train-labels-idx1-ubyte"
    path.write_bytes(idx(np.arange(119) % 10))
    text = f"{path}: 119 labels found, expected 120, one per image"
    assert error_of(load, "mnist", data_root=small_mnist) == text
    path.write_bytes(idx(np.arange(120)))
    assert error_of(load, "mnist", data_root=small_mnist) == f"{path}: label 119 found, expected 0 to 9"


def test_data_root_that_is_a_file_is_rejected(small_mnist, tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [f"file://{small_mnist}/MNIST/raw/"])
    root = tmp_path / "file"
    root.touch()
    assert error_of(load, "mnist", data_root=root) == (
        f"{root}/MNIST/raw: mnist cannot be downloaded and unpacked ([Errno 20] Not a directory:"
        f" '{root}/MNIST'), expected a writable folder; {DATA_ROOT_HINT}"
    )


def test_read_only_data_root_is_rejected(small_mnist, monkeypatch):
    raw = small_mnist / "MNIST" / "raw"

    def refuse(path, *_):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", lambda *_, **__: refuse(raw))
    assert error_of(load, "mnist", data_root=small_mnist) == (
        f"{raw}: mnist cannot be downloaded and unpacked ([Errno 13] Permission denied: '{raw}'),"
        f" expected a writable folder; {DATA_ROOT_HINT}"
    )


def test_unreadable_test_file_error_names_file(small_mnist):
    load("mnist", data_root=small_mnist)
    path = small_mnist / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    assert load("mnist", data_root=small_mnist).fingerprint
    path.unlink()
    path.mkdir()
    assert str(path) in error_of(load_test, "mnist", data_root=small_mnist)


def test_emnist_images_are_transposed(tmp_path):
    raw = tmp_path / "EMNIST" / "raw"
    raw.mkdir(parents=True)
    for stem, count in (("train", 60), ("test", 10)):
        for ending, array in zip(ENDINGS, examples(count, seed=count), strict=True):
            (raw / f"emnist-digits-{stem}-{ending}").write_bytes(idx(array))
    dataset = load("emnist-digits", data_root=tmp_path, download=False)
    check(dataset)
    assert dataset.input_shape == (1, 4, 5)
    images, labels = (torch.from_numpy(array) for array in examples(60, seed=60))
    upright = images.transpose(1, 2).to(torch.uint8).unsqueeze(1)
    assert rows(merge_train_and_val(dataset)) == rows(Split(images=upright, labels=labels))
    images, _ = examples(10, seed=10)
    assert torch.equal(load_test("emnist-digits", data_root=tmp_path).images[:, 0], torch.from_numpy(images).mT)


def test_missing_emnist_error_names_archive(tmp_path):
    assert error_of(load, "emnist-digits", data_root=tmp_path, download=False) == (
        f"emnist-digits: not found in {tmp_path}, and downloads are off; expected EMNIST/raw/gzip.zip; {DATA_ROOT_HINT}"
    )


def test_cifar10_images_are_channels_first(small_cifar10):
    dataset = load("cifar10", data_root=small_cifar10, download=False)
    check(dataset)
    assert dataset.input_shape == (3, 32, 32)
    assert dataset.split_id == "val 17 of 100, stratified, seed 0"
    batch = pickle.loads((small_cifar10 / "cifar-10-batches-py" / "test_batch").read_bytes())
    test = load_test("cifar10", data_root=small_cifar10)
    assert torch.equal(test.images.flatten(1), torch.from_numpy(batch["data"]))
    assert test.labels.tolist() == batch["labels"]


def test_damaged_cifar10_error_names_folder(small_cifar10):
    folder = small_cifar10 / "cifar-10-batches-py"
    (folder / "data_batch_3").write_bytes(b"cut")
    assert error_of(load, "cifar10", data_root=small_cifar10) == (
        f"{folder}: a file is missing, or its MD5 is not the published one; delete the folder and run again"
    )
