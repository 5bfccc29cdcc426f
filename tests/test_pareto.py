"""Dominance and the Pareto front, checked against their definitions."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.pareto import dominates, pareto_front

# Few values, so that equal numbers and points are common.
numbers = st.integers(-2, 2).map(float) | st.sampled_from([-math.inf, math.inf, 0.5, 1e-300])


def points(size):
    return st.tuples(*[numbers] * size)


several = st.integers(1, 4).flatmap(lambda size: st.lists(points(size), max_size=12))
pairs = st.integers(1, 4).flatmap(lambda size: st.tuples(points(size), points(size)))
triples = st.integers(1, 4).flatmap(lambda size: st.tuples(*[points(size)] * 3))


def beats(a, b):
    """Returns whether `a` dominates `b`, by definition."""
    a, b = np.array(a), np.array(b)
    return bool(np.all(a >= b) and np.any(a > b))


def named(found):
    """Pairs each point with its index, which serves as its item."""
    return list(enumerate(found))


@given(pairs)
def test_dominates_matches_definition_and_is_asymmetric(pair):
    a, b = pair
    assert dominates(a, b) is beats(a, b)
    assert not (dominates(a, b) and dominates(b, a))


@given(pairs)
def test_no_point_dominates_itself(pair):
    assert not dominates(pair[0], pair[0])


@given(triples)
def test_dominance_is_transitive(triple):
    a, b, c = triple
    if dominates(a, b) and dominates(b, c):
        assert dominates(a, c)


@given(pairs, st.sampled_from([lambda x: 3 * x, lambda x: x + 5, math.atan]))
def test_dominance_depends_only_on_order_of_numbers(pair, grow):
    small = [tuple(max(-9.0, min(9.0, x)) for x in point) for point in pair]
    ranks = sorted({x for point in small for x in point})
    by_rank = [tuple(float(grow(ranks.index(x))) for x in point) for point in small]
    assert dominates(*small) == dominates(*by_rank)


@given(several)
def test_front_contains_undominated_points_in_input_order(found):
    wanted = [place for place, point in named(found) if not any(beats(other, point) for other in found)]
    assert pareto_front(named(found)) == wanted


@given(several)
def test_front_dominates_exactly_points_off_front(found):
    on = pareto_front(named(found))
    assert bool(on) == bool(found)
    for place, point in named(found):
        assert (place in on) != any(dominates(found[best], point) for best in on)


@given(several, st.data())
def test_equal_points_are_all_on_front_or_all_off(found, data):
    doubled = found + (data.draw(st.lists(st.sampled_from(found), max_size=4)) if found else [])
    on = set(pareto_front(named(doubled)))
    for place, point in named(doubled):
        assert {other for other, same in named(doubled) if same == point} <= on or place not in on
    assert {doubled[place] for place in on} == {found[place] for place in pareto_front(named(found))}


@given(several, st.randoms(use_true_random=False))
def test_front_is_independent_of_input_order(found, random):
    shuffled = named(found)
    random.shuffle(shuffled)
    chosen = pareto_front(shuffled)
    assert sorted(chosen) == pareto_front(named(found))
    assert chosen == [place for place, _ in shuffled if place in chosen]


@given(several)
def test_front_is_idempotent(found):
    on = pareto_front(named(found))
    assert pareto_front((place, found[place]) for place in on) == on


@given(st.lists(points(1), min_size=1, max_size=12))
def test_front_of_single_numbers_is_every_maximum(found):
    assert pareto_front(named(found)) == [place for place, point in named(found) if point == max(found)]


@given(st.lists(points(2), max_size=12))
def test_front_of_pairs_is_staircase(found):
    on = sorted({found[place] for place in pareto_front(named(found))})
    assert all(left[0] < right[0] and left[1] > right[1] for left, right in pairwise(on))


def test_empty_input_has_empty_front():
    assert pareto_front([]) == []


def test_front_accepts_iterator_of_incomparable_items():
    items = [object() for _ in range(3)]
    rising = zip(items, [(1.0, 1.0), (2.0, 2.0), (2.0, 2.0)], strict=True)
    assert pareto_front(iter(rising)) == items[1:]


@pytest.mark.parametrize(("a", "b"), [((1.0, 2.0), (1.0,)), ((0.0,), (1.0, 2.0)), ((), (1.0,))])
def test_points_of_different_lengths_raise_value_error(a, b):
    with pytest.raises(ValueError, match="argument 2 is"):
        dominates(a, b)
