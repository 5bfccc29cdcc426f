"""Checks of values, keys and counts, and the wording of their errors."""

import math
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.errors import NasError, RecipeError
from nas.schema import (
    COUNT,
    INDEX,
    RATE,
    TEXT,
    Flag,
    ImageShape,
    Interval,
    ListOf,
    ObjectOf,
    OneOf,
    check,
    check_counts,
    check_keys,
    parse_number,
)

# interval, its description, valid values, invalid values in addition to NO_NUMBER
NUMBERS = [
    (COUNT, "an integer from 1 to 1e12", [1, 2, 10**12], [0, -1, 1.0, 1.5, 10**12 + 1]),
    (RATE, "a number of at least 0 and below 1", [0, 0.0, 0.5, 0.999999], [-1e-9, 1, 1.0]),
    (Interval(int, 2, 4), "an integer from 2 to 4", [2, 3, 4], [1, 5, 3.0]),
    (Interval(float, 0, 180), "a number from 0 to 180", [0, 180, 90.5], [-0.5, 180.5]),
    (Interval(float, 0, open_low=True), "a number above 0", [1e-300, 1, sys.float_info.max], [0, 0.0, -1]),
    (Interval(float, 0, 1, open_low=True), "a number above 0 and at most 1", [1e-9, 1], [0, 1.1]),
]
NO_NUMBER = [True, False, None, "1", "", [], [1], {}, math.nan, math.inf, -math.inf, 10**400, -(10**400)]


@pytest.mark.parametrize(("interval", "text", "good", "bad"), NUMBERS)
def test_interval_accepts_only_its_numbers_and_describes_them(interval, text, good, bad):
    assert str(interval) == text
    assert [value for value in good if not interval.accepts(value)] == []
    assert [value for value in [*bad, *NO_NUMBER] if interval.accepts(value)] == []


@given(
    kind=st.sampled_from([int, float]),
    ends=st.tuples(st.integers(-50, 50), st.integers(-50, 50)).map(sorted),
    open_low=st.booleans(),
    open_high=st.booleans(),
    value=st.integers(-60, 60) | st.integers(-120, 120).map(lambda half: half / 2),
)
def test_interval_respects_open_and_closed_ends(kind, ends, open_low, open_high, value):
    low, high = ends
    inside = low <= value <= high and not (open_low and value == low) and not (open_high and value == high)
    fits = kind is float or type(value) is int
    assert Interval(kind, low, high, open_low, open_high).accepts(value) == (inside and fits)


def test_words_accept_only_listed_strings():
    words = OneOf(("same", "valid"))
    assert str(words) == "same or valid"
    assert words.accepts("same")
    assert words.accepts("valid")
    assert not any(words.accepts(other) for other in ["Same", "sam", "", "same, valid", 1, None, True, ["same"], {}])


def test_flag_accepts_only_booleans():
    assert str(Flag()) == "true or false"
    assert Flag().accepts(True)
    assert Flag().accepts(False)
    assert not any(Flag().accepts(other) for other in [0, 1, 0.0, "true", None, [], [True]])


def test_image_shape_accepts_only_lists_of_three_counts():
    assert str(ImageShape()) == "[channels, height, width], each an integer from 1 to 1e12"
    assert ImageShape().accepts([1, 28, 28])
    bad = [[1, 28], [0, 28, 28], [1, 28.0, 28], [True, 28, 28], (1, 28, 28), "1x28", None, {}, [1, 2, 3, 4]]
    assert not any(ImageShape().accepts(other) for other in bad)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "here: None found, expected an object with a, b"),
        ([], "here: [] found, expected an object with a, b"),
        ({}, "here: a, b are missing"),
        ({"b": 1}, "here: a is missing"),
        ({"b": 1, "z": 2}, "here: unknown key 'z', expected one of b, a, c; a is missing"),
        ({"a": 1, "b": 1, "z": 2, "y": 3}, "here: unknown keys 'y', 'z', expected one of b, a, c"),
        ({"a": 1, "b": 1, "a\nline": 2}, "here: unknown key 'a\\nline', expected one of b, a, c"),
    ],
)
def test_invalid_keys_error_names_missing_or_unknown_keys(value, text):
    with pytest.raises(RecipeError) as caught:
        check_keys(value, ("b", "a", "c"), "here", RecipeError, required={"a", "b"})
    assert str(caught.value) == text
    with pytest.raises(RecipeError) as caught:
        check_keys(value, ("b", "a", "c"), "", RecipeError, required={"a", "b"})
    assert str(caught.value) == text.removeprefix("here: ")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (
            {"chanels": 4, "num_convs": 1},
            "unknown key 'chanels' (did you mean channels?), expected channels or num_convs; channels is missing",
        ),
        (
            {"Channels": 4, "zz": 1},
            "unknown keys 'Channels' (did you mean channels?), 'zz', expected channels or num_convs;"
            " channels, num_convs are missing",
        ),
        ({3: 4, "channels": 4, "num_convs": 1}, "unknown key 3, expected channels or num_convs"),
    ],
)
def test_misspelt_key_is_reported_before_missing_one_with_closest_name(value, text):
    with pytest.raises(RecipeError) as caught:
        check_keys(value, ("channels", "num_convs"), "", RecipeError, required={"channels", "num_convs"})
    assert str(caught.value) == text


def test_check_keys_returns_valid_object():
    value = {"kind": "conv", "anything": 1}
    assert check_keys(value, None, "here", RecipeError, required={"kind"}) is value
    assert check_keys({"a": 1}, ("a", "b"), "here", RecipeError) == {"a": 1}


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        (ListOf(COUNT), "a list"),
        (ListOf(COUNT, 1), "a list of at least 1 item"),
        (ListOf(COUNT, 2), "a list of at least 2 items"),
        (ListOf(COUNT, 1, 1), "a list of 1 item"),
        (ListOf(COUNT, 1, 3), "a list of 1 to 3 items"),
        (OneOf(("only",)), "only"),
        (OneOf(("a", "b", "c")), "one of a, b, c"),
        (TEXT, "a string"),
        (INDEX, "an integer from 0 to 1e12"),
        (Interval(float, 0, 1), "a number from 0 to 1"),
        (Interval(float, 0, 1, open_low=True, open_high=True), "a number above 0 and below 1"),
    ],
    ids=str,
)
def test_expected_values_are_described_in_english(expected, text):
    assert str(expected) == text


@pytest.mark.parametrize(
    ("value", "expected", "text"),
    [
        ({"": 5}, ObjectOf({}, others=TEXT), "here: '' is 5, expected a string"),
        ({"": 5}, ObjectOf({"a": TEXT}, closed=True), "here: unknown key '', expected a"),
        ({"": 5}, ObjectOf({}, closed=True), "here: unknown key '', expected none"),
        (
            {"a": {"": []}},
            ObjectOf({"a": ObjectOf({}, others=ListOf(TEXT, 1))}),
            "here: a: '' is [], expected a list of at",
        ),
        ({"a": [1, ""]}, ObjectOf({"a": ListOf(COUNT)}), "here: a[1] is '', expected an integer from 1 to 1e12"),
        (
            {"a": [{"b": 0}]},
            ObjectOf({"a": ListOf(ObjectOf({"b": COUNT}))}),
            "here: a[0]: b is 0, expected an integer from 1",
        ),
        ({"a": [3]}, ObjectOf({"a": ListOf(ObjectOf({}))}), "here: a[0]: 3 found, expected an object"),
    ],
)
def test_error_path_inside_value_is_never_empty(value, expected, text):
    with pytest.raises(RecipeError) as caught:
        check(value, expected, "here", RecipeError)
    assert str(caught.value).startswith(text)


def test_invalid_count_error_names_argument():
    check_counts(trials=(1, 1), workers=(None, 1))
    for value in (0, -1, True, 1.0, "3"):
        with pytest.raises(NasError) as caught:
            check_counts(seeds=(5, 2), trials=(value, 1))
        assert str(caught.value) == f"`trials={value!r}`: expected an integer of at least 1"
    with pytest.raises(RecipeError):
        check_counts(RecipeError, trials=(0, 1))


@pytest.mark.parametrize(
    ("text", "number"),
    [("8000", 8000), ("8k", 8000), ("2.3K", 2300), ("1.5M", 1_500_000), (" 1e3 ", 1000), ("-1", -1), ("0.994", 0.994)],
)
def test_parse_number_reads_suffixes_exactly(text, number):
    assert parse_number(text) == number
    assert type(parse_number(text)) is type(number)


@pytest.mark.parametrize("text", ["", "k", "8kk", "8 000", "many", "8g", "1e3k", "\u00b2"])
def test_parse_number_rejects_other_text(text):
    with pytest.raises(ValueError, match="could not convert"):
        parse_number(text)
