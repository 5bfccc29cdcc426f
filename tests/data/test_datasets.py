import errno
import gzip
import hashlib
import math
import os
import pickle
import re
import shutil
import socket
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits

from nas.data import datasets
from nas.data.datasets import Dataset, Split, load, load_test, merged, resolve
from nas.data.image_folder import pixels
from nas.errors import DatasetError

MNIST_FINGERPRINT = "91911860c092df3a"
DIGITS_FINGERPRINT = "e3079e25bc4ca1e3"
UNRESOLVED = "could not resolve host ossci-datasets.s3.amazonaws.com: [Errno -2] Name or service not known"
ELSEWHERE = "another data root is named by --data-root or the environment variable NAS_DATA"
GZ = tuple(name for name, _ in torchvision.datasets.MNIST.resources)
ENDINGS = ("images-idx3-ubyte", "labels-idx1-ubyte")


def error_of(function, *args, **kwargs):
    with pytest.raises(DatasetError) as caught:
        function(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def check(dataset):
    """What holds of every dataset."""
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
    counts = [torch.bincount(split.labels).double() for split in (dataset.val, merged(dataset))]
    share = len(dataset.val.labels) / (len(dataset.val.labels) + len(dataset.train.labels))
    assert (counts[0] - counts[1] * share).abs().max() < 1


def rows(*splits):
    """The examples, each as bytes, sorted: equal lists hold the same examples, doubles counted."""
    return sorted(
        image.tobytes() + bytes([label])
        for split in splits
        for image, label in zip(split.images.numpy(), split.labels.tolist(), strict=True)
    )


# --- MNIST


@pytest.fixture(scope="module")
def mnist(mnist_root):
    return load("mnist", data_root=mnist_root)


def test_mnist_is_split_as_the_protocol_says(mnist):
    check(mnist)
    assert mnist.train.images.shape == (50_000, 1, 28, 28)
    assert mnist.val.images.shape == (10_000, 1, 28, 28)
    assert mnist.input_shape == (1, 28, 28)
    assert mnist.classes == tuple("0123456789")
    assert mnist.split_id == "val 10000 of 60000, stratified, seed 0"
    assert mnist.fingerprint == MNIST_FINGERPRINT


def test_mnist_train_and_val_are_torchvisions_train_examples(mnist, mnist_root):
    theirs = torchvision.datasets.MNIST(mnist_root, train=True)
    assert rows(mnist.train, mnist.val) == rows(Split(images=theirs.data.unsqueeze(1), labels=theirs.targets))
    assert len(merged(mnist).labels) == 60_000
    assert rows(merged(mnist)) == rows(mnist.train, mnist.val)


def test_mnist_test_split(mnist, mnist_root):
    theirs = torchvision.datasets.MNIST(mnist_root, train=False)
    ours = load_test("mnist", data_root=mnist_root)
    assert torch.equal(ours.images, theirs.data.unsqueeze(1))
    assert torch.equal(ours.labels, theirs.targets)


def test_load_leaves_the_test_files_of_mnist_closed(mnist, mnist_root, tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for ending in ENDINGS:
        shutil.copyfile(mnist_root / "MNIST" / "raw" / f"train-{ending}", raw / f"train-{ending}")
    assert load("mnist", data_root=tmp_path, download=False).fingerprint == MNIST_FINGERPRINT


def test_without_a_name_mnist_is_found(mnist, mnist_root, tmp_path, monkeypatch):
    found = ("mnist", f"MNIST found in {mnist_root}/MNIST/raw")
    assert resolve() == found
    monkeypatch.delenv("NAS_DATA")
    assert resolve(data_root=mnist_root) == found
    assert resolve()[0] == "digits"
    (tmp_path / "nas").mkdir()
    (tmp_path / "nas" / "data").symlink_to(mnist_root)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert resolve() == ("mnist", f"MNIST found in {tmp_path}/nas/data/MNIST/raw")


@pytest.fixture
def small_mnist(tmp_path, monkeypatch):
    """A data root with MNIST/raw/*.gz of 120 and 20 examples, their MD5s known to torchvision."""
    return archive(tmp_path / "root", monkeypatch, "MNIST")


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
    assert rows(merged(dataset)) == rows(Split(images=images.to(torch.uint8).unsqueeze(1), labels=labels))
    images, labels = (torch.from_numpy(array) for array in examples(20, seed=20))
    test = load_test(name, data_root=root)
    assert torch.equal(test.images[:, 0], images)
    assert torch.equal(test.labels, labels)


def test_archives_are_downloaded_with_a_timeout_that_ends_with_it(small_mnist, tmp_path, monkeypatch):
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
    assert timeouts[:4] == [datasets.SILENCE_SECONDS] * 4
    assert socket.getdefaulttimeout() is None


def test_a_download_that_breaks_off_can_be_begun_again(small_mnist, tmp_path, monkeypatch):
    mirror = tmp_path / "mirror"
    shutil.copytree(small_mnist / "MNIST" / "raw", mirror)
    whole = (mirror / GZ[1]).read_bytes()
    (mirror / GZ[1]).write_bytes(whole[:-9])
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [f"file://{mirror}/"])
    root = tmp_path / "new"
    text = error_of(load, "mnist", data_root=root)  # in the middle: torchvision's own reason, which its versions word
    assert text.startswith(f"{root}/MNIST/raw: mnist cannot be downloaded and unpacked there (")
    assert text.endswith(f"), allowed: a writable folder; {ELSEWHERE}")
    assert [path.name for path in (root / "MNIST" / "raw").glob("*.gz")] == [GZ[0]]
    (mirror / GZ[1]).write_bytes(whole)
    assert load("mnist", data_root=root).split_id == "val 20 of 120, stratified, seed 0"


def test_a_damaged_archive_is_named(small_mnist):
    path = small_mnist / "MNIST" / "raw" / "train-images-idx3-ubyte.gz"
    data = bytearray(path.read_bytes())
    expected = hashlib.md5(data).hexdigest()
    data[100] ^= 1
    path.write_bytes(data)
    found = hashlib.md5(data).hexdigest()
    mend = "delete it and run again to download it anew; if it is meant to differ, unpack it"
    text = f"{path}: MD5 is {found}, allowed: {expected}; {mend}"
    assert error_of(load, "mnist", data_root=small_mnist) == text
    assert error_of(load, data_root=small_mnist) == text  # MNIST is there: it must not quietly become digits


@pytest.mark.parametrize("kept", [0, 15, 16, 100, 2415])
def test_a_cut_unpacked_file_is_never_read(kept, small_mnist):
    load("mnist", data_root=small_mnist)
    path = small_mnist / "MNIST" / "raw" / "train-images-idx3-ubyte"
    whole = path.read_bytes()
    path.write_bytes(whole[:kept])
    text = (
        f"{kept} bytes found, allowed: {len(whole)} by its header"
        if kept > 16
        else "not an idx file of bytes with 3 axes"
    )
    assert error_of(load, "mnist", data_root=small_mnist) == f"{path}: {text}; delete it and run again"
    path.unlink()  # as told
    assert load("mnist", data_root=small_mnist).num_classes == 10


def test_labels_must_fit_the_images(small_mnist):
    load("mnist", data_root=small_mnist)
    path = small_mnist / "MNIST" / "raw" / "train-labels-idx1-ubyte"
    path.write_bytes(idx(np.arange(119) % 10))
    text = f"{path}: 119 labels found, allowed: 120, one an image"
    assert error_of(load, "mnist", data_root=small_mnist) == text
    path.write_bytes(idx(np.arange(120)))
    assert error_of(load, "mnist", data_root=small_mnist) == f"{path}: label 119 found, allowed: 0 to 9"


def test_a_data_root_that_is_a_file_cannot_be_written(small_mnist, tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [f"file://{small_mnist}/MNIST/raw/"])
    root = tmp_path / "file"
    root.touch()
    assert error_of(load, "mnist", data_root=root) == (
        f"{root}/MNIST/raw: mnist cannot be downloaded and unpacked there ([Errno 20] Not a directory:"
        f" '{root}/MNIST'), allowed: a writable folder; {ELSEWHERE}"
    )


def test_a_data_root_that_is_read_only_cannot_be_unpacked_to(small_mnist, monkeypatch):
    raw = small_mnist / "MNIST" / "raw"

    def refuse(path, *_):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", lambda *_, **__: refuse(raw))
    assert error_of(load, "mnist", data_root=small_mnist) == (
        f"{raw}: mnist cannot be downloaded and unpacked there ([Errno 13] Permission denied: '{raw}'),"
        f" allowed: a writable folder; {ELSEWHERE}"
    )


def test_an_unreadable_file_is_named(small_mnist):
    load("mnist", data_root=small_mnist)
    path = small_mnist / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    assert load("mnist", data_root=small_mnist).fingerprint
    path.unlink()
    path.mkdir()
    assert str(path) in error_of(load_test, "mnist", data_root=small_mnist)


# --- EMNIST and CIFAR-10


def test_emnist_is_turned_upright(tmp_path):
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
    assert rows(merged(dataset)) == rows(Split(images=upright, labels=labels))
    images, _ = examples(10, seed=10)
    assert torch.equal(load_test("emnist-digits", data_root=tmp_path).images[:, 0], torch.from_numpy(images).mT)


def test_emnist_says_what_to_download(tmp_path):
    assert error_of(load, "emnist-digits", data_root=tmp_path, download=False) == (
        f"emnist-digits: not in {tmp_path}, and downloads are off; allowed there: EMNIST/raw/gzip.zip; {ELSEWHERE}"
    )


@pytest.fixture
def small_cifar10(tmp_path, monkeypatch):
    """A data root with cifar-10-batches-py of 5 x 20 and 20 examples, their MD5s known to torchvision."""
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
    filename, md5 = write("batches.meta", {"label_names": list(datasets.CIFAR10)})
    monkeypatch.setattr(kind, "meta", {"filename": filename, "key": "label_names", "md5": md5})
    return tmp_path


def test_cifar10_has_three_channels_first(small_cifar10):
    dataset = load("cifar10", data_root=small_cifar10, download=False)
    check(dataset)
    assert dataset.input_shape == (3, 32, 32)
    assert dataset.split_id == "val 17 of 100, stratified, seed 0"
    batch = pickle.loads((small_cifar10 / "cifar-10-batches-py" / "test_batch").read_bytes())
    test = load_test("cifar10", data_root=small_cifar10)
    assert torch.equal(test.images.flatten(1), torch.from_numpy(batch["data"]))
    assert test.labels.tolist() == batch["labels"]


def test_a_damaged_cifar10_is_named(small_cifar10):
    folder = small_cifar10 / "cifar-10-batches-py"
    (folder / "data_batch_3").write_bytes(b"cut")
    assert error_of(load, "cifar10", data_root=small_cifar10) == (
        f"{folder}: a file is missing, or its MD5 is not the published one; delete the folder and run again"
    )


# --- digits


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def test_digits_are_split_in_three(digits):
    check(digits)
    assert [len(split.labels) for split in (digits.train, digits.val, load_test("digits"))] == [1197, 240, 360]
    assert digits.input_shape == (1, 28, 28)
    assert digits.split_id == "val 240 of 1437, stratified, seed 0"


def test_the_splits_of_digits_hold_each_scan_once(digits):
    scans = torch.from_numpy(load_digits().images).unsqueeze(1)
    large = torch.nn.functional.interpolate(scans, size=(28, 28), mode="bilinear", align_corners=False)
    images = (large * 255 / 16).round().to(torch.uint8)
    whole = Split(images=images, labels=torch.from_numpy(load_digits().target))
    assert rows(digits.train, digits.val, load_test("digits")) == rows(whole)
    assert images.max() == 255


def test_digits_are_the_same_everywhere(digits):
    assert digits.fingerprint == load("digits").fingerprint == DIGITS_FINGERPRINT


def test_the_fingerprint_sees_one_pixel_and_one_label(digits):
    assert datasets.fingerprint(digits.train, digits.val) == digits.fingerprint
    images, labels = digits.val.images.clone(), digits.val.labels.clone()
    images[3, 0, 5, 5] ^= 1
    labels[7] ^= 1
    for val in (Split(images=images, labels=digits.val.labels), Split(images=digits.val.images, labels=labels)):
        assert datasets.fingerprint(digits.train, val) != digits.fingerprint
    assert re.fullmatch("[0-9a-f]{16}", digits.fingerprint)


def test_a_dataset_has_no_door_to_the_test_split(digits):
    assert {name for name in dir(Dataset) if not name.startswith("_")} == {
        *("name", "train", "val", "classes", "mean", "std", "split_id", "fingerprint"),
        *("input_shape", "num_classes"),
    }


# --- which dataset, and where from


def test_without_a_name_and_a_network_it_is_digits(tmp_path):
    place = tmp_path / "MNIST" / "raw"
    using = "using scikit-learn's digits (1,797 real 8x8 scans, scaled to 28x28)"
    sentence = f"MNIST is neither in {place} nor downloadable here ({UNRESOLVED}): {using}"
    assert resolve(data_root=tmp_path) == ("digits", sentence)
    sentence = f"MNIST is neither in {place} nor downloadable here (downloads are off): {using}"
    assert resolve(data_root=tmp_path, download=False) == ("digits", sentence)
    assert load(data_root=tmp_path).name == "digits"


def test_mnist_asked_for_by_name_never_becomes_digits(tmp_path):
    files = ", ".join(f"MNIST/raw/{name}" for name in GZ)
    text = f"mnist: not in {tmp_path}, and {UNRESOLVED}; allowed there: {files}; {ELSEWHERE}"
    assert error_of(load, "mnist", data_root=tmp_path) == text
    assert error_of(load_test, "mnist", data_root=tmp_path) == text


def test_the_places_that_are_searched(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache, mnist = tmp_path / "nas" / "data", datasets.PUBLISHED["mnist"]
    assert datasets._data_root(None, mnist) == cache
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert datasets._data_root(None, mnist) == Path.home() / ".cache" / "nas" / "data"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("NAS_DATA", "/named")
    assert datasets._data_root(None, mnist) == Path("/named")
    (cache / "MNIST" / "raw").mkdir(parents=True)
    assert datasets._data_root(None, mnist) == cache  # the first that has it
    assert datasets._data_root("/given", mnist) == Path("/given")  # what is named is meant


def test_a_part_of_mnist_is_no_reason_to_fall_back(small_mnist):
    missing = small_mnist / "MNIST" / "raw" / GZ[1]
    missing.unlink()
    name, _ = resolve(data_root=small_mnist)
    assert name == "mnist"
    assert GZ[1] in error_of(load, data_root=small_mnist)


@pytest.mark.parametrize(
    ("raised", "reason"),
    [
        (urllib.error.URLError(TimeoutError("timed out")), "could not reach host example.org: timed out"),
        (TimeoutError("timed out"), "could not reach host example.org: timed out"),
        (urllib.error.HTTPError("", 403, "Forbidden", {}, None), "could not reach host example.org: Forbidden"),
    ],
)
def test_why_a_mirror_is_unreachable(raised, reason, monkeypatch):
    def urlopen(request, timeout):
        assert (request.full_url, request.method, timeout) == ("https://example.org/x.gz", "HEAD", 5)
        raise raised

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    assert datasets._unreachable("https://example.org/x.gz") == reason


@pytest.mark.parametrize(
    ("name", "guess"),
    [
        ("minst", ", did you mean mnist? allowed"),
        ("MNIST", ", did you mean mnist? allowed"),
        ("cifar", ", did you mean cifar10? allowed"),
        ("imagenet", ", allowed"),
        ("folder:", ", did you mean folder:PATH? allowed"),
        ("", ", allowed"),
    ],
)
def test_an_unknown_name(name, guess):
    names = "mnist, fashion-mnist, kmnist, emnist-digits, cifar10, digits, folder:PATH"
    for function in (resolve, load, load_test):
        assert error_of(function, name) == f"dataset {name!r} is unknown{guess}: {names}"


def test_a_name_that_is_given_is_kept():
    assert resolve("digits") == ("digits", "digits was asked for")
    assert resolve("folder:a b") == ("folder:a b", "folder:a b was asked for")


# --- folders


def write_images(folder, count, *, mode="L", size=(6, 4), suffix=".png", seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng([seed, *folder.name.encode()])
    for i in range(count):
        shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
        Image.fromarray(generator.integers(0, 256, shape).astype(np.uint8)).save(folder / f"{i:03}{suffix}")


@pytest.fixture
def folder(tmp_path):
    """12 and 24 grey images 6 wide and 4 high in train/, 3 and 2 in test/."""
    for part, label, count in (("train", "a", 12), ("train", "b", 24), ("test", "a", 3), ("test", "b", 2)):
        write_images(tmp_path / part / label, count, seed=len(part))
    return tmp_path


def test_a_folder_with_a_test_folder(folder):
    dataset = load(f"folder:{folder}")
    check(dataset)
    assert dataset.name == f"folder:{folder}"
    assert dataset.classes == ("a", "b")
    assert dataset.input_shape == (1, 4, 6)
    assert dataset.split_id == "val 6 of 36, stratified, seed 0"
    test = load_test(f"folder:{folder}")
    assert test.labels.tolist() == [0, 0, 0, 1, 1]
    assert torch.equal(test.images[3, 0], torch.from_numpy(np.array(Image.open(folder / "test" / "b" / "000.png"))))


def test_a_folder_without_a_test_folder(folder):
    shutil.rmtree(folder / "test")
    dataset, test = load(f"folder:{folder}"), load_test(f"folder:{folder}")
    check(dataset)
    assert [len(split.labels) for split in (dataset.train, dataset.val, test)] == [25, 5, 6]
    assert test.labels.tolist() == [0, 0, 1, 1, 1, 1]
    files = [*sorted((folder / "train" / "a").iterdir()), *sorted((folder / "train" / "b").iterdir())]
    images = torch.stack([torch.from_numpy(np.array(Image.open(file))).unsqueeze(0) for file in files])
    labels = torch.tensor([0] * 12 + [1] * 24)
    assert rows(dataset.train, dataset.val, test) == rows(Split(images=images, labels=labels))


def test_one_image_in_colour_makes_all_of_them_so(folder):
    write_images(folder / "test" / "b", 1, mode="RGB")
    dataset = load(f"folder:{folder}")
    check(dataset)
    assert dataset.input_shape == (3, 4, 6)
    assert torch.equal(dataset.train.images[:, 0], dataset.train.images[:, 2])
    colour = torch.from_numpy(np.array(Image.open(folder / "test" / "b" / "000.png"))).permute(2, 0, 1)
    assert torch.equal(load_test(f"folder:{folder}").images[3], colour)


@pytest.mark.parametrize("mode", ["1", "L", "LA"])
def test_modes_that_are_grey(mode, folder):
    Image.new(mode, (6, 4), 1).save(folder / "train" / "a" / "000.png")
    assert load(f"folder:{folder}").input_shape == (1, 4, 6)


@pytest.mark.parametrize("mode", ["P", "RGBA", "CMYK"])
def test_modes_that_are_colour(mode, folder):
    image = Image.new("RGB", (6, 4), (255, 0, 0)).convert(mode)
    options = {"transparency": bytes([0] * 256)} if mode == "P" else {}
    image.save(folder / "train" / "a" / ("000.tiff" if mode == "CMYK" else "000.png"), **options)
    assert load(f"folder:{folder}").input_shape == (3, 4, 6)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparent_pixels_are_white(mode, folder):
    image = Image.new(mode, (6, 4), 0)
    image.putpixel((0, 0), (0, 255) if mode == "LA" else (0, 0, 0, 255))
    file = folder / "train" / "a" / "000.png"
    image.save(file)
    found = pixels(file, "L")
    assert found[0, 0, 0] == 0
    assert found.flatten()[1:].unique().tolist() == [255]


def test_sixteen_bits_a_channel(folder):
    file = folder / "train" / "b" / "001.png"
    Image.fromarray(np.full((4, 6), 40_000, dtype=np.uint16)).save(file)
    assert error_of(load, f"folder:{folder}") == f"{file}: mode I;16 found, allowed: 8 bits a channel"


def test_a_constant_channel_keeps_a_finite_std(tmp_path):
    for label, value in (("a", 10), ("b", 20)):
        (tmp_path / "train" / label).mkdir(parents=True)
        for i in range(12):
            Image.new("RGB", (4, 4), (value, 7, value)).save(tmp_path / "train" / label / f"{i}.png")
    dataset = load(f"folder:{tmp_path}")
    assert dataset.mean == pytest.approx([15 / 255, 7 / 255, 15 / 255])
    assert dataset.std == pytest.approx([5 / 255, 1, 5 / 255])


@pytest.mark.parametrize("part", ["train", "test"])
def test_an_image_of_another_size(part, folder):
    write_images(folder / part / "b", 1, size=(4, 6))
    first = folder / "train" / "a" / "000.png"
    text = f"{folder / part}/b/000.png: 4x6 pixels found, allowed: 6x4, the size of {first}"
    mended = "PIL.ImageOps.fit gives all one size (docs/guides/own_images.md)"
    assert error_of(load, f"folder:{folder}") == f"{text}; {mended}"


def test_a_damaged_image_is_named(folder):
    file = folder / "train" / "b" / "003.png"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert error_of(load, f"folder:{folder}").startswith(f"{file}: not a readable image (")  # Pillow's words follow
    file.write_bytes(b"hello")
    text = f"{file}: not a readable image (cannot identify image file '{file}')"
    assert error_of(load, f"folder:{folder}") == text


def test_a_folder_of_another_layout(folder):
    text = "{0}: no folder with a folder for each class, allowed: {0}/CLASS/*.png"
    assert error_of(load, f"folder:{folder}/none") == text.format(folder / "none" / "train")
    shutil.rmtree(folder / "train")
    assert error_of(load, f"folder:{folder}") == text.format(folder / "train")
    (folder / "train").mkdir()
    assert error_of(load, f"folder:{folder}") == text.format(folder / "train")


def test_classes_that_cannot_be_told_apart(folder):
    shutil.rmtree(folder / "test" / "a")
    text = f"{folder}/test: only class 'b' found, allowed: at least 2 classes"
    assert error_of(load, f"folder:{folder}") == text
    shutil.rmtree(folder / "train" / "b")
    text = f"{folder}/train: only class 'a' found, allowed: at least 2 classes"
    assert error_of(load, f"folder:{folder}") == text


def test_an_empty_class(folder):
    (folder / "train" / "c").mkdir()
    (folder / "train" / "c" / "notes.txt").touch()
    formats = ".jpg, .jpeg, .png, .ppm, .bmp, .pgm, .tif, .tiff, .webp"
    assert error_of(load, f"folder:{folder}") == f"{folder}/train/c: no images found, allowed: {formats}"


def test_classes_of_test_are_those_of_train(folder):
    write_images(folder / "test" / "c", 1)
    text = f"{folder}/test: class 'c' found, allowed: those of train, a, b"
    assert error_of(load, f"folder:{folder}") == text
    write_images(folder / "train" / "c", 12)
    write_images(folder / "train" / "d", 12)
    text = f"{folder}/test: class 'd' missing, allowed: those of train, a, b, c, d"
    assert error_of(load, f"folder:{folder}") == text


def test_a_class_too_small_to_be_split(folder):
    write_images(folder / "train" / "c", 5)
    write_images(folder / "test" / "c", 1)
    text = f"folder:{folder}, train and val: class 'c' has 5 images to split, allowed: at least 6"
    assert error_of(load, f"folder:{folder}") == text
    shutil.rmtree(folder / "test")
    text = f"{folder}/train: class 'c' has 5 images to split, allowed: at least 6"
    assert error_of(load, f"folder:{folder}") == text


# --- properties of the split


@given(st.lists(st.integers(6, 60), min_size=2, max_size=12), st.sampled_from([5, 6]))
@settings(max_examples=50)
def test_every_class_is_on_both_sides_in_proportion(counts, parts):
    labels = torch.repeat_interleave(torch.tensor(counts))
    names = tuple(map(str, range(len(counts))))
    kept, held_out = datasets._hold_out(labels, names, parts=parts, where="here")
    assert sorted([*kept.tolist(), *held_out.tolist()]) == list(range(len(labels)))
    assert len(held_out) == math.ceil(len(labels) / parts)
    for label, count in enumerate(counts):
        held = int((labels[held_out] == label).sum())
        assert 1 <= held < count
        assert abs(held - count * len(held_out) / len(labels)) < 1


@pytest.mark.parametrize("name", ["a\nb", "it's", '"quoted"', "größe", "猫", "a b", "\u2028"])
def test_names_of_classes_are_free(folder, name):
    shutil.rmtree(folder / "test")
    (folder / "train" / "a").rename(folder / "train" / name)
    assert set(load(f"folder:{folder}").classes) == {"b", name}


@pytest.mark.parametrize(
    ("name", "reason"), [(b"a\rb", "a carriage return in the name"), (b"\xff", "the name is not UTF")]
)
@pytest.mark.parametrize("part", ["train", "test"])
def test_a_name_that_could_not_be_exported_is_refused_at_once(folder, part, name, reason):
    renamed = folder / part / os.fsdecode(name)
    try:
        (folder / part / "a").rename(renamed)
    except OSError:
        pytest.skip("no such name can be on this file system")
    assert error_of(load, f"folder:{folder}").startswith(f"{str(renamed)!r}: {reason}")


def test_a_folder_whose_own_name_could_not_be_exported(folder):
    """It is the name of the dataset, which the report and the card tell."""
    other = folder / os.fsdecode(b"\xff")
    try:
        other.mkdir()
    except OSError:
        pytest.skip("no such name can be on this file system")
    (folder / "train").rename(other / "train")
    assert "the name is not UTF-8" in error_of(load, f"folder:{other}")
