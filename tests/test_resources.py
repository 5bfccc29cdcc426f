"""Shipped networks and search spaces are found by name, in a checkout and in an installed package."""

import re

import pytest

from nas import resources as shipped
from nas.architecture.architecture import Architecture
from nas.errors import ArchitectureError, RecipeError
from nas.recipe import Recipe
from nas.space.portfolio import Design
from nas.space.search_space import SearchSpace


def test_published_network_is_loaded_by_name():
    assert Architecture.load("mnist-7825") == Architecture.load(
        shipped.spaces_folder() / "published" / "mnist-7825.json"
    )


@pytest.mark.parametrize("name", shipped.shipped_designs())
def test_design_is_loaded_by_name_and_by_path_with_its_recipe(name):
    path = shipped.shipped_designs()[name]
    design = Design.load(path)
    for given in (name, path, str(path)):
        assert Architecture.load(given) == design.architecture
        assert Recipe.of_network(given) == design.recipe


def test_folder_stands_for_its_architecture_file_and_recipe(tmp_path):
    folder = tmp_path / "export"
    folder.mkdir()
    assert shipped.network_file(folder) == folder / "architecture.json"
    with pytest.raises(ArchitectureError) as caught:
        Architecture.load(folder)
    assert str(caught.value) == f"{folder / 'architecture.json'}: No such file or directory"
    (folder / "architecture.json").write_text(Architecture.load("mnist-3928").dumps())
    for given in (folder, str(folder), folder / "architecture.json"):
        assert Architecture.load(given) == Architecture.load("mnist-3928")
        assert Recipe.of_network(given) is None
    (folder / "recipe.json").write_text('{"epochs": 3}')
    for given in (folder, str(folder), folder / "architecture.json"):
        assert Recipe.of_network(given) == Recipe(epochs=3)


def test_own_recipe_of_design_comes_before_recipe_file_beside_it(tmp_path):
    (tmp_path / "recipe.json").write_text('{"epochs": 3}')
    design = tmp_path / "design.json"
    design.write_text(shipped.shipped_designs()["nas-897"].read_text())
    assert Recipe.of_network(design) == Recipe.of_network("nas-897") == Recipe.load(design)
    assert Recipe.load(design) != Recipe(epochs=3)


def test_invalid_recipe_of_network_error_names_file(tmp_path):
    (tmp_path / "architecture.json").write_text(Architecture.load("mnist-3928").dumps())
    (tmp_path / "recipe.json").write_text('{"epochs": 0}')
    with pytest.raises(RecipeError) as caught:
        Recipe.of_network(tmp_path)
    assert str(caught.value) == f"{tmp_path / 'recipe.json'}: epochs is 0, expected an integer from 1 to 1e12"


@pytest.mark.parametrize(
    "name", ["mnist-3928", shipped.spaces_folder() / "published" / "mnist-7825.json", "nix", "a\0"]
)
def test_network_without_recipe_has_none(name):
    assert Recipe.of_network(name) is None


def test_published_networks_with_name_of_design_equal_it():
    published = {path.stem: path for path in (shipped.spaces_folder() / "published").glob("*.json")}
    for name in published.keys() & shipped.shipped_designs():
        assert Architecture.load(published[name]) == Architecture.load(name)


def test_unknown_network_error_lists_known_networks():
    with pytest.raises(ArchitectureError) as caught:
        Architecture.load("imagenet")
    assert str(caught.value).startswith("network 'imagenet' is unknown, expected one of colour-5868, ")
    assert str(caught.value).endswith(", rgb-residual-6, or a .json file")
    assert {*shipped.shipped_designs(), "mnist-88584"} <= set(re.findall(r"[\w-]+", str(caught.value)))


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


def test_folder_named_like_a_known_network_stands_for_itself_only_with_an_architecture(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known = Architecture.load("nas-3686")
    (tmp_path / "nas-3686").mkdir()
    assert Architecture.load("nas-3686") == known
    other = Architecture.load("mnist-7825")
    (tmp_path / "nas-3686" / "architecture.json").write_text(other.dumps())
    assert Architecture.load("nas-3686") == other
