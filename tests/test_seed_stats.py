"""Spread, ties and verdicts, held to other formulas (scipy, numpy) and to simulated repetitions."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nas.seed_stats import Finalist, Ranking, TestResult, spread_text

REPETITIONS = 4000
NUM_SEEDS = [2, 3, 5, 10]

# In steps of 1/1024, so that sums and means are exact; never 0, which is a run that diverged.
accuracies = st.integers(1, 1024).map(lambda step: step / 1024)


def finalist_lists(values=accuracies, least=1):
    def of(seeds):
        one = st.tuples(st.integers(1, 9), st.lists(values, min_size=seeds, max_size=seeds))
        return st.lists(one, min_size=least, max_size=6).map(
            lambda rows: [
                Finalist(trial=trial, cost=params, objectives=tuple(runs)) for trial, (params, runs) in enumerate(rows)
            ]
        )

    return st.integers(2, 5).flatmap(of)


def result_of(rows, *, target=0.9, consistency=5, num_images=10_000):
    return TestResult(
        accuracies=tuple(tuple(row) for row in rows), consistency=consistency, target=target, num_images=num_images
    )


results = st.tuples(st.integers(2, 6), st.integers(1, 7)).flatmap(
    lambda size: st.lists(st.lists(accuracies, min_size=size[1], max_size=size[1]), min_size=size[0], max_size=size[0])
)


# -- spread --------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8))
def test_mean_and_sd_are_those_of_numpy(values):
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
def test_spread_in_words(values, text):
    assert spread_text(values) == text


# -- ranking -------------------------------------------------------------------------------------------------


@given(finalist_lists())
def test_the_standard_error_is_that_of_an_analysis_of_variance(finalists):
    runs = np.array([finalist.objectives for finalist in finalists])
    num, seeds = runs.shape
    within = ((runs - runs.mean(axis=1, keepdims=True)) ** 2).sum() / (num * (seeds - 1))
    assert Ranking.of(finalists).standard_error == pytest.approx(math.sqrt(2 * within / seeds), abs=1e-15)


@pytest.mark.filterwarnings("ignore:Precision loss occurred")  # where runs are nearly alike
@given(finalist_lists(least=2))
def test_of_two_the_standard_error_is_that_of_students_test(finalists):
    a, b = finalists[:2]
    ranking = Ranking.of([a, b])
    if ranking.standard_error:
        student = stats.ttest_ind(a.objectives, b.objectives)
        assert student.statistic * ranking.standard_error == pytest.approx(a.mean - b.mean, abs=1e-12)


@given(finalist_lists())
def test_the_ranking_is_by_mean_then_size_then_number(finalists):
    ranked = Ranking.of(finalists).finalists
    assert sorted(finalist.trial for finalist in ranked) == [finalist.trial for finalist in finalists]
    for better, worse in pairwise(ranked):
        keys = [(-sum(each.objectives), each.cost, each.trial) for each in (better, worse)]
        assert keys[0] < keys[1]


@given(finalist_lists())
def test_the_winner_is_the_smallest_of_the_tied(finalists):
    ranking = Ranking.of(finalists)
    best = ranking.finalists[0]
    assert ranking.tied == ranking.finalists[: len(ranking.tied)]
    assert ranking.tied[0] == best
    for finalist in finalists:
        behind = best.mean - finalist.mean
        if abs(behind - ranking.standard_error) > 1e-12:
            assert (finalist in ranking.tied) == (behind < ranking.standard_error)
    assert ranking.winner in ranking.tied
    assert ranking.winner.cost == min(finalist.cost for finalist in ranking.tied)
    # Of the smallest, the one with the best mean.
    assert ranking.winner == next(each for each in ranking.tied if each.cost == ranking.winner.cost)


@given(finalist_lists(), st.randoms(use_true_random=False))
def test_the_order_in_which_finalists_come_changes_nothing(finalists, random):
    shuffled = list(finalists)
    random.shuffle(shuffled)
    one, other = Ranking.of(finalists), Ranking.of(shuffled)
    assert one.finalists == other.finalists
    assert one.standard_error == pytest.approx(other.standard_error, abs=1e-15)


@given(finalist_lists(st.integers(1, 512).map(lambda step: step / 1024)), st.integers(0, 512))
def test_what_all_have_in_common_does_not_count(finalists, steps):
    raised = [
        Finalist(trial=f.trial, cost=f.cost, objectives=tuple(x + steps / 1024 for x in f.objectives))
        for f in finalists
    ]
    one, other = Ranking.of(finalists), Ranking.of(raised)
    assert one.standard_error == pytest.approx(other.standard_error, abs=1e-15)
    assert [f.trial for f in one.finalists] == [f.trial for f in other.finalists]


@given(finalist_lists(least=2))
def test_a_larger_standard_error_ties_more(finalists):
    ranking = Ranking.of(finalists)
    wider = Ranking(finalists=ranking.finalists, standard_error=2 * ranking.standard_error)
    assert set(ranking.tied) <= set(wider.tied)
    assert wider.winner.cost <= ranking.winner.cost


@given(finalist_lists(), st.integers(1, 5))
def test_a_run_that_diverged_does_not_widen_the_ties_of_the_others(finalists, num_diverged):
    runs = list(finalists[0].objectives)
    runs[:num_diverged] = [0.0] * len(runs[:num_diverged])
    diverged = Finalist(trial=99, cost=1, objectives=tuple(runs))
    with_it, without = Ranking.of([*finalists, diverged]), Ranking.of(finalists)
    assert with_it.standard_error == pytest.approx(without.standard_error, abs=1e-15)
    assert set(without.tied) - {diverged} == set(with_it.tied) - {diverged} or with_it.finalists[0] == diverged


def test_where_every_finalist_diverged_once_there_is_a_winner_still():
    finalists = [Finalist(trial=n, cost=9 - n, objectives=(0.0, 0.5 + n / 100)) for n in range(3)]
    ranking = Ranking.of(finalists)
    assert ranking.standard_error > 0.3
    assert ranking.winner.trial == 2
    nothing = [Finalist(trial=n, cost=9 - n, objectives=(0.0, 0.0)) for n in range(3)]
    assert Ranking.of(nothing).standard_error == 0
    assert Ranking.of(nothing).winner.trial == 2


def test_without_spread_only_equal_means_tie():
    def ranking(*means):
        return Ranking.of([Finalist(trial=n, cost=9 - n, objectives=(x,) * 3) for n, x in enumerate(means)])

    assert ranking(0.9, 0.9, 0.8).standard_error == 0
    assert [finalist.trial for finalist in ranking(0.9, 0.9, 0.8).tied] == [1, 0]
    assert ranking(0.9, 0.9, 0.8).pick_text.startswith("trial 1 is picked, the smallest of 2 that are tied: none is")
    assert ranking(0.9, 0.9, 0.8).winner.trial == 1
    assert ranking(0.9, math.nextafter(0.9, 0), 0.8).winner.trial == 0


def test_exactly_one_standard_error_behind_is_a_tie():
    best = Finalist(trial=0, cost=2, objectives=(0.5, 0.75))
    behind = Finalist(trial=1, cost=1, objectives=(0.25, 0.5))
    # Each has the variance 1/32: the standard error is sqrt(2 / 32 / 2).
    assert Ranking.of([best, behind]).standard_error == pytest.approx(math.sqrt(1 / 32))
    apart = Ranking(finalists=(best, behind), standard_error=0.25)
    assert apart.winner == behind
    assert Ranking(finalists=(best, behind), standard_error=0.249).winner == best


def test_a_single_finalist_wins():
    alone = Finalist(trial=7, cost=3, objectives=(0.1, 0.9))
    ranking = Ranking.of([alone])
    assert (ranking.winner, ranking.tied) == (alone, (alone,))


@pytest.mark.parametrize("seeds", NUM_SEEDS)
def test_of_two_equal_candidates_the_smaller_is_picked_as_often_as_computed(seeds):
    """It loses only where it is behind by more than one standard error: Student's t above 1."""
    runs = np.random.default_rng(seeds).normal(0.9, 0.01, (REPETITIONS, 2, seeds))
    picked = sum(
        Ranking.of([Finalist(trial=n, cost=n + 1, objectives=tuple(pair[n].tolist())) for n in range(2)]).winner.trial
        == 0
        for pair in runs
    )
    rate = stats.t.cdf(1, 2 * (seeds - 1))
    assert abs(picked - REPETITIONS * rate) < 4 * math.sqrt(REPETITIONS * rate * (1 - rate))


@given(finalist_lists())
def test_a_ranking_is_plain_data(finalists):
    ranking = Ranking.of(finalists)
    data = json.loads(json.dumps(ranking.to_json(), allow_nan=False))
    assert data["standard_error"] == ranking.standard_error
    assert [tuple(row["objectives"]) for row in data["finalists"]] == [f.objectives for f in ranking.finalists]
    assert [row["trial"] for row in data["finalists"] if row["tied"]] == [f.trial for f in ranking.tied]


# -- target --------------------------------------------------------------------------------------------------


@given(results, accuracies, st.integers(1, 9))
def test_finals_and_lowest_of_the_last_epochs(rows, target, consistency):
    result = result_of(rows, target=target, consistency=consistency)
    table = np.array(rows)
    assert result.finals == table[:, -1].tolist()
    assert result.consistent == table[:, max(0, table.shape[1] - consistency) :].min(axis=1).tolist()
    reached = (table[:, max(0, table.shape[1] - consistency) :] >= target).all(axis=1)
    assert result.num_met == reached.sum()
    assert result.verdict == ("met" if reached.all() else "met by some" if reached.any() else "missed")


@given(results, accuracies)
def test_the_target_itself_is_enough_and_a_hair_less_is_not(rows, target):
    level = [[target] * len(row) for row in rows]
    assert result_of(level, target=target).verdict == "met"
    assert result_of(level, target=math.nextafter(target, 2)).verdict == "missed"
    level[0][-1] = math.nextafter(target, 0)
    assert result_of(level, target=target).verdict == "met by some"


def test_epochs_before_the_last_ones_do_not_count():
    rising = [0.1, 0.2, 0.95, 0.96, 0.97]
    assert result_of([rising] * 2, target=0.95, consistency=3).verdict == "met"
    assert result_of([rising] * 2, target=0.95, consistency=4).verdict == "missed"
    assert result_of([[*rising, 0.94]] * 2, target=0.95, consistency=1).verdict == "missed"


def test_one_epoch_is_the_last_and_the_lowest():
    result = result_of([[0.95], [0.85]], target=0.9)
    assert result.finals == result.consistent == [0.95, 0.85]
    assert result.verdict == "met by some"


def test_a_run_that_diverged_misses():
    assert result_of([[0.0] * 3, [0.99] * 3], target=1e-9).verdict == "met by some"


@given(results, accuracies, accuracies)
def test_a_higher_target_is_met_by_no_more_seeds(rows, one, other):
    lower, higher = sorted([one, other])
    easy, hard = (result_of(rows, target=target) for target in (lower, higher))
    assert hard.num_met <= easy.num_met
    assert hard.on_new_images() == easy.on_new_images()


@given(results, accuracies, st.data())
def test_a_better_run_never_harms(rows, target, data):
    seed = data.draw(st.integers(0, len(rows) - 1))
    better = [list(row) for row in rows]
    better[seed] = [data.draw(st.integers(round(1024 * x), 1024)) / 1024 for x in rows[seed]]
    assert result_of(better, target=target).num_met >= result_of(rows, target=target).num_met


# -- shares of seeds -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", range(2, 13))
def test_the_share_of_seeds_is_by_the_quantiles_of_beta(seeds):
    before = (-1.0, -1.0)
    for met in range(seeds + 1):
        low, high = result_of([[0.95]] * met + [[0.85]] * (seeds - met)).share_of_seeds()
        assert low == pytest.approx(stats.beta.ppf(0.025, met, seeds - met + 1) if met else 0, abs=1e-9)
        assert high == pytest.approx(stats.beta.ppf(0.975, met + 1, seeds - met) if met < seeds else 1, abs=1e-9)
        assert low <= met / seeds <= high
        assert before[0] < low or met == 0
        assert before[1] < high
        before = low, high


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.9, 0.99])
def test_the_share_of_seeds_covers_at_least_as_often_as_it_says(share):
    """Clopper and Pearson's interval is exact: over all outcomes it never covers less than 95 %."""
    for seeds in (2, 5, 10):
        covered = 0.0
        for met in range(seeds + 1):
            low, high = result_of([[0.95]] * met + [[0.85]] * (seeds - met)).share_of_seeds()
            covered += stats.binom.pmf(met, seeds, share) * (low <= share <= high)
        assert covered >= 0.95


# -- new images ----------------------------------------------------------------------------------------------


@given(st.lists(st.integers(400, 600), min_size=2, max_size=8, unique=True))
def test_with_images_without_end_it_is_students_interval(steps):
    finals = [step / 1000 for step in steps]
    student = stats.ttest_1samp(finals, 0).confidence_interval(0.95)
    low, high = result_of([[x] for x in finals], num_images=10**15).on_new_images()
    assert low == pytest.approx(max(0, student.low), abs=1e-6)
    assert high == pytest.approx(min(1, student.high), abs=1e-6)


@given(st.integers(0, 1000), st.integers(2, 8), st.integers(1, 1000))
def test_without_spread_over_seeds_it_is_wilsons_interval(step, seeds, thousands):
    num_images = 1000 * thousands
    found = result_of([[step / 1000]] * seeds, num_images=num_images).on_new_images()
    wilson = stats.binomtest(step * thousands, num_images).proportion_ci(0.95, method="wilson")
    assert found == pytest.approx((wilson.low, wilson.high), abs=1e-9)


@given(st.lists(st.integers(480, 520), min_size=2, max_size=8), st.integers(50, 10**6))
def test_more_images_never_widen_it(steps, num_images):
    rows = [[step / 1000] for step in steps]
    low, high = result_of(rows, num_images=num_images).on_new_images()
    lower, higher = result_of(rows, num_images=2 * num_images).on_new_images()
    assert low - 1e-12 <= lower <= higher <= high + 1e-12


@given(results, st.integers(10, 10**6))
def test_it_holds_the_mean_and_stays_a_share(rows, num_images):
    low, high = result_of(rows, num_images=num_images).on_new_images()
    assert 0 <= low <= np.mean([row[-1] for row in rows]) + 1e-12
    assert np.mean([row[-1] for row in rows]) - 1e-12 <= high <= 1


def simulated(seeds, mean, sd, num_images, rng):
    """Test accuracies of each repetition's seeds, all on the same images.

    An image is hard or easy for every network alike, which is where the accuracy on a sample of images scatters most.
    """
    true = np.sort(rng.normal(mean, sd, (REPETITIONS, seeds)).clip(0, 1), axis=1)
    parts = np.diff(true, axis=1, prepend=0, append=1)
    return rng.multinomial(num_images, parts).cumsum(axis=1)[:, :-1] / num_images


def coverage(seeds, ratio):
    """`ratio`: the scatter between seeds over that which the sample of images brings."""
    mean, num_images = 0.9, 10_000
    sd = ratio * math.sqrt(mean * (1 - mean) / num_images)
    covered = 0
    for finals in simulated(seeds, mean, sd, num_images, np.random.default_rng(seeds)).tolist():
        low, high = result_of([[x] for x in finals], num_images=num_images).on_new_images()
        covered += low <= mean <= high
    return covered / REPETITIONS


@pytest.mark.parametrize("seeds", [5, 10])
@pytest.mark.parametrize("ratio", [0.1, 1, 3, 10])
def test_the_interval_covers_as_often_as_it_says(seeds, ratio):
    assert 0.94 < coverage(seeds, ratio) < 0.985


@pytest.mark.parametrize("seeds", [2, 3])
@pytest.mark.parametrize("ratio", [0.1, 1, 5])
def test_with_few_seeds_it_covers_no_less(seeds, ratio):
    assert coverage(seeds, ratio) > 0.94


@pytest.mark.parametrize("seeds", NUM_SEEDS)
def test_where_networks_err_on_images_of_their_own_it_covers_at_least_as_often(seeds):
    rng = np.random.default_rng(seeds)
    mean, num_images = 0.99, 10_000
    true = rng.normal(mean, 0.001, (REPETITIONS, seeds)).clip(0, 1)
    covered = 0
    for finals in (rng.binomial(num_images, true) / num_images).tolist():
        low, high = result_of([[x] for x in finals], num_images=num_images).on_new_images()
        covered += low <= mean <= high
    assert covered / REPETITIONS > 0.945


@pytest.mark.parametrize("mean", [0.994, 0.999])
def test_with_few_images_it_covers_all_the_same(mean):
    rng = np.random.default_rng(0)
    covered = 0
    for finals in simulated(5, mean, 0.0005, 360, rng).tolist():
        low, high = result_of([[x] for x in finals], num_images=360).on_new_images()
        covered += low <= mean <= high
    assert covered / REPETITIONS > 0.94


# -- words ---------------------------------------------------------------------------------------------------

MET = [[0.1, 0.9942, 0.9946, 0.9944], [0.2, 0.9941, 0.9945, 0.9946], [0.3, 0.9940, 0.9943, 0.9945]]
SOME = [[0.9936, 0.9938], [0.9944, 0.9942], [0.9942, 0.9940], [0.9944, 0.9939]]
MISSED = [[0.91, 0.92], [0.92, 0.91]]


@pytest.mark.parametrize(
    ("result", "lines"),
    [
        (
            result_of(MET, target=0.994, consistency=3, num_images=10_000_000),
            [
                "Target met: 3 of 3 seeds keep at least 99.40% in each of the last 3 epochs.",
                "Final accuracy 99.45 ± 0.01 %, lowest of the last 3 epochs 99.41 ± 0.01 % (mean and standard deviation"
                " of 3 seeds).",
                "Of all seeds, 29% to 100% would keep it (95 % confidence, from 3 of 3).",
                "Mean final accuracy on all such images: 99.42% to 99.48% (95 % confidence, 3 seeds and 10,000,000"
                " images); the target lies below that: the mean on new images reaches it.",
            ],
        ),
        (
            result_of(SOME, target=0.994),
            [
                "Target met by some: 2 of 4 seeds keep at least 99.40% in each of the last 2 epochs.",
                "Final accuracy 99.40 ± 0.02 %, lowest of the last 2 epochs 99.39 ± 0.02 % (mean and standard deviation"
                " of 4 seeds).",
                "Of all seeds, 7% to 93% would keep it (95 % confidence, from 2 of 4).",
                "Mean final accuracy on all such images: 99.22% to 99.53% (95 % confidence, 4 seeds and 10,000 images);"
                " the target lies within that: these runs do not tell whether the mean on new images reaches it.",
            ],
        ),
        (
            result_of(MISSED, target=0.995, num_images=360),
            [
                "Target missed: 0 of 2 seeds keep at least 99.50% in each of the last 2 epochs.",
                "Final accuracy 91.50 ± 0.71 %, lowest of the last 2 epochs 91.00 ± 0.00 % (mean and standard deviation"
                " of 2 seeds).",
                "Of all seeds, 0% to 84% would keep it (95 % confidence, from 0 of 2).",
                "Mean final accuracy on all such images: 84.32% to 98.31% (95 % confidence, 2 seeds and 360 images);"
                " the target lies above that: the mean on new images does not reach it.",
            ],
        ),
    ],
    ids=["met", "met by some", "missed"],
)
def test_the_verdict_in_words(result, lines):
    assert result.lines() == lines


@given(results, accuracies, st.integers(10, 10**6))
def test_the_words_and_the_data_say_the_same(rows, target, num_images):
    result = result_of(rows, target=target, num_images=num_images)
    data = json.loads(json.dumps(result.to_json(), allow_nan=False))
    finals, lowest = np.array(result.finals), np.array(result.consistent)
    assert data["verdict"] == result.verdict
    assert (data["target"], data["num_seeds"], data["num_met"]) == (target, len(rows), result.num_met)
    assert data["final_accuracy_mean"] == pytest.approx(finals.mean())
    assert data["final_accuracy_sd"] == pytest.approx(finals.std(ddof=1), abs=1e-12)
    assert data["consistent_accuracy_mean"] == pytest.approx(lowest.mean())
    assert data["consistent_accuracy_sd"] == pytest.approx(lowest.std(ddof=1), abs=1e-12)
    assert tuple(data["share_of_seeds"]) == result.share_of_seeds()
    assert tuple(data["on_new_images"]) == result.on_new_images()
    assert (data["accuracies"], data["num_images"]) == (rows, num_images)
    first, second, _, last = result.lines()
    assert first.startswith(f"Target {result.verdict}: {result.num_met} of {len(rows)} seeds keep ")
    assert spread_text(result.finals) in second
    assert spread_text(result.consistent) in second
    low, high = result.on_new_images()
    assert (" below that: " in last, " within that: " in last, " above that: " in last) == (
        target < low,
        low <= target <= high,
        target > high,
    )


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_all_or_nothing_is_said_without_a_division_by_zero(level):
    result = result_of([[level]] * 3, target=0.5)
    assert result.verdict == ("met" if level else "missed")
    assert len(result.lines()) == 4
