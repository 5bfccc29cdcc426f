"""Shipped networks and search spaces are found by name, in a checkout and in an installed package."""

import pytest

from nas import resources as shipped
from nas.architecture.architecture import Architecture
from nas.errors import ArchitectureError
from nas.space.search_space import SearchSpace


def test_published_network_is_loaded_by_name():
    assert Architecture.load("mnist-7825") == Architecture.load(
        shipped.spaces_folder() / "published" / "mnist-7825.json"
    )


def test_unknown_network_error_lists_published_networks():
    with pytest.raises(ArchitectureError) as caught:
        Architecture.load("mnist-1")
    assert str(caught.value) == (
        "published network 'mnist-1' is unknown, expected one of mnist-18962, mnist-26756, mnist-3928, mnist-6136,"
        " mnist-7825, mnist-88584, or a .json file"
    )


def test_network_is_loaded_from_file_without_suffix(tmp_path, monkeypatch):
    text = Architecture.load("mnist-7825").dumps()
    (tmp_path / "mine").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert Architecture.load("mine").dumps() == text


def test_installed_package_loads_spaces_from_its_own_folder(tmp_path, monkeypatch):
    inside = tmp_path / "nas" / "search_spaces"
    inside.mkdir(parents=True)
    (inside / "mine.toml").write_text("[network]\nnum_blocks = 1\n[block]\nnum_convs = 1\n[conv]\nchannels = [3, 4]\n")
    monkeypatch.setattr(shipped, "__file__", str(tmp_path / "nas" / "resources.py"))
    assert SearchSpace.load("mine").name == "mine"
