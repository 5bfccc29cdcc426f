import math
from collections import Counter
from decimal import Decimal
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FixedTrial
from support.effort import examples

from nas.errors import SearchSpaceError
from nas.schema import COUNT, RATE, Flag, Interval, OneOf
from nas.space.domains import Choice, FloatRange, IntRange, parse_domain

NUMBER = Interval(float, 0)
FLAG = Flag()
WORDS = OneOf(("full", "separable"))


@st.composite
def int_ranges(draw):
    low, step, num_steps = draw(st.integers(1, 50)), draw(st.integers(1, 9)), draw(st.integers(1, 40))
    if draw(st.booleans()):
        return {"low": low, "high": low + num_steps, "log": True}
    return {"low": low, "high": low + step * num_steps, "step": step}


@st.composite
def float_ranges(draw):
    kind = draw(st.sampled_from(["plain", "log", "step"]))
    if kind == "step":  # decimal, as users write them
        step = Decimal(draw(st.integers(1, 400))).scaleb(-draw(st.integers(0, 6)))
        low = step * draw(st.integers(0, 20))
        return {"low": float(low), "high": float(low + step * draw(st.integers(1, 60))), "step": float(step)}
    low, high = sorted(draw(st.lists(st.floats(1e-9, 1e3), min_size=2, max_size=2, unique=True)))
    return {"low": low, "high": high, "log": kind == "log"}


@st.composite
def domains(draw):
    data, allowed = draw(
        st.tuples(int_ranges(), st.just(COUNT))
        | st.tuples(float_ranges(), st.just(NUMBER))
        | st.tuples(st.lists(st.integers(1, 99), min_size=2, max_size=9, unique=True), st.just(COUNT))
        | st.tuples(st.just([False, True]), st.just(FLAG))
        | st.tuples(st.just(["separable", "full"]), st.just(WORDS))
    )
    return parse_domain(data, allowed, "here")


@pytest.mark.parametrize(
    ("data", "allowed", "expected"),
    [
        (3, COUNT, 3),
        (0, RATE, 0.0),
        ("full", WORDS, "full"),
        (False, FLAG, False),
        ([3], COUNT, 3),
        ([3, 5], COUNT, Choice((3, 5))),
        ([0, 0.5], RATE, Choice((0.0, 0.5))),
        ([False, True], FLAG, Choice((False, True))),
        ({"low": 2, "high": 4}, COUNT, IntRange(2, 4)),
        ({"low": 8, "high": 64, "step": 8}, COUNT, IntRange(8, 64, 8)),
        ({"low": 8, "high": 64, "log": True}, COUNT, IntRange(8, 64, 1, True)),
        ({"low": 4, "high": 4}, COUNT, 4),
        ({"low": 0, "high": 0.3, "step": 0.1}, RATE, FloatRange(0.0, 0.3, 0.1)),
        ({"low": 0, "high": 2, "step": 1}, NUMBER, FloatRange(0.0, 2.0, 1.0)),
        ({"low": 1e-6, "high": 1, "log": True}, NUMBER, FloatRange(1e-6, 1.0, None, True)),
        ({"low": 1, "high": 2, "log": False}, NUMBER, FloatRange(1.0, 2.0)),
        ({"low": 1, "high": 1.0}, NUMBER, 1.0),
    ],
)
def test_read_returns_value_choice_or_range(data, allowed, expected):
    found = parse_domain(data, allowed, "here")
    assert found == expected
    assert type(found) is type(expected)
    assert repr(found) == repr(expected)  # 0 == 0.0, but Optuna distinguishes them


AT_LEAST_1, RATES, LOW_HIGH = (
    "an integer from 1 to 1e12",
    "a number of at least 0 and below 1",
    "low, high, step, log",
)


@pytest.mark.parametrize(
    ("data", "expected", "error"),
    [
        (0, COUNT, f" is 0, expected {AT_LEAST_1}"),
        (-3, COUNT, f" is -3, expected {AT_LEAST_1}"),
        (True, COUNT, f" is True, expected {AT_LEAST_1}"),
        (3.0, COUNT, f" is 3.0, expected {AT_LEAST_1}"),
        ("3", COUNT, f" is '3', expected {AT_LEAST_1}"),
        (1.0, RATE, f" is 1.0, expected {RATES}"),
        (math.nan, RATE, f" is nan, expected {RATES}"),
        (math.inf, NUMBER, " is inf, expected a number of at least 0"),
        (10**400, NUMBER, " is 100000000000000000...0000000000000000000, expected a number of at least 0"),
        (1, FLAG, " is 1, expected true or false"),
        ("half", WORDS, " is 'half', expected full or separable"),
        ([], COUNT, f" is [], expected at least one item, each {AT_LEAST_1}"),
        ([], WORDS, " is [], expected at least one item, each full or separable"),
        ([3, 0], COUNT, f" is 0, expected {AT_LEAST_1}"),
        ([1, True], COUNT, f" is True, expected {AT_LEAST_1}"),
        ([[3, 5]], COUNT, f" is [3, 5], expected {AT_LEAST_1}"),
        ([{"low": 1, "high": 2}], COUNT, f" is {{'high': 2, 'low': 1}}, expected {AT_LEAST_1}"),
        ([3, 5, 3], COUNT, " is [3, 5, 3], expected each value once"),
        ([0, 0.0], RATE, " is [0, 0.0], expected each value once"),
        (["full", "full"], WORDS, " is ['full', 'full'], expected each value once"),
        ({"low": 1, "high": 2}, WORDS, ": a range found, expected a value or a list of values, each full or separable"),
        ({}, FLAG, ": a range found, expected a value or a list of values, each true or false"),
        ({}, COUNT, ": high, low are missing"),
        ({"high": 8}, COUNT, ": low is missing"),
        ({"low": 8}, COUNT, ": high is missing"),
        (
            {"low": 1, "high": 2, "stride": 1, "base": 2},
            COUNT,
            f": unknown keys 'base', 'stride', expected one of {LOW_HIGH}",
        ),
        ({"low": 32, "high": 8}, COUNT, ": low (32) is above high (8)"),
        ({"low": 0.5, "high": 0.25}, RATE, ": low (0.5) is above high (0.25)"),
        ({"low": 0, "high": 8}, COUNT, f": low is 0, expected {AT_LEAST_1}"),
        ({"low": 1, "high": 8.0}, COUNT, f": high is 8.0, expected {AT_LEAST_1}"),
        ({"low": False, "high": 8}, COUNT, f": low is False, expected {AT_LEAST_1}"),
        ({"low": 0, "high": 1}, RATE, f": high is 1, expected {RATES}"),
        ({"low": [1], "high": 8}, COUNT, f": low is [1], expected {AT_LEAST_1}"),
        ({"low": 1, "high": 8, "step": 0}, COUNT, f": step is 0, expected {AT_LEAST_1}"),
        ({"low": 1, "high": 8, "step": 0.5}, COUNT, f": step is 0.5, expected {AT_LEAST_1}"),
        ({"low": 8, "high": 8, "step": -1}, COUNT, f": step is -1, expected {AT_LEAST_1}"),
        ({"low": 0, "high": 0.5, "step": 0}, RATE, ": step is 0, expected a number above 0"),
        ({"low": 0, "high": 0.5, "step": "a"}, RATE, ": step is 'a', expected a number above 0"),
        ({"low": 1, "high": 8, "step": 2}, COUNT, ": high is 8, expected low (1) plus a multiple of step (2)"),
        ({"low": 0, "high": 0.5, "step": 0.2}, RATE, ": high is 0.5, expected low (0.0) plus a multiple of step (0.2)"),
        (
            {"low": 0, "high": 5e-324, "step": 0.5},
            RATE,
            ": high is 5e-324, expected low (0.0) plus a multiple of step (0.5)",
        ),
        (
            {"low": 0, "high": 0.5, "step": 5e-324},
            RATE,
            ": step is 5e-324, expected at most 1e12 steps from 0.0 to 0.5",
        ),
        ({"low": 0, "high": 0.5, "step": 2}, RATE, ": high is 0.5, expected low (0.0) plus a multiple of step (2)"),
        (
            {"low": 1, "high": 8, "step": 1, "log": True},
            COUNT,
            ": step and log = true found, expected only one of them",
        ),
        ({"low": 1, "high": 8, "log": 1}, COUNT, ": log is 1, expected true or false"),
        ({"low": 0, "high": 0.5, "log": True}, RATE, ": low is 0.0 with log = true, expected a number above 0"),
    ],
)
def test_read_error_names_key_value_and_expected(data, expected, error):
    with pytest.raises(SearchSpaceError) as caught:
        parse_domain(data, expected, "space.toml: table.key")
    assert str(caught.value) == f"space.toml: table.key{error}"


@pytest.mark.parametrize(
    ("domain", "distribution"),
    [
        (Choice((3, 5)), CategoricalDistribution((3, 5))),
        (IntRange(8, 64, 8), IntDistribution(8, 64, step=8)),
        (IntRange(8, 64, log=True), IntDistribution(8, 64, log=True)),
        (FloatRange(0.0, 0.2, 0.05), FloatDistribution(0.0, 0.2, step=0.05)),
        (FloatRange(0.02, 0.5, log=True), FloatDistribution(0.02, 0.5, log=True)),
        (FloatRange(0.0, 0.5), FloatDistribution(0.0, 0.5)),
    ],
)
def test_distribution_equals_optuna_distribution(domain, distribution):
    assert domain.distribution() == distribution


@given(domains(), st.randoms(use_true_random=False))
def test_draws_belong_to_domain_and_optuna_distribution(domain, rng):
    distribution = domain.distribution()
    for _ in range(20):
        value = domain.draw(rng)
        assert domain.accepts(value)
        assert distribution._contains(distribution.to_internal_repr(value))
        assert domain.suggest(FixedTrial({"x": value}), "x") == value
        assert type(value) in (bool, int, float, str)  # no NumPy scalar


@given(domains())
def test_draws_cover_whole_domain(domain):
    rng = Random(0)
    if isinstance(domain, FloatRange) and domain.step is None:
        drawn = [domain.draw(rng) for _ in range(400)]
        position = math.log if domain.log else float  # the range is divided into tenths
        low, high = position(domain.low), position(domain.high)
        assert {min(int(10 * (position(x) - low) / (high - low)), 9) for x in drawn} == set(range(10))
        return
    if isinstance(domain, FloatRange):
        every = {float(Decimal(str(domain.low)) + i * Decimal(str(domain.step))) for i in range(61)}
        every = {value for value in every if value <= domain.high}
    elif isinstance(domain, IntRange):
        every = set(range(domain.low, domain.high + 1, domain.step))
    else:
        every = set(domain.values)
    assert {domain.draw(rng) for _ in range(80 * len(every))} == every


def test_draws_are_uniform():
    counts = Counter(IntRange(1, 10).draw(Random(seed)) for seed in range(5_000))
    assert sorted(counts) == list(range(1, 11))
    assert all(abs(count - 500) < 5 * math.sqrt(500) for count in counts.values())
    counts = Counter(Choice(("a", "b", "c", "d")).draw(Random(seed)) for seed in range(5_000))
    assert all(abs(count - 1250) < 5 * math.sqrt(1250) for count in counts.values())


@pytest.mark.parametrize("domain", [FloatRange(1e-4, 1.0, log=True), IntRange(1, 10_000, log=True)])
def test_log_draws_are_uniform_over_decades(domain):
    rng = Random(0)
    drawn = [domain.draw(rng) / domain.low for _ in range(4_000)]
    counts = Counter(min(int(math.log10(value)), 3) for value in drawn)
    # Integers are rounded, so the first decade extends half a unit below its low end.
    expected = 1_000 if isinstance(domain, FloatRange) else 4_000 * math.log(19) / math.log(20_001)
    assert counts[0] == pytest.approx(expected, rel=0.12)
    assert counts[1] == pytest.approx(counts[2], rel=0.15)
    assert sorted(counts) == [0, 1, 2, 3]


@given(domains())
def test_grid_holds_both_ends_and_unique_domain_values(domain):
    grid = domain.grid()
    assert all(domain.accepts(value) for value in grid)
    assert len(set(grid)) == len(grid)
    if not isinstance(domain, Choice):
        assert (grid[0], grid[-1]) == (domain.low, domain.high)


def test_grid_thins_wide_ranges():
    assert Choice((5, 3)).grid() == (5, 3)
    assert IntRange(8, 64, 8).grid() == (8, 16, 24, 32, 40, 48, 56, 64)
    assert IntRange(1, 100).grid() == tuple(range(1, 101))
    assert IntRange(1, 401).grid() == (*range(1, 401, 5), 401)
    assert len(IntRange(1, 10**15).grid()) == 101
    assert FloatRange(0.0, 0.5).grid() == (0.0, 0.5)


@pytest.mark.parametrize(
    ("domain", "value", "short"),
    [
        (FloatRange(0.0, 0.2, 0.05), 0.15000000000000002, 0.15),  # as TPE returns it
        (FloatRange(0.0, 1e-12, 1e-13), 3.0000000000000003e-13, 3e-13),
        (FloatRange(0.0, 1.0, 0.0125), 0.1125, 0.1125),
        (FloatRange(0.001, 0.5, log=True), 0.0123456, 0.0123),
        (FloatRange(0.0, 0.9995), 0.99949, 0.999),
        (FloatRange(0.9996, 0.9999), 0.99964, 0.9999),  # 1.0 would be above high
        (FloatRange(0.12345, 0.5), 0.12345, 0.12345),
    ],
)
def test_short_rounds_to_step_or_significant_digits(domain, value, short):
    assert domain.rounded_value(value) == short


@given(float_ranges().map(lambda data: parse_domain(data, NUMBER, "here")), st.randoms(use_true_random=False))
def test_short_value_stays_in_domain_and_close(domain, rng):
    value = domain.draw(rng)
    short = domain.rounded_value(value)
    assert domain.accepts(short)
    assert short == domain.rounded_value(short)
    assert short == pytest.approx(value, rel=0.005)


@pytest.mark.parametrize(
    ("domain", "held", "not_held"),
    [
        (Choice((1, 3)), [1, 3], [2, 1.0, True, "1", None]),
        (Choice((False, True)), [False, True], [0, 1]),
        (Choice((0.0, 0.5)), [0.0, 0.5], [0, False, 0.25]),
        (IntRange(8, 24, 8), [8, 16, 24], [0, 9, 32, 8.0, "8", True]),
        (IntRange(1, 10, 3), [1, 4, 7, 10], [-2, 0, 2, 5, 9, 13]),
        (FloatRange(0.0, 0.5), [0, 0.0, 0.3, 0.5], [-0.1, 0.6, False, "0.3", math.nan]),
    ],
)
def test_holds_accepts_only_domain_values(domain, held, not_held):
    assert all(domain.accepts(value) for value in held)
    assert not any(domain.accepts(value) for value in not_held)


@pytest.mark.parametrize(
    ("domain", "value", "nearest"),
    [
        (Choice((64, 128, 256)), 128, 128),
        (Choice((64, 128, 256)), 100, 128),
        (Choice(("sgd", "adam")), "adam", "adam"),
        (Choice(("sgd", "adam")), "lion", "sgd"),
        (Choice((False, True)), True, True),
        (IntRange(4, 16, 4), 9, 8),
        (IntRange(4, 16, 4), 99, 16),
        (IntRange(4, 16, 4), 1, 4),
        (FloatRange(0.0, 0.2, 0.05), 0.13, 0.15),
        (FloatRange(0.0, 0.2, 0.05), 1.0, 0.2),
        (FloatRange(0.02, 0.5, log=True), 0.1, 0.1),
        (FloatRange(0.02, 0.5, log=True), 0.0, 0.02),
    ],
    ids=str,
)
def test_nearest_returns_closest_domain_value(domain, value, nearest):
    found = domain.nearest(value)
    assert (found, type(found)) == (nearest, type(nearest))
    assert domain.accepts(found)


@given(domains(), st.integers(0, 2**32))
@settings(max_examples=examples(200))
def test_step_leads_to_different_domain_value(domain, seed):
    if not isinstance(domain, Choice | IntRange | FloatRange):
        return
    rng = Random(seed)
    value = domain.draw(rng)
    for _ in range(5):
        stepped = domain.random_neighbour(value, rng)
        assert domain.accepts(stepped)
        assert stepped != value
        value = stepped


def test_steps_are_small():
    rng = Random(0)
    assert {IntRange(1, 100).random_neighbour(10, rng) for _ in range(100)} == {8, 9, 11, 12}
    assert {IntRange(1, 3).random_neighbour(3, rng) for _ in range(20)} == {2}
    assert {IntRange(8, 800, 8).random_neighbour(80, rng) for _ in range(100)} == {64, 72, 88, 96}
    assert {FloatRange(0.0, 1.0, 0.25).random_neighbour(0.5, rng) for _ in range(100)} == {0.25, 0.75}
    factors = [FloatRange(1e-6, 1e-2, log=True).random_neighbour(1e-4, rng) / 1e-4 for _ in range(200)]
    assert all(10**0.4 <= max(x, 1 / x) <= 10 ** (0.33 * 4) for x in factors)
    assert {x > 1 for x in factors} == {True, False}
    assert {Choice(("a", "b", "c")).random_neighbour("b", rng) for _ in range(50)} == {"a", "c"}
    numbers = Choice((64, 16, 32, 128))
    assert {numbers.random_neighbour(32, rng) for _ in range(50)} == {16, 64}
    assert numbers.random_neighbour(128, rng) == 64


def test_weights_change_draws_but_not_distribution_or_repr():
    domain = parse_domain({"values": ["separable", "full"], "weights": [3, 1]}, WORDS, "here")
    rng = Random(0)
    counts = Counter(domain.draw(rng) for _ in range(4000))
    assert abs(counts["separable"] - 3000) < 120
    # Optuna's distribution and the repr are those of the choice without weights.
    assert domain.distribution() == CategoricalDistribution(("separable", "full"))
    assert repr(domain) == repr(Choice(("separable", "full")))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"values": ["full"], "weights": [1]}, "here: values is ['full'], expected a list of at least 2 items"),
        ({"values": ["full", "separable"]}, "here: weights is missing"),
        ({"values": ["full", "separable"], "weights": [1]}, "here: weights is [1], expected a list of 2 items"),
        ({"values": ["full", "separable"], "weights": [1, 0]}, "here: weights[1] is 0, expected an integer from 1"),
        ({"values": ["full", "half"], "weights": [1, 2]}, "here: values[1] is 'half', expected full or separable"),
        ({"values": ["full", "full"], "weights": [1, 2]}, "here: values is ['full', 'full'], expected each value once"),
    ],
)
def test_invalid_weights_error_names_value_and_expected(data, message):
    with pytest.raises(SearchSpaceError) as error:
        parse_domain(data, WORDS, "here")
    assert str(error.value).startswith(message)
