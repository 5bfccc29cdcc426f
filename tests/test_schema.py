import math
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.errors import RecipeError
from nas.schema import COUNT, RATE, Flag, ImageShape, Interval, Words, check_keys

# What is allowed, in words, some of what it holds, some of what it does not beside what no number is.
NUMBERS = [
    (COUNT, "a whole number of at least 1 and at most 1e+12", [1, 2, 10**12], [0, -1, 1.0, 1.5, 10**12 + 1]),
    (RATE, "a number of at least 0 and below 1", [0, 0.0, 0.5, 0.999999], [-1e-9, 1, 1.0]),
    (Interval(int, 2, 4), "a whole number of at least 2 and at most 4", [2, 3, 4], [1, 5, 3.0]),
    (Interval(float, 0, 180), "a number of at least 0 and at most 180", [0, 180, 90.5], [-0.5, 180.5]),
    (Interval(float, 0, open_low=True), "a number above 0", [1e-300, 1, sys.float_info.max], [0, 0.0, -1]),
    (Interval(float, 0, 1, open_low=True), "a number above 0 and at most 1", [1e-9, 1], [0, 1.1]),
]
NO_NUMBER = [True, False, None, "1", "", [], [1], {}, math.nan, math.inf, -math.inf, 10**400, -(10**400)]


@pytest.mark.parametrize(("interval", "text", "good", "bad"), NUMBERS)
def test_an_interval_holds_its_numbers_and_says_so(interval, text, good, bad):
    assert str(interval) == text
    assert [value for value in good if not interval.holds(value)] == []
    assert [value for value in [*bad, *NO_NUMBER] if interval.holds(value)] == []


@given(
    kind=st.sampled_from([int, float]),
    ends=st.tuples(st.integers(-50, 50), st.integers(-50, 50)).map(sorted),
    open_low=st.booleans(),
    open_high=st.booleans(),
    value=st.integers(-60, 60) | st.integers(-120, 120).map(lambda half: half / 2),
)
def test_an_interval_is_what_its_ends_say(kind, ends, open_low, open_high, value):
    low, high = ends
    inside = low <= value <= high and not (open_low and value == low) and not (open_high and value == high)
    fits = kind is float or type(value) is int
    assert Interval(kind, low, high, open_low, open_high).holds(value) == (inside and fits)


def test_words():
    words = Words(("same", "valid"))
    assert str(words) == "same, valid"
    assert words.holds("same")
    assert words.holds("valid")
    assert not any(words.holds(other) for other in ["Same", "sam", "", "same, valid", 1, None, True, ["same"], {}])


def test_a_flag():
    assert str(Flag()) == "true, false"
    assert Flag().holds(True)
    assert Flag().holds(False)
    assert not any(Flag().holds(other) for other in [0, 1, 0.0, "true", None, [], [True]])


def test_the_shape_of_an_image():
    assert str(ImageShape()) == "[channels, height, width], each from 1 to 1e+12"
    assert ImageShape().holds([1, 28, 28])
    bad = [[1, 28], [0, 28, 28], [1, 28.0, 28], [True, 28, 28], (1, 28, 28), "1x28", None, {}, [1, 2, 3, 4]]
    assert not any(ImageShape().holds(other) for other in bad)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "here: None, allowed: an object with a, b"),
        ([], "here: [], allowed: an object with a, b"),
        ({}, "here: a, b is missing"),
        ({"b": 1, "z": 2}, "here: a is missing"),
        ({"a": 1, "b": 1, "z": 2, "y": 3}, "here: unknown key y, z, allowed: b, a, c"),
        ({"a": 1, "b": 1, "a\nline": 2}, "here: unknown key 'a\\nline', allowed: b, a, c"),
    ],
)
def test_the_keys_of_an_object(value, text):
    with pytest.raises(RecipeError) as caught:
        check_keys(value, ("b", "a", "c"), "here", RecipeError, required={"a", "b"})
    assert str(caught.value) == text
    with pytest.raises(RecipeError) as caught:
        check_keys(value, ("b", "a", "c"), "", RecipeError, required={"a", "b"})
    assert str(caught.value) == text.removeprefix("here: ")


def test_an_object_with_any_keys():
    value = {"kind": "conv", "anything": 1}
    assert check_keys(value, None, "here", RecipeError, required={"kind"}) is value
    assert check_keys({"a": 1}, ("a", "b"), "here", RecipeError) == {"a": 1}
