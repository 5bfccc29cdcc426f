"""Dominance and the front, held to their definitions."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.pareto import dominates, front

# Few values, so that equal numbers and equal points are common.
numbers = st.integers(-2, 2).map(float) | st.sampled_from([-math.inf, math.inf, 0.5, 1e-300])


def points(size):
    return st.tuples(*[numbers] * size)


several = st.integers(1, 4).flatmap(lambda size: st.lists(points(size), max_size=12))
pairs = st.integers(1, 4).flatmap(lambda size: st.tuples(points(size), points(size)))
triples = st.integers(1, 4).flatmap(lambda size: st.tuples(*[points(size)] * 3))


def beats(a, b):
    """The definition, by numpy."""
    a, b = np.array(a), np.array(b)
    return bool(np.all(a >= b) and np.any(a > b))


def named(found):
    """Each point with an item of its own: the place it stands at."""
    return list(enumerate(found))


@given(pairs)
def test_one_dominates_as_the_definition_says(pair):
    a, b = pair
    assert dominates(a, b) is beats(a, b)
    assert not (dominates(a, b) and dominates(b, a))


@given(pairs)
def test_nothing_dominates_itself(pair):
    assert not dominates(pair[0], pair[0])


@given(triples)
def test_dominance_is_transitive(triple):
    a, b, c = triple
    if dominates(a, b) and dominates(b, c):
        assert dominates(a, c)


@given(pairs, st.sampled_from([lambda x: 3 * x, lambda x: x + 5, math.atan]))
def test_only_the_order_of_the_numbers_counts(pair, grow):
    small = [tuple(max(-9.0, min(9.0, x)) for x in point) for point in pair]
    ranks = sorted({x for point in small for x in point})
    by_rank = [tuple(float(grow(ranks.index(x))) for x in point) for point in small]
    assert dominates(*small) == dominates(*by_rank)


def test_points_of_unlike_length_are_a_mistake():
    with pytest.raises(ValueError, match="argument 2"):
        dominates((1, 2), (1, 2, 3))


@given(several)
def test_the_front_is_what_nothing_dominates_in_its_order(found):
    wanted = [place for place, point in named(found) if not any(beats(other, point) for other in found)]
    assert front(named(found)) == wanted


@given(several)
def test_whatever_is_off_the_front_is_dominated_by_something_on_it(found):
    on = front(named(found))
    assert bool(on) == bool(found)
    for place, point in named(found):
        assert (place in on) != any(dominates(found[best], point) for best in on)


@given(several, st.data())
def test_doubles_all_stay_or_all_go(found, data):
    doubled = found + (data.draw(st.lists(st.sampled_from(found), max_size=4)) if found else [])
    on = set(front(named(doubled)))
    for place, point in named(doubled):
        assert {other for other, same in named(doubled) if same == point} <= on or place not in on
    assert {doubled[place] for place in on} == {found[place] for place in front(named(found))}


@given(several, st.randoms(use_true_random=False))
def test_the_front_does_not_hang_on_the_order_of_the_items(found, random):
    shuffled = named(found)
    random.shuffle(shuffled)
    chosen = front(shuffled)
    assert sorted(chosen) == front(named(found))
    assert chosen == [place for place, _ in shuffled if place in chosen]


@given(several)
def test_the_front_of_the_front_is_itself(found):
    on = front(named(found))
    assert front((place, found[place]) for place in on) == on


@given(st.lists(points(1), min_size=1, max_size=12))
def test_of_one_number_the_front_is_every_largest(found):
    assert front(named(found)) == [place for place, point in named(found) if point == max(found)]


@given(st.lists(points(2), max_size=12))
def test_of_two_numbers_the_front_is_a_staircase(found):
    on = sorted({found[place] for place in front(named(found))})
    assert all(left[0] < right[0] and left[1] > right[1] for left, right in pairwise(on))


def test_nothing_has_an_empty_front():
    assert front([]) == []


def test_items_need_not_be_comparable_and_come_from_any_iterable():
    items = [object() for _ in range(3)]
    rising = zip(items, [(1.0, 1.0), (2.0, 2.0), (2.0, 2.0)], strict=True)
    assert front(iter(rising)) == items[1:]


@pytest.mark.parametrize(("a", "b"), [((1.0, 2.0), (1.0,)), ((0.0,), (1.0, 2.0)), ((), (1.0,))])
def test_points_of_different_lengths_are_refused(a, b):
    with pytest.raises(ValueError, match="argument 2 is"):
        dominates(a, b)
