"""`with_filled_widths` scales widths so that candidates fill the limits."""

from random import Random

import pytest
from support.effort import examples

from nas.architecture.cost import cost_of
from nas.space.constraints import Constraint, limits
from nas.space.feasibility import judge
from nas.space.fill import with_filled_widths, with_likely_feasible_widths
from nas.space.search_space import SearchSpace
from nas.space.widths import is_width, scale_widths

UPPER = {
    "params": [Constraint("params", "<=", 8000)],
    "few params": [Constraint("params", "<=", 900)],
    "macs": [Constraint("macs", "<=", 400_000)],
    "activations": [Constraint("peak_activation_bytes", "<=", 60_000)],
    "both": [Constraint("params", "<=", 8000), Constraint("macs", "<=", 300_000)],
}


@pytest.fixture(scope="module")
def grey():
    return SearchSpace.load("grey")


@pytest.mark.parametrize("name", UPPER)
def test_filled_candidates_keep_limits_and_come_close_to_them(grey, name):
    rng, kept = Random(name), UPPER[name]
    full = []
    for _ in range(examples(50)):
        values = with_filled_widths(grey, kept, grey.draw(rng))
        judgement = judge(grey, kept, values)
        if judgement.reason:
            assert judge(grey, kept, scale_widths(values, grey.domains, 0.01)).reason, "a narrower one keeps the limits"
            continue
        full.append(max(getattr(judgement.cost, c.metric) / c.bound for c in kept))
        wider = scale_widths(values, grey.domains, 1.3)
        changed = any(wider[n] != values[n] for n in values if is_width(n))
        assert judge(grey, kept, wider).reason or not changed or full[-1] > 0.5
    assert sorted(full)[len(full) // 10] > 0.75, "a tenth is far below the limits"


def test_filled_uses_requested_share_of_limit(grey):
    kept, values = UPPER["params"], grey.draw(Random(3))
    shares = [
        cost_of(grey.architecture(with_filled_widths(grey, kept, values, share))).params / 8000
        for share in (0.1, 0.3, 1.0)
    ]
    assert 0.05 < shares[0] <= 0.1
    assert 0.2 < shares[1] <= 0.3
    assert 0.85 < shares[2] <= 1.0


def test_filling_changes_only_widths_and_is_nearly_idempotent(grey):
    kept, rng = UPPER["params"], Random(4)
    for _ in range(20):
        values = grey.draw(rng)
        once = with_filled_widths(grey, kept, values)
        assert {name for name in values if once[name] != values[name]} <= {n for n in values if is_width(n)}
        twice = with_filled_widths(grey, kept, once)
        first, second = (judge(grey, kept, x).cost for x in (once, twice))
        if first is not None:
            assert abs(first.params - second.params) < 0.1 * 8000


@pytest.mark.parametrize("kept", [(), (Constraint("receptive_field", ">=", 28),)])
def test_values_are_unchanged_without_upper_limit(grey, kept):
    values = grey.draw(Random(5))
    assert with_filled_widths(grey, kept, values) == values


def test_values_are_unchanged_in_space_with_independent_widths():
    mnist, rng = SearchSpace.load("mnist"), Random(6)
    kept = limits((1, 28, 28), max_params=8000)
    for _ in range(20):
        values = mnist.draw(rng)
        assert with_filled_widths(mnist, kept, values) == values


def test_infeasible_candidate_gets_smallest_widths(grey):
    kept = [Constraint("params", "<=", 8000), Constraint("receptive_field", ">=", 1000)]
    values = grey.draw(Random(7))
    assert with_filled_widths(grey, kept, values) == scale_widths(values, grey.domains, 1 / 64)
    assert judge(grey, kept, with_filled_widths(grey, kept, values)).reason == "receptive_field"


def test_narrowed_returns_smallest_widths_unless_lower_limit_exists(grey):
    values = grey.draw(Random(8))
    smallest = scale_widths(values, grey.domains, 1 / 64)
    most, least = Constraint("params", "<=", 8000), Constraint("macs", ">=", 1000)
    assert with_likely_feasible_widths(grey, (), values) == smallest
    assert with_likely_feasible_widths(grey, (most, Constraint("receptive_field", ">=", 28)), values) == smallest
    assert (
        with_likely_feasible_widths(grey, (most, least), values)
        == with_filled_widths(grey, (most, least), values)
        != smallest
    )
    mnist = SearchSpace.load("mnist")
    drawn = mnist.draw(Random(8))
    assert with_likely_feasible_widths(mnist, (most, least), drawn) == drawn


@pytest.mark.parametrize("lower", [Constraint("macs", ">=", 10**7), Constraint("params", ">=", 7990)])
def test_lower_limits_do_not_affect_filled_widths(grey, lower):
    upper, rng = UPPER["params"], Random(9)
    for values in (grey.draw(rng) for _ in range(5)):
        assert with_filled_widths(grey, [*upper, lower], values) == with_filled_widths(grey, upper, values)
