"""What comes along is found by name, from a checkout and from a wheel alike."""

import pytest

from nas import resources as shipped
from nas.architecture.architecture import Architecture
from nas.errors import ArchitectureError
from nas.space.search_space import SearchSpace


def test_a_published_network_is_found_by_name():
    assert Architecture.load("mnist-7825") == Architecture.load(
        shipped.spaces_folder() / "published" / "mnist-7825.json"
    )


def test_a_name_that_does_not_come_along():
    with pytest.raises(ArchitectureError) as caught:
        Architecture.load("mnist-1")
    assert str(caught.value) == (
        "published network 'mnist-1' is unknown, expected one of mnist-18962, mnist-26756, mnist-3928, mnist-6136,"
        " mnist-7825, mnist-88584, or a .json file"
    )


def test_a_file_without_a_suffix_is_a_file(tmp_path, monkeypatch):
    text = Architecture.load("mnist-7825").dumps()
    (tmp_path / "mine").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert Architecture.load("mine").dumps() == text


def test_an_installed_package_has_them_inside(tmp_path, monkeypatch):
    inside = tmp_path / "nas" / "search_spaces"
    inside.mkdir(parents=True)
    (inside / "mine.toml").write_text("[network]\nnum_blocks = 1\n[block]\nnum_convs = 1\n[conv]\nchannels = [3, 4]\n")
    monkeypatch.setattr(shipped, "__file__", str(tmp_path / "nas" / "resources.py"))
    assert SearchSpace.load("mine").name == "mine"
