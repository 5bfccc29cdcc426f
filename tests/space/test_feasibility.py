import json
import math
from collections import Counter
from dataclasses import replace
from itertools import product
from random import Random

import pytest
import torch
from support.draws import draws

from nas.architecture.cost import METRICS, Cost, cost_of
from nas.errors import ShapeError
from nas.space import survey as surveying
from nas.space.constraints import Constraint, limits, most_violated
from nas.space.feasibility import judge, reason_meanings
from nas.space.search_space import SearchSpace
from nas.space.survey import LimitReport, SpaceReport, survey

SMALL = SearchSpace.from_toml(
    {
        "input_shape": [1, 9, 9],
        "num_classes": 3,
        "network": {"num_blocks": [1, 2], "head": "gap_linear"},
        "block": {"num_convs": {"low": 1, "high": 2}, "padding": ["same", "valid"], "kernel_size": [3, 5]},
        "conv": {"channels": [2, 4]},
        "recipe": {"batch_size": [64, 128]},
    },
    name="small",
)


def parse(*texts):
    return tuple(Constraint.parse(text) for text in texts)


def cost_or_none(space, values):
    try:
        return cost_of(space.architecture(values))
    except ShapeError:
        return None


def all_costs(space):
    """Returns the cost of each combination of the network's parameters; None if its layers do not fit."""
    names = [name for name in space.domains if not name.startswith("recipe.")]
    recipe = {"recipe.batch_size": 64}
    every = product(*(space.domains[name].grid() for name in names))
    return [cost_or_none(space, {**dict(zip(names, values, strict=True)), **recipe}) for values in every]


@pytest.fixture(scope="module")
def small_costs():
    return all_costs(SMALL)


# One candidate


def test_judgement_matches_constraints():
    space = SearchSpace.load("mnist")
    constraints = parse("params<=8000", "receptive_field>=28", "macs<=500000")
    reasons = Counter()
    for values in draws(space, 300):
        verdict, cost = judge(space, constraints, values), cost_or_none(space, values)
        reasons[verdict.reason] += 1
        if cost is None:
            assert verdict == (None, None, "impossible_shape", math.inf)
            continue
        assert verdict.architecture == space.architecture(values)
        assert verdict.cost == cost
        missed = [c.violation(cost) for c in constraints if c.violation(cost) > 0]
        assert verdict.violation == pytest.approx(sum(missed))
        binding = most_violated(constraints, cost)
        assert verdict.reason == (binding.metric if binding else "")
        assert (verdict.reason == "") == (not missed)
    assert reasons.keys() == {"", "params", "receptive_field", "macs", "impossible_shape"}


def test_judge_sums_violations_and_names_worst_limit():
    values = {name: domain.grid()[0] for name, domain in SMALL.domains.items()}  # one 3x3 convolution of 2 channels
    cost = Cost(params=31, macs=1464, receptive_field=3, peak_activation_bytes=1296, weight_bytes=148)
    assert judge(SMALL, (), values) == (SMALL.architecture(values), cost, "", 0.0)
    assert judge(SMALL, parse("params<=31", "receptive_field>=3"), values).reason == ""
    verdict = judge(SMALL, parse("params<=20", "receptive_field>=12", "macs<=1464"), values)
    assert verdict == (SMALL.architecture(values), cost, "receptive_field", 11 / 20 + 9 / 12)


def test_impossible_shape_has_infinite_violation():
    values = {name: domain.grid()[-1] for name, domain in SMALL.domains.items()}  # valid 5x5 convolutions on 9x9 images
    assert judge(SMALL, parse("params<=20"), values) == (None, None, "impossible_shape", math.inf)


def test_meanings_explain_each_reason():
    assert reason_meanings(["macs", "duplicate", "impossible_shape", "smaller"]) == {
        "macs": "misses the limit on macs, and no other limit by more",
        "duplicate": "was drawn before in this study",
        "impossible_shape": "cannot be built: a feature map would be smaller than its window",
        "smaller": "keeps the limits, but is not the largest of the four draws for one of the first candidates",
    }


# A whole space


@pytest.mark.parametrize("name", ["mnist", "colour"])
def test_survey_counts_equal_direct_counts(name):
    space, number = SearchSpace.load(name), 1_000
    constraints = limits(space.input_shape, max_params=20_000, max_macs=2_000_000)
    report = survey(space, constraints, num_draws=number, seed=3)
    costs = [cost_or_none(space, values) for values in draws(space, number, seed=3)]
    feasible = sum(cost is not None and all(c.violation(cost) <= 0 for c in constraints) for cost in costs)
    assert 0 < feasible < number
    assert (report.space, report.num_draws) == (name, number)
    assert report.num_feasible == feasible
    assert report.feasible_share == feasible / number
    assert sum(report.discards.values()) + feasible == number
    assert report.discards.get("impossible_shape", 0) == costs.count(None)
    assert list(report.discards.values()) == sorted(report.discards.values(), reverse=True)
    assert [limit.constraint for limit in report.limits] == list(constraints)
    for limit in report.limits:
        kept = sum(cost is not None and limit.constraint.violation(cost) <= 0 for cost in costs)
        assert limit.share_alone == kept / number
    assert [limit.binds for limit in report.limits].count(True) == 1
    assert min(report.limits, key=lambda limit: limit.share_alone).binds
    assert survey(space, constraints, num_draws=number, seed=3) == report
    assert survey(space, constraints, num_draws=number, seed=4) != report


@pytest.mark.parametrize("texts", [(), ("params<=100",), ("params<=300", "receptive_field>=9"), ("params<=1",)])
def test_survey_share_approximates_share_of_whole_space(small_costs, texts):
    constraints = parse(*texts)
    # All combinations are equally likely, so the true share is the share of combinations.
    kept = sum(cost is not None and most_violated(constraints, cost) is None for cost in small_costs)
    share = kept / len(small_costs)
    report = survey(SMALL, constraints, num_draws=4_000)
    assert report.feasible_share == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 4_000))


@pytest.mark.parametrize(
    "texts",
    [
        ("params<=8000", "receptive_field>=28"),
        ("params<=1500", "receptive_field>=28"),
        ("params<=200", "receptive_field>=28", "macs<=4000000"),
        ("peak_activation_bytes<=30000", "weight_bytes<=9000"),
        ("params>=100000",),
    ],
)
def test_suggested_limit_is_tightest_that_admits_one_percent(monkeypatch, texts):
    monkeypatch.setattr(surveying, "_smallest_cost", lambda *_: None)  # slow, and tested elsewhere
    space, number = SearchSpace.load("mnist"), 500
    constraints = parse(*texts)
    seen = Counter()
    for index, limit in enumerate(survey(space, constraints, num_draws=number).limits):

        def feasible(bound, index=index):
            changed = [replace(c, bound=bound) if i == index else c for i, c in enumerate(constraints)]
            return survey(space, changed, num_draws=number).num_feasible

        bound = limit.admits_one_percent
        seen[bound is None] += 1
        if bound is None:  # not even without this limit
            assert feasible(1 if limit.constraint.relation == ">=" else 10**12) < number / 100
        else:
            assert feasible(bound) >= number / 100
            assert feasible(bound + (1 if limit.constraint.relation == ">=" else -1)) < number / 100
    assert seen[False] >= 1


def test_survey_finds_smallest_networks(small_costs):
    possible = [cost for cost in small_costs if cost is not None]
    report = survey(SMALL, num_draws=200)
    assert report.smallest in possible
    assert report.smallest.params == min(cost.params for cost in possible) == 31
    assert report.smallest_within_limits is None
    assert report.limits == ()
    for texts in [("receptive_field>=5",), ("params<=40", "receptive_field>=14"), ("params<=7", "macs<=3000")]:
        within = [cost for cost in possible if most_violated(parse(*texts[-1:]), cost) is None]
        report = survey(SMALL, parse(*texts), num_draws=200)
        assert report.smallest.params == 31
        assert report.smallest_within_limits in within
        # The search changes one value at a time and may miss a slightly smaller network.
        assert report.smallest_within_limits.params <= 1.1 * min(cost.params for cost in within)


def test_smallest_networks_of_mnist_space_belong_to_it_and_run(monkeypatch):
    space, judged = SearchSpace.load("mnist"), {}

    def noting(space, constraints, values):
        verdict = judge(space, constraints, values)
        judged[verdict.cost] = dict(values)
        return verdict

    monkeypatch.setattr(surveying, "judge", noting)
    report = survey(space, limits(space.input_shape, max_params=8000), num_draws=500)
    # Two separable convolutions of 4 channels with norms, then the classifier: 9 + 4 + 8, 36 + 16 + 8, 40 parameters.
    assert report.smallest.params == 121
    assert report.smallest_within_limits.params < 320
    assert report.smallest_within_limits.receptive_field >= 28
    for cost in (report.smallest, report.smallest_within_limits):
        values = judged[cost]
        assert all(domain.accepts(values[name]) for name, domain in space.domains.items())
        module = space.architecture(values).build()
        assert sum(p.numel() for p in module.parameters()) == cost.params
        assert module(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def is_plain(data):
    if isinstance(data, dict):
        return all(type(key) is str and is_plain(value) for key, value in data.items())
    if isinstance(data, list):
        return all(is_plain(value) for value in data)
    return data is None or type(data) in (bool, int, float, str)


@pytest.mark.parametrize("texts", [(), ("params<=300", "receptive_field>=9"), ("params<=1", "macs<=1")])
def test_report_is_plain_json(texts):
    report = survey(SMALL, parse(*texts), num_draws=300)
    data = report.to_json()
    assert is_plain(data)
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert list(data) == [
        "space",
        "num_draws",
        "num_feasible",
        "feasible_share",
        "discards",
        "limits",
        "admitting_together",
        "smallest",
        "smallest_within_limits",
    ]
    assert [limit["constraint"] for limit in data["limits"]] == list(texts)
    keys = {"constraint", "metric", "share_alone", "admits_one_percent", "binds"}
    assert all(limit.keys() == keys for limit in data["limits"])
    assert tuple(data["smallest"]) == METRICS


def test_limit_that_every_network_keeps_does_not_bind():
    report = survey(SearchSpace.load("mnist"), [Constraint("params", "<=", 10**9)], num_draws=100)
    assert [limit.binds for limit in report.limits] == [False]


def test_report_without_feasible_draws_names_binding_limit():
    space = SearchSpace.load("mnist")
    report = survey(space, limits(space.input_shape, max_params=100), num_draws=500)
    assert report.num_feasible == 0
    params, receptive_field = report.limits
    assert (params.share_alone, params.binds) == (0.0, True)
    assert receptive_field.share_alone > 0.1
    assert not receptive_field.binds
    assert receptive_field.admits_one_percent is None
    lines = report.lines()
    assert lines[0] == "space mnist: 0 of 500 random draws keep the limits (0.00%)"
    assert (
        f"  params<=100: kept by 0.00% of all draws; it excludes the most; params<={params.admits_one_percent} "
        "would admit 1 % of the space" in lines
    )
    assert lines[-2:] == [
        "smallest network found that keeps receptive_field>=28:"
        f" {report.smallest_within_limits.params} parameters,"
        f" receptive field {report.smallest_within_limits.receptive_field}",
        "smallest network found if limits are ignored: 121 parameters,"
        f" receptive field {report.smallest.receptive_field}",
    ]


def test_report_of_space_without_buildable_networks():
    data = {
        "input_shape": [1, 4, 4],
        "network": {"num_blocks": 1},
        "block": {"num_convs": 1, "padding": "valid", "kernel_size": 5},
        "conv": {"channels": [4, 8]},
    }
    report = survey(SearchSpace.from_toml(data, name="void"), parse("params<=8000"), num_draws=50)
    assert report.num_feasible == 0
    assert report.discards == {"impossible_shape": 50}
    assert report.smallest is None
    assert report.smallest_within_limits is None
    assert report.lines() == [
        "space void: 0 of 50 random draws keep the limits (0.00%)",
        "the other 50 (100.00%), each by the limit that it misses most: impossible shape: 50 (100.00%)",
        "params<=8000: kept by 0.00% of all draws",
        "no draw can be built: a feature map would be smaller than its window",
    ]


def test_report_lines_equal_expected_text():
    params, field = parse("params<=8000", "receptive_field>=28")
    report = SpaceReport(
        space="mnist",
        num_draws=10_000,
        num_feasible=1295,
        discards={"impossible_shape": 4774, "params": 2843, "receptive_field": 1088},
        limits=(
            LimitReport(constraint=params, share_alone=0.2383, admits_one_percent=2133, binds=True),
            LimitReport(constraint=field, share_alone=0.25, admits_one_percent=108, binds=False),
        ),
        admitting_together=(),
        smallest=Cost(121, 19_920, 8, 21_632, 564),
        smallest_within_limits=Cost(1309, 78_440, 28, 25_088, 1356),
    )
    assert report.lines() == [
        "space mnist: 1,295 of 10,000 random draws keep the limits (12.95%)",
        "the other 8,705 (87.05%), each by the limit that it misses most: impossible shape: 4,774 (47.74%),"
        " limit on params: 2,843 (28.43%), limit on receptive_field: 1,088 (10.88%)",
        "each limit alone, whatever the others; a draw of impossible shape keeps none:",
        "  params<=8000: kept by 23.83% of all draws; it excludes the most",
        "  receptive_field>=28: kept by 25.00% of all draws",
        "smallest network found that keeps receptive_field>=28: 1,309 parameters, receptive field 28",
        "smallest network found if limits are ignored: 121 parameters, receptive field 8",
    ]
    # With no other limit, the two smallest networks are the same.
    assert [line for line in replace(report, limits=report.limits[:1]).lines() if "smallest" in line] == [
        "smallest network found if limits are ignored: 121 parameters, receptive field 8"
    ]


def test_two_tight_limits_are_relaxed_together():
    space = SearchSpace.load("mnist")
    report = survey(space, parse("params<=300", "macs<=1000"), num_draws=500)
    assert [limit.admits_one_percent for limit in report.limits] == [None, None]
    params, macs = report.admitting_together
    assert params.bound / 300 == pytest.approx(macs.bound / 1000, rel=0.01)
    assert survey(space, report.admitting_together, num_draws=500).feasible_share >= 0.01
    tighter = parse(f"params<={int(params.bound * 0.97)}", f"macs<={int(macs.bound * 0.97)}")
    assert survey(space, tighter, num_draws=500).feasible_share < 0.01
    assert f"no value of one limit would admit 1 % of the space; {params} and {macs} together would" in report.lines()


@pytest.mark.parametrize("limit", ["params>=5000", "macs>=200000"])
def test_lower_limit_does_not_enlarge_smallest_network_of_space(limit):
    space = SearchSpace.load("grey")
    without = survey(space, num_draws=100)
    with_limit = survey(space, parse(limit, "params<=8000"), num_draws=100)
    assert with_limit.smallest.params <= 1.1 * without.smallest.params


def test_no_feasible_draw_is_smaller_than_smallest_within_limits():
    space, kept, rng = SearchSpace.load("grey"), parse("macs>=200000", "params<=8000"), Random(0)
    report = survey(space, kept, num_draws=100)
    drawn = [judge(space, kept, space.draw(rng)) for _ in range(1000)]
    feasible = [judgement.cost.params for judgement in drawn if not judgement.reason]
    assert feasible
    assert report.smallest_within_limits.params <= min(feasible)
