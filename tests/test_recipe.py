"""Recipes: valid and invalid values, defaults and JSON."""

import dataclasses
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.errors import RecipeError
from nas.recipe import RECIPE_FIELDS, Recipe

COUNT = "an integer from 1 to 1e12"
RATE = "a number of at least 0 and below 1"
DEGREES = "a number from 0 to"
# field: expected value in words, valid values, invalid values in addition to NEVER
FIELDS = {
    "epochs": (COUNT, [1, 1000], [0, -1, 1.0, 1.5]),
    "optimizer": ("one of sgd, adam, adamw", ["sgd", "adam", "adamw"], ["SGD", "rmsprop", "", 1]),
    "learning_rate": ("a number above 0", [1e-9, 0.1, 1, 1000], [0, 0.0, -0.1]),
    "momentum": (RATE, [0, 0.0, 0.999], [-0.1, 1, 1.0]),
    "weight_decay": ("a number of at least 0", [0, 10], [-1e-9]),
    "schedule": (
        "one of constant, step, cosine, one_cycle",
        ["constant", "step", "cosine", "one_cycle"],
        ["linear", 0],
    ),
    "warmup": (RATE, [0, 0.999], [-0.1, 1]),
    "step_start": ("an integer from 0 to 1e12", [0, 1000], [-1, 2.0]),
    "step_epochs": (COUNT, [1, 1000], [0, 2.0]),
    "step_gamma": ("a number above 0 and at most 1", [1e-9, 1, 1.0], [0, 1.1]),
    "average_epochs": ("a number of at least 0", [0, 0.5, 100], [-0.1]),
    "batch_size": (COUNT, [1, 4096], [0, 128.0]),
    "label_smoothing": (RATE, [0, 0.999], [-0.1, 1]),
    "rotation": (f"{DEGREES} 180", [0, 180], [-1, 180.5]),
    "translation": (f"{DEGREES} 1", [0, 1], [-0.1, 1.1]),
    "scale": (RATE, [0, 0.999], [-0.1, 1]),
    "shear": (f"{DEGREES} 45", [0, 45], [-1, 46]),
    "brightness": (f"{DEGREES} 1", [0, 1], [-0.1, 1.1]),
    "contrast": (f"{DEGREES} 1", [0, 1], [-0.1, 1.1]),
    "flip": (f"{DEGREES} 1", [0, 0.5, 1], [-0.1, 1.1]),
}
NEVER = [None, True, False, "0.5", [], {}, [0.5], math.nan, math.inf, -math.inf]


def test_fields_table_covers_every_recipe_field():
    assert list(FIELDS) == [field.name for field in dataclasses.fields(Recipe)]
    assert list(RECIPE_FIELDS) == list(FIELDS)


@pytest.mark.parametrize("field", FIELDS)
def test_valid_values_are_accepted(field):
    _, good, _ = FIELDS[field]
    for value in good:
        assert getattr(Recipe(**{field: value}), field) == value


@pytest.mark.parametrize("field", FIELDS)
def test_invalid_value_error_names_value_and_expected(field):
    expected, _, bad = FIELDS[field]
    for value in [*bad, *NEVER]:
        with pytest.raises(RecipeError) as caught:
            Recipe(**{field: value})
        assert str(caught.value) == f"{field} is {value!r}, expected {expected}"
        with pytest.raises(RecipeError) as caught:
            Recipe.from_json({field: value}, where="recipe.json")
        assert str(caught.value) == f"recipe.json: {field} is {value!r}, expected {expected}"


@pytest.mark.parametrize("field", ["learning_rate", "weight_decay", "epochs"])
def test_number_too_large_for_float_is_rejected(field):
    with pytest.raises(RecipeError) as caught:
        Recipe(**{field: 10**400})
    assert str(caught.value) == f"{field} is 100000000000000000...0000000000000000000, expected {FIELDS[field][0]}"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (None, "recipe: None found, expected an object"),
        ([], "recipe: [] found, expected an object"),
        ("sgd", "recipe: 'sgd' found, expected an object"),
        ({"lr": 0.1, "bs": 1}, f"recipe: unknown keys 'bs', 'lr', expected one of {', '.join(FIELDS)}"),
    ],
)
def test_invalid_recipe_error_names_value_or_unknown_keys(data, text):
    with pytest.raises(RecipeError) as caught:
        Recipe.from_json(data)
    assert str(caught.value) == text


def test_deeply_nested_lists_are_shortened_in_errors():
    deep = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(RecipeError) as caught:
        Recipe.from_json(deep)
    assert str(caught.value) == "recipe: [[[[[[[...]]]]]]] found, expected an object"
    with pytest.raises(RecipeError) as caught:
        Recipe(epochs=deep)
    assert str(caught.value) == f"epochs is [[[[[[[...]]]]]]], expected {COUNT}"


def test_default_recipe_has_expected_json():
    assert Recipe().to_json() == {
        "epochs": 15,
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "momentum": 0.9,
        "weight_decay": 0.0,
        "schedule": "one_cycle",
        "warmup": 0.2,
        "step_start": 0,
        "step_epochs": 6,
        "step_gamma": 0.1,
        "average_epochs": 0.0,
        "batch_size": 128,
        "label_smoothing": 0.0,
        "rotation": 0.0,
        "translation": 0.0,
        "scale": 0.0,
        "shear": 0.0,
        "brightness": 0.0,
        "contrast": 0.0,
        "flip": 0.0,
    }
    assert Recipe.from_json({}) == Recipe()
    assert Recipe.from_json({"epochs": 3}) == Recipe(epochs=3)


def test_recipe_is_immutable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Recipe().epochs = 3


NUMBERS = {
    int: st.integers(1, 10**6),
    float: st.floats(0.001, 0.999),
    str: st.nothing(),
}


@given(
    st.fixed_dictionaries(
        {},
        optional={
            name: st.sampled_from(good) | NUMBERS[type(getattr(Recipe(), name))]
            for name, (_, good, _) in FIELDS.items()
        },
    )
)
def test_recipe_round_trips_through_json(fields):
    recipe = Recipe(**fields)
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["sgd", "step"])
ANYTHING = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5)


@given(ANYTHING | st.dictionaries(st.sampled_from(list(FIELDS)), ANYTHING, max_size=3))
def test_arbitrary_json_is_read_or_rejected(data):
    try:
        recipe = Recipe.from_json(data)
    except RecipeError:
        return
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert all(math.isfinite(value) for value in recipe.to_json().values() if not isinstance(value, str))
