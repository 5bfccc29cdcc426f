import math
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.schema import COUNT, RATE, Flag, Interval, Words

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
