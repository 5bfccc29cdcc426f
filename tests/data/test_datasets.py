"""MNIST and digits: the same examples on every machine, split by the protocol."""

import math
import re
import shutil

import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from support.data import DIGITS_FINGERPRINT, ENDINGS, MNIST_FINGERPRINT, check, rows
from support.effort import examples

from nas.data import datasets
from nas.data.datasets import Dataset, Split, load, load_test, merge_train_and_val


def test_mnist_split_follows_protocol(mnist):
    check(mnist)
    assert mnist.train.images.shape == (50_000, 1, 28, 28)
    assert mnist.val.images.shape == (10_000, 1, 28, 28)
    assert mnist.input_shape == (1, 28, 28)
    assert mnist.classes == tuple("0123456789")
    assert mnist.split_id == "val 10000 of 60000, stratified, seed 0"
    assert mnist.fingerprint == MNIST_FINGERPRINT


def test_mnist_train_and_val_hold_torchvision_train_examples(mnist, mnist_root):
    theirs = torchvision.datasets.MNIST(mnist_root, train=True)
    assert rows(mnist.train, mnist.val) == rows(Split(images=theirs.data.unsqueeze(1), labels=theirs.targets))
    assert len(merge_train_and_val(mnist).labels) == 60_000
    assert rows(merge_train_and_val(mnist)) == rows(mnist.train, mnist.val)


def test_mnist_test_split_matches_torchvision(mnist, mnist_root):
    theirs = torchvision.datasets.MNIST(mnist_root, train=False)
    ours = load_test("mnist", data_root=mnist_root)
    assert torch.equal(ours.images, theirs.data.unsqueeze(1))
    assert torch.equal(ours.labels, theirs.targets)


def test_load_works_without_mnist_test_files(mnist, mnist_root, tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for ending in ENDINGS:
        shutil.copyfile(mnist_root / "MNIST" / "raw" / f"train-{ending}", raw / f"train-{ending}")
    assert load("mnist", data_root=tmp_path, download=False).fingerprint == MNIST_FINGERPRINT


def test_digits_have_three_splits(digits):
    check(digits)
    assert [len(split.labels) for split in (digits.train, digits.val, load_test("digits"))] == [1197, 240, 360]
    assert digits.input_shape == (1, 28, 28)
    assert digits.split_id == "val 240 of 1437, stratified, seed 0"


def test_digits_splits_hold_each_scan_once(digits):
    scans = torch.from_numpy(load_digits().images).unsqueeze(1)
    large = torch.nn.functional.interpolate(scans, size=(28, 28), mode="bilinear", align_corners=False)
    images = (large * 255 / 16).round().to(torch.uint8)
    whole = Split(images=images, labels=torch.from_numpy(load_digits().target))
    assert rows(digits.train, digits.val, load_test("digits")) == rows(whole)
    assert images.max() == 255


def test_digits_fingerprint_is_constant(digits):
    assert digits.fingerprint == load("digits").fingerprint == DIGITS_FINGERPRINT


def test_fingerprint_changes_with_one_pixel_or_label(digits):
    assert datasets.fingerprint(digits.train, digits.val) == digits.fingerprint
    images, labels = digits.val.images.clone(), digits.val.labels.clone()
    images[3, 0, 5, 5] ^= 1
    labels[7] ^= 1
    for val in (Split(images=images, labels=digits.val.labels), Split(images=digits.val.images, labels=labels)):
        assert datasets.fingerprint(digits.train, val) != digits.fingerprint
    assert re.fullmatch("[0-9a-f]{16}", digits.fingerprint)


def test_dataset_has_no_attribute_for_test_split(digits):
    assert {name for name in dir(Dataset) if not name.startswith("_")} == {
        *("name", "train", "val", "classes", "mean", "std", "split_id", "fingerprint"),
        *("input_shape", "num_classes"),
    }


@given(st.lists(st.integers(6, 60), min_size=2, max_size=12), st.sampled_from([5, 6]))
@settings(max_examples=examples(50))
def test_held_out_split_is_stratified(counts, parts):
    labels = torch.repeat_interleave(torch.tensor(counts))
    names = tuple(map(str, range(len(counts))))
    kept, held_out = datasets._stratified_split(labels, names, parts=parts, where="here")
    assert sorted([*kept.tolist(), *held_out.tolist()]) == list(range(len(labels)))
    assert len(held_out) == math.ceil(len(labels) / parts)
    for label, count in enumerate(counts):
        held = int((labels[held_out] == label).sum())
        assert 1 <= held < count
        assert abs(held - count * len(held_out) / len(labels)) < 1
