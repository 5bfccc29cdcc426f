"""Spread, ties and the choice of the winner, compared with numpy, scipy and simulations."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from support.seed_results import NUM_SEEDS, REPETITIONS, finalist_lists

from nas.seed_stats import Finalist, Ranking, spread_text


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8))
def test_mean_and_sd_equal_numpy(values):
    finalist = Finalist(trial=0, cost=1, objectives=tuple(values))
    assert finalist.mean == pytest.approx(np.mean(values))
    assert finalist.sd == pytest.approx(np.std(values, ddof=1), abs=1e-15)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ((0.9936, 0.9946), "99.41 ± 0.07 %"),
        ((0.99, 0.99, 0.99), "99.00 ± 0.00 %"),
        ((0, 1), "50.00 ± 70.71 %"),
        ((1.0, 1.0), "100.00 ± 0.00 %"),
        ((0.0, 0.0), "0.00 ± 0.00 %"),
    ],
)
def test_spread_text_formats_mean_and_sd(values, text):
    assert spread_text(values) == text


@given(finalist_lists())
def test_standard_error_equals_anova(finalists):
    runs = np.array([finalist.objectives for finalist in finalists])
    num, seeds = runs.shape
    within = ((runs - runs.mean(axis=1, keepdims=True)) ** 2).sum() / (num * (seeds - 1))
    assert Ranking.from_finalists(finalists).standard_error == pytest.approx(math.sqrt(2 * within / seeds), abs=1e-15)


@pytest.mark.filterwarnings("ignore:Precision loss occurred")  # if runs are nearly equal
@given(finalist_lists(least=2))
def test_standard_error_of_two_finalists_equals_student_t(finalists):
    a, b = finalists[:2]
    ranking = Ranking.from_finalists([a, b])
    if ranking.standard_error:
        student = stats.ttest_ind(a.objectives, b.objectives)
        assert student.statistic * ranking.standard_error == pytest.approx(a.mean - b.mean, abs=1e-12)


@given(finalist_lists())
def test_ranking_orders_by_mean_then_cost_then_trial_number(finalists):
    ranked = Ranking.from_finalists(finalists).finalists
    assert sorted(finalist.trial for finalist in ranked) == [finalist.trial for finalist in finalists]
    for better, worse in pairwise(ranked):
        keys = [(-sum(each.objectives), each.cost, each.trial) for each in (better, worse)]
        assert keys[0] < keys[1]


@given(finalist_lists())
def test_winner_is_smallest_of_tied_finalists(finalists):
    ranking = Ranking.from_finalists(finalists)
    best = ranking.finalists[0]
    assert ranking.tied == ranking.finalists[: len(ranking.tied)]
    assert ranking.tied[0] == best
    for finalist in finalists:
        behind = best.mean - finalist.mean
        if abs(behind - ranking.standard_error) > 1e-12:
            assert (finalist in ranking.tied) == (behind < ranking.standard_error)
    assert ranking.winner in ranking.tied
    assert ranking.winner.cost == min(finalist.cost for finalist in ranking.tied)
    # Among equally small ones, the best mean wins.
    assert ranking.winner == next(each for each in ranking.tied if each.cost == ranking.winner.cost)


@given(finalist_lists(), st.randoms(use_true_random=False))
def test_input_order_does_not_change_ranking(finalists, random):
    shuffled = list(finalists)
    random.shuffle(shuffled)
    one, other = Ranking.from_finalists(finalists), Ranking.from_finalists(shuffled)
    assert one.finalists == other.finalists
    assert one.standard_error == pytest.approx(other.standard_error, abs=1e-15)


@given(finalist_lists(st.integers(1, 512).map(lambda step: step / 1024)), st.integers(0, 512))
def test_common_offset_does_not_change_ranking(finalists, steps):
    raised = [
        Finalist(trial=f.trial, cost=f.cost, objectives=tuple(x + steps / 1024 for x in f.objectives))
        for f in finalists
    ]
    one, other = Ranking.from_finalists(finalists), Ranking.from_finalists(raised)
    assert one.standard_error == pytest.approx(other.standard_error, abs=1e-15)
    assert [f.trial for f in one.finalists] == [f.trial for f in other.finalists]


@given(finalist_lists(least=2))
def test_larger_standard_error_never_reduces_ties(finalists):
    ranking = Ranking.from_finalists(finalists)
    wider = Ranking(finalists=ranking.finalists, standard_error=2 * ranking.standard_error)
    assert set(ranking.tied) <= set(wider.tied)
    assert wider.winner.cost <= ranking.winner.cost


@given(finalist_lists(), st.integers(1, 5))
def test_diverged_run_does_not_change_ties_of_others(finalists, num_diverged):
    runs = list(finalists[0].objectives)
    runs[:num_diverged] = [0.0] * len(runs[:num_diverged])
    diverged = Finalist(trial=99, cost=1, objectives=tuple(runs))
    with_it, without = Ranking.from_finalists([*finalists, diverged]), Ranking.from_finalists(finalists)
    assert with_it.standard_error == pytest.approx(without.standard_error, abs=1e-15)
    assert set(without.tied) - {diverged} == set(with_it.tied) - {diverged} or with_it.finalists[0] == diverged


def test_winner_exists_if_every_finalist_diverged():
    finalists = [Finalist(trial=n, cost=9 - n, objectives=(0.0, 0.5 + n / 100)) for n in range(3)]
    ranking = Ranking.from_finalists(finalists)
    assert ranking.standard_error > 0.3
    assert ranking.winner.trial == 2
    nothing = [Finalist(trial=n, cost=9 - n, objectives=(0.0, 0.0)) for n in range(3)]
    assert Ranking.from_finalists(nothing).standard_error == 0
    assert Ranking.from_finalists(nothing).winner.trial == 2


def test_without_spread_only_equal_means_tie():
    def ranking(*means):
        return Ranking.from_finalists([Finalist(trial=n, cost=9 - n, objectives=(x,) * 3) for n, x in enumerate(means)])

    assert ranking(0.9, 0.9, 0.8).standard_error == 0
    assert [finalist.trial for finalist in ranking(0.9, 0.9, 0.8).tied] == [1, 0]
    assert ranking(0.9, 0.9, 0.8).pick_text.startswith("trial 1 is picked, the smallest of 2 that are tied: none is")
    assert ranking(0.9, 0.9, 0.8).winner.trial == 1
    assert ranking(0.9, math.nextafter(0.9, 0), 0.8).winner.trial == 0


def test_gap_of_one_standard_error_is_tie():
    best = Finalist(trial=0, cost=2, objectives=(0.5, 0.75))
    behind = Finalist(trial=1, cost=1, objectives=(0.25, 0.5))
    # Both have variance 1/32, so the standard error is sqrt(2 / 32 / 2).
    assert Ranking.from_finalists([best, behind]).standard_error == pytest.approx(math.sqrt(1 / 32))
    apart = Ranking(finalists=(best, behind), standard_error=0.25)
    assert apart.winner == behind
    assert Ranking(finalists=(best, behind), standard_error=0.249).winner == best


def test_single_finalist_wins():
    alone = Finalist(trial=7, cost=3, objectives=(0.1, 0.9))
    ranking = Ranking.from_finalists([alone])
    assert (ranking.winner, ranking.tied) == (alone, (alone,))


@pytest.mark.parametrize("seeds", NUM_SEEDS)
def test_smaller_of_two_equal_candidates_wins_at_expected_rate(seeds):
    """The smaller loses only if it is more than one standard error behind, i.e. Student's t is above 1."""
    runs = np.random.default_rng(seeds).normal(0.9, 0.01, (REPETITIONS, 2, seeds))
    picked = sum(
        Ranking.from_finalists(
            [Finalist(trial=n, cost=n + 1, objectives=tuple(pair[n].tolist())) for n in range(2)]
        ).winner.trial
        == 0
        for pair in runs
    )
    rate = stats.t.cdf(1, 2 * (seeds - 1))
    assert abs(picked - REPETITIONS * rate) < 4 * math.sqrt(REPETITIONS * rate * (1 - rate))


@given(finalist_lists())
def test_ranking_json_equals_attributes(finalists):
    ranking = Ranking.from_finalists(finalists)
    data = json.loads(json.dumps(ranking.to_json(), allow_nan=False))
    assert data["standard_error"] == ranking.standard_error
    assert [tuple(row["objectives"]) for row in data["finalists"]] == [f.objectives for f in ranking.finalists]
    assert [row["trial"] for row in data["finalists"] if row["tied"]] == [f.trial for f in ranking.tied]


@given(finalist_lists())
def test_ranking_roundtrips_through_json(finalists):
    ranking = Ranking.from_finalists(finalists)
    assert Ranking.from_json(json.loads(json.dumps(ranking.to_json()))) == ranking


def test_pick_text_names_winner_and_reason():
    best = Finalist(trial=4, cost=20, objectives=(0.5, 0.75))
    smaller = Finalist(trial=9, cost=10, objectives=(0.25, 0.5))
    error = "one standard error of the difference of two means"
    assert Ranking(finalists=(best, smaller), standard_error=0.0125).pick_text == (
        f"trial 4 is picked: the others are behind by more than 1.250 points, {error}"
    )
    assert Ranking(finalists=(best, smaller), standard_error=0.25).pick_text == (
        "trial 9 is picked, the smallest of 2 that are tied: none is behind the best by more than"
        f" 25.000 points, {error}"
    )
