"""Choice of the dataset, search order of the data roots, and errors for unknown names."""

import urllib.error
import urllib.request
from pathlib import Path

import pytest
from support.data import DATA_ROOT_HINT, GZ, UNRESOLVED, error_of

from nas.data import datasets, downloads
from nas.data.datasets import load, load_test, resolve


def test_default_dataset_is_mnist_where_found(mnist, mnist_root, tmp_path, monkeypatch):
    found = ("mnist", f"MNIST found in {mnist_root}/MNIST/raw")
    assert resolve() == found
    monkeypatch.delenv("NAS_DATA")
    assert resolve(data_root=mnist_root) == found
    assert resolve()[0] == "digits"
    (tmp_path / "nas").mkdir()
    (tmp_path / "nas" / "data").symlink_to(mnist_root)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert resolve() == ("mnist", f"MNIST found in {tmp_path}/nas/data/MNIST/raw")


def test_default_dataset_is_digits_if_mnist_is_unavailable(tmp_path):
    place = tmp_path / "MNIST" / "raw"
    using = "using scikit-learn's digits (1,797 real 8x8 scans, scaled to 28x28)"
    sentence = f"MNIST is neither in {place} nor downloadable here ({UNRESOLVED}): {using}"
    assert resolve(data_root=tmp_path) == ("digits", sentence)
    sentence = f"MNIST is neither in {place} nor downloadable here (downloads are off): {using}"
    assert resolve(data_root=tmp_path, download=False) == ("digits", sentence)
    assert load(data_root=tmp_path).name == "digits"


def test_explicit_mnist_never_falls_back_to_digits(tmp_path):
    files = ", ".join(f"MNIST/raw/{name}" for name in GZ)
    text = f"mnist: not found in {tmp_path}, and {UNRESOLVED}; expected {files}; {DATA_ROOT_HINT}"
    assert error_of(load, "mnist", data_root=tmp_path) == text
    assert error_of(load_test, "mnist", data_root=tmp_path) == text


def test_data_root_follows_search_order(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache, mnist = tmp_path / "nas" / "data", downloads.TORCHVISION_DATASETS["mnist"]
    assert datasets._data_root(None, mnist) == cache
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert datasets._data_root(None, mnist) == Path.home() / ".cache" / "nas" / "data"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("NAS_DATA", "/named")
    assert datasets._data_root(None, mnist) == Path("/named")
    (cache / "MNIST" / "raw").mkdir(parents=True)
    assert datasets._data_root(None, mnist) == cache  # the first root that has MNIST
    assert datasets._data_root("/given", mnist) == Path("/given")  # an explicit root always wins


def test_incomplete_mnist_does_not_fall_back_to_digits(small_mnist):
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
def test_unreachable_mirror_reports_reason(raised, reason, monkeypatch):
    def urlopen(request, timeout):
        assert (request.full_url, request.method, timeout) == ("https://example.org/x.gz", "HEAD", 5)
        raise raised

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    assert downloads.why_unreachable("https://example.org/x.gz") == reason


@pytest.mark.parametrize(
    ("name", "guess"),
    [
        ("minst", " (did you mean mnist?)"),
        ("MNIST", " (did you mean mnist?)"),
        ("cifar", " (did you mean cifar10?)"),
        ("imagenet", ""),
        ("folder:", " (did you mean folder:PATH?)"),
        ("", ""),
    ],
)
def test_unknown_dataset_error_lists_names_and_suggestion(name, guess):
    names = "mnist, fashion-mnist, kmnist, emnist-digits, cifar10, digits, folder:PATH"
    for function in (resolve, load, load_test):
        assert error_of(function, name) == f"`dataset={name!r}`{guess}: expected one of {names}"


def test_explicit_dataset_name_is_kept():
    assert resolve("digits") == ("digits", "named by the user")
    assert resolve("folder:a b") == ("folder:a b", "named by the user")
