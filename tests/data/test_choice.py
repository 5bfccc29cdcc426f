"""Which dataset is taken, where it is looked for, and what an unknown name is answered."""

import urllib.error
import urllib.request
from pathlib import Path

import pytest
from support.data import ELSEWHERE, GZ, UNRESOLVED, error_of

from nas.data import datasets
from nas.data.datasets import load, load_test, resolve


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
    text = f"mnist: not found in {tmp_path}, and {UNRESOLVED}; expected {files}; {ELSEWHERE}"
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
        ("minst", "; did you mean mnist?"),
        ("MNIST", "; did you mean mnist?"),
        ("cifar", "; did you mean cifar10?"),
        ("imagenet", ""),
        ("folder:", "; did you mean folder:PATH?"),
        ("", ""),
    ],
)
def test_an_unknown_name(name, guess):
    names = "mnist, fashion-mnist, kmnist, emnist-digits, cifar10, digits, folder:PATH"
    for function in (resolve, load, load_test):
        assert error_of(function, name) == f"`dataset={name!r}`: expected one of {names}{guess}"


def test_a_name_that_is_given_is_kept():
    assert resolve("digits") == ("digits", "named by the user")
    assert resolve("folder:a b") == ("folder:a b", "named by the user")
