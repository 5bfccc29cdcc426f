"""Bytes of C code are exact before training, and limits on them hold."""

import re
from random import Random

import pytest
from support.draws import architecture_or_none, draws

from nas.architecture.architecture import Architecture
from nas.architecture.cost import cost_of
from nas.inference.full_cost import C_CODE_METRICS, FullCost, full_cost
from nas.resources import known_networks, shipped_spaces
from nas.space.constraints import Constraint
from nas.space.feasibility import IMPOSSIBLE_SHAPE, cost_for, judge
from nas.space.fill import with_filled_widths
from nas.space.search_space import SearchSpace


def parse(*texts):
    return [Constraint.parse(text) for text in texts]


@pytest.mark.parametrize("name", known_networks())
def test_full_cost_extends_the_cost(name):
    architecture = Architecture.load(name)
    full, cost = full_cost(architecture), cost_of(architecture)
    assert all(getattr(full, metric) == getattr(cost, metric) for metric in cost.__dataclass_fields__)
    assert isinstance(full, FullCost)
    assert full.int8_arena_bytes < full.float_arena_bytes <= cost.peak_activation_bytes
    assert cost.params < full.int8_weight_bytes < cost.weight_bytes
    assert full_cost(architecture, cost) == full


def test_cost_for_has_memory_metrics_only_if_a_limit_needs_them():
    architecture = Architecture.load("nas-2386-b")
    assert type(cost_for(parse("params<=8000"), architecture)) is type(cost_of(architecture))
    assert cost_for(parse("params<=8000", "int8_arena_bytes<=9"), architecture) == full_cost(architecture)


@pytest.mark.parametrize("name", shipped_spaces())
def test_limits_on_bytes_are_judged_last_and_exactly(name):
    space = SearchSpace.load(name)
    for values in draws(space, 20):
        architecture = architecture_or_none(space, values)
        if architecture is None:
            assert judge(space, parse("int8_arena_bytes<=1"), values).reason == IMPOSSIBLE_SHAPE
            continue
        full = full_cost(architecture)
        for metric in C_CODE_METRICS:
            exact = getattr(full, metric)
            assert judge(space, parse(f"{metric}<={exact}"), values).reason == ""
            refused = judge(space, parse(f"{metric}<={exact - 1}", "params<=100000000"), values)
            assert (refused.reason, refused.cost) == (metric, full)
            assert refused.violation == pytest.approx(1 / (exact - 1))
        earlier = judge(space, parse("params<=1", "int8_arena_bytes<=1"), values)
        assert (earlier.reason, earlier.cost) == ("params", cost_of(architecture))


def test_filled_widths_keep_a_limit_on_bytes():
    space, limits = SearchSpace.load("grey"), parse("params<=8000", "int8_arena_bytes<=9000")
    rng, kept, most = Random(0), 0, 0
    for _ in range(30):
        values = with_filled_widths(space, limits, space.draw(rng))
        judgement = judge(space, limits, values)
        if not judgement.reason:
            kept += 1
            most = max(most, judgement.cost.int8_arena_bytes)
    assert kept > 15
    assert 8000 < most <= 9000


def test_unknown_metric_error_lists_metrics_of_c():
    with pytest.raises(Exception, match=re.escape("float_arena_bytes, int8_arena_bytes, int8_weight_bytes")):
        Constraint.parse("nothing<=3")
