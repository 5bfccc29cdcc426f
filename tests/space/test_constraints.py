from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.architecture.cost import METRICS, Cost
from nas.errors import ConstraintError
from nas.space.constraints import Constraint, limits, most_violated, tightest_per_metric

COST = Cost(params=6000, macs=300_000, receptive_field=21, peak_activation_bytes=40_000, weight_bytes=25_000)
NAMES = (
    "params, macs, receptive_field, peak_activation_bytes, weight_bytes,"
    " float_arena_bytes, int8_arena_bytes, int8_weight_bytes, m0_instructions, m4_instructions"
)
FORM = f"found, expected METRIC<=VALUE or METRIC>=VALUE with METRIC one of {NAMES}"
AT_LEAST_1 = "expected an integer of at least 1"

constraints = st.builds(Constraint, st.sampled_from(METRICS), st.sampled_from(["<=", ">="]), st.integers(1, 50))
costs = st.builds(Cost, *[st.integers(0, 60)] * len(METRICS))


def keeps(cost, constraint):
    value = getattr(cost, constraint.metric)
    return value <= constraint.bound if constraint.relation == "<=" else value >= constraint.bound


@given(st.sampled_from(METRICS), st.sampled_from(["<=", ">="]), st.integers(1, 10**18))
def test_constraint_roundtrips_through_text(metric, relation, bound):
    constraint = Constraint(metric, relation, bound)
    assert str(constraint) == f"{metric}{relation}{bound}"
    assert Constraint.parse(str(constraint)) == constraint


@pytest.mark.parametrize(
    "text",
    ["macs<=200000", " macs <= 200000 ", "macs<=2e5", "macs<=200000.0", "macs <=200_000", "macs<=200K", "macs<=0.2M"],
)
def test_parse_accepts_alternative_spellings(text):
    assert Constraint.parse(text) == Constraint("macs", "<=", 200_000)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", f"constraint '' {FORM}"),
        ("params", f"constraint 'params' {FORM}"),
        ("params<8000", f"constraint 'params<8000' {FORM}"),
        ("params==8000", f"constraint 'params==8000' {FORM}"),
        ("8000>=params", f"constraint '8000>=params' {FORM}"),
        ("params<=", f"constraint 'params<=' {FORM}"),
        ("params<=8000 macs<=1", f"constraint 'params<=8000 macs<=1' {FORM}"),
        ("flops<=8000", f"constraint: metric is 'flops', expected one of {NAMES}"),
        ("params<=8kb", f"constraint on params: bound is '8kb', {AT_LEAST_1}"),
        ("params<=1.0001k", f"constraint on params: bound is '1.0001k', {AT_LEAST_1}"),
        ("params<=0.5", f"constraint on params: bound is '0.5', {AT_LEAST_1}"),
        ("params<=nan", f"constraint on params: bound is 'nan', {AT_LEAST_1}"),
        ("params<=inf", f"constraint on params: bound is 'inf', {AT_LEAST_1}"),
        ("params<=0", f"constraint on params: bound is 0, {AT_LEAST_1}"),
        ("params>=-3", f"constraint on params: bound is -3, {AT_LEAST_1}"),
    ],
)
def test_parse_error_names_invalid_value_and_expected(text, error):
    with pytest.raises(ConstraintError) as caught:
        Constraint.parse(text)
    assert str(caught.value) == error


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("size", "<=", 1), f"constraint: metric is 'size', expected one of {NAMES}"),
        (("params", "<", 1), "constraint: relation is '<', expected <= or >="),
        (("params", "<=", 0), f"constraint on params: bound is 0, {AT_LEAST_1}"),
        (("params", "<=", True), f"constraint on params: bound is True, {AT_LEAST_1}"),
        (("params", "<=", 8000.0), f"constraint on params: bound is 8000.0, {AT_LEAST_1}"),
    ],
)
def test_constructor_error_names_invalid_argument(arguments, error):
    with pytest.raises(ConstraintError) as caught:
        Constraint(*arguments)
    assert str(caught.value) == error


@pytest.mark.parametrize(
    ("text", "violation"),
    [
        ("params<=8000", -0.25),
        ("params<=6000", 0.0),
        ("params<=4000", 0.5),
        ("params<=1", 5999.0),
        ("receptive_field>=28", 0.25),
        ("receptive_field>=21", 0.0),
        ("receptive_field>=14", -0.5),
        ("macs<=200000", 0.5),
        ("peak_activation_bytes<=32000", 0.25),
        ("weight_bytes>=100000", 0.75),
    ],
)
def test_violation_is_relative_to_bound(text, violation):
    assert Constraint.parse(text).violation(COST) == violation


@given(constraints, costs)
def test_violation_is_positive_iff_limit_is_missed(constraint, cost):
    assert (constraint.violation(cost) > 0) == (not keeps(cost, constraint))


@given(constraints, costs)
def test_violation_grows_by_inverse_bound_per_unit(constraint, cost):
    further = getattr(cost, constraint.metric) + (1 if constraint.relation == "<=" else -1)
    worse = constraint.violation(replace(cost, **{constraint.metric: further}))
    assert worse - constraint.violation(cost) == pytest.approx(1 / constraint.bound)


@given(st.lists(constraints, max_size=6), costs)
def test_worst_has_largest_violation(several, cost):
    missed = [constraint for constraint in several if not keeps(cost, constraint)]
    found = most_violated(several, cost)
    if found is None:
        assert missed == []
    else:
        assert found in missed
        assert found.violation(cost) == max(constraint.violation(cost) for constraint in several)


def test_worst_of_examples_is_expected_constraint_or_none():
    missed = [Constraint.parse(text) for text in ("macs<=200000", "params<=3000", "receptive_field>=28")]
    assert most_violated(missed, COST) == Constraint("params", "<=", 3000)
    assert most_violated([], COST) is None
    assert most_violated([Constraint("params", "<=", 6000)], COST) is None


@given(st.lists(constraints, max_size=8), st.lists(costs, max_size=20))
def test_combined_limits_admit_same_networks(several, some):
    bounds = {
        (metric, relation): [c.bound for c in several if (c.metric, c.relation) == (metric, relation)]
        for metric in METRICS
        for relation in ("<=", ">=")
    }
    contradictory = any(
        max(bounds[metric, ">="]) > min(bounds[metric, "<="])
        for metric in METRICS
        if bounds[metric, ">="] and bounds[metric, "<="]
    )
    if contradictory:
        with pytest.raises(ConstraintError, match=r"^limits contradict: "):
            tightest_per_metric(several)
        return
    combined = tightest_per_metric(several)
    assert len({(c.metric, c.relation) for c in combined}) == len(combined)
    assert set(combined) <= set(several)
    assert tightest_per_metric(combined) == combined
    for cost in some:
        assert all(keeps(cost, c) for c in combined) == all(keeps(cost, c) for c in several)


def test_combine_keeps_tightest_limits():
    texts = [
        "params<=9000",
        "receptive_field>=20",
        "params<=8000",
        "receptive_field>=28",
        "params<=8500",
        "params>=100",
    ]
    combined = tightest_per_metric([Constraint.parse(text) for text in texts])
    assert [str(constraint) for constraint in combined] == ["params<=8000", "receptive_field>=28", "params>=100"]


def test_contradictory_limits_raise_error_naming_both():
    equal = (Constraint("params", "<=", 100), Constraint("params", ">=", 100))
    assert tightest_per_metric(equal) == equal
    with pytest.raises(ConstraintError) as caught:
        tightest_per_metric([*equal, Constraint("params", ">=", 101)])
    assert str(caught.value) == "limits contradict: params>=101 and params<=100"
    with pytest.raises(ConstraintError) as caught:
        limits((1, 28, 28), constraints=["receptive_field<=20"])
    assert str(caught.value) == "limits contradict: receptive_field>=28 and receptive_field<=20"


@pytest.mark.parametrize(
    ("input_shape", "options", "texts"),
    [
        ((1, 28, 28), {}, ["receptive_field>=28"]),
        ((3, 24, 32), {}, ["receptive_field>=32"]),
        ((3, 32, 24), {}, ["receptive_field>=32"]),
        ((64, 8, 8), {}, ["receptive_field>=8"]),
        ((1, 28, 28), {"min_receptive_field": 1}, ["receptive_field>=1"]),
        ((1, 28, 28), {"min_receptive_field": 40, "max_params": 8000}, ["params<=8000", "receptive_field>=40"]),
        (
            (3, 32, 32),
            {"max_macs": 10**6, "max_activation_bytes": 2**16, "max_weight_bytes": 2**15},
            ["receptive_field>=32", "macs<=1000000", "peak_activation_bytes<=65536", "weight_bytes<=32768"],
        ),
        (
            (1, 28, 28),
            {"max_params": 8000, "constraints": ["params<=7000", "params>=5000", Constraint("macs", "<=", 9)]},
            ["params<=7000", "receptive_field>=28", "params>=5000", "macs<=9"],
        ),
        ((1, 28, 28), {"constraints": ["receptive_field>=20"]}, ["receptive_field>=28"]),
    ],
)
def test_limits_translates_options_to_constraints(input_shape, options, texts):
    assert [str(constraint) for constraint in limits(input_shape, **options)] == texts


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_params": 0}, f"`max_params=0`: {AT_LEAST_1}"),
        ({"min_receptive_field": 0}, f"`min_receptive_field=0`: {AT_LEAST_1}"),
        ({"max_macs": -1}, f"`max_macs=-1`: {AT_LEAST_1}"),
        ({"max_activation_bytes": 1.5}, f"`max_activation_bytes=1.5`: {AT_LEAST_1}"),
        ({"max_weight_bytes": False}, f"`max_weight_bytes=False`: {AT_LEAST_1}"),
    ],
)
def test_limit_that_is_not_positive_integer_raises(options, error):
    with pytest.raises(ConstraintError) as caught:
        limits((1, 28, 28), **options)
    assert str(caught.value) == error


def test_limits_without_shape_are_those_of_mnist_and_single_constraint_needs_no_list():
    assert limits(max_params=3) == limits((1, 28, 28), max_params=3)
    assert limits(constraints="macs<=9") == limits(constraints=["macs<=9"])
    assert limits(constraints=Constraint("macs", "<=", 9)) == limits(constraints=["macs<=9"])


@pytest.mark.parametrize("shape", [8000, "grey", (28, 28), (1, 28, 0), None])
def test_limits_reject_invalid_shape(shape):
    with pytest.raises(ConstraintError) as caught:
        limits(shape, max_params=3)
    expected = "expected [channels, height, width], each an integer from 1 to 1e12"
    assert str(caught.value) == f"`input_shape={shape!r}`: {expected}"
