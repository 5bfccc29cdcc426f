"""Confidence intervals over seeds and over new images, compared with scipy and with simulations."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from support.seed_results import NUM_SEEDS, REPETITIONS, result_of, results


@pytest.mark.parametrize("seeds", range(2, 13))
def test_share_of_seeds_equals_beta_quantiles(seeds):
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
def test_share_of_seeds_covers_at_least_95_percent(share):
    """The Clopper-Pearson interval is exact: its coverage is at least 95 %."""
    for seeds in (2, 5, 10):
        covered = 0.0
        for met in range(seeds + 1):
            low, high = result_of([[0.95]] * met + [[0.85]] * (seeds - met)).share_of_seeds()
            covered += stats.binom.pmf(met, seeds, share) * (low <= share <= high)
        assert covered >= 0.95


@given(st.lists(st.integers(400, 600), min_size=2, max_size=8, unique=True))
def test_interval_with_unlimited_images_equals_student_t(steps):
    finals = [step / 1000 for step in steps]
    student = stats.ttest_1samp(finals, 0).confidence_interval(0.95)
    low, high = result_of([[x] for x in finals], num_images=10**15).on_new_images()
    assert low == pytest.approx(max(0, student.low), abs=1e-6)
    assert high == pytest.approx(min(1, student.high), abs=1e-6)


@given(st.integers(0, 1000), st.integers(2, 8), st.integers(1, 1000))
def test_interval_without_seed_spread_equals_wilson(step, seeds, thousands):
    num_images = 1000 * thousands
    found = result_of([[step / 1000]] * seeds, num_images=num_images).on_new_images()
    wilson = stats.binomtest(step * thousands, num_images).proportion_ci(0.95, method="wilson")
    assert found == pytest.approx((wilson.low, wilson.high), abs=1e-9)


@given(st.lists(st.integers(480, 520), min_size=2, max_size=8), st.integers(50, 10**6))
def test_more_images_never_widen_interval(steps, num_images):
    rows = [[step / 1000] for step in steps]
    low, high = result_of(rows, num_images=num_images).on_new_images()
    lower, higher = result_of(rows, num_images=2 * num_images).on_new_images()
    assert low - 1e-12 <= lower <= higher <= high + 1e-12


@given(results, st.integers(10, 10**6))
def test_interval_contains_mean_and_stays_within_0_and_1(rows, num_images):
    low, high = result_of(rows, num_images=num_images).on_new_images()
    assert 0 <= low <= np.mean([row[-1] for row in rows]) + 1e-12
    assert np.mean([row[-1] for row in rows]) - 1e-12 <= high <= 1


def simulated(seeds, mean, sd, num_images, rng):
    """Returns the test accuracies of each repetition's seeds; all seeds of a repetition use the same images.

    Each image is equally hard for all networks. This gives the accuracy on a sample of images its largest variance.
    """
    true = np.sort(rng.normal(mean, sd, (REPETITIONS, seeds)).clip(0, 1), axis=1)
    parts = np.diff(true, axis=1, prepend=0, append=1)
    return rng.multinomial(num_images, parts).cumsum(axis=1)[:, :-1] / num_images


def coverage(seeds, ratio):
    """Returns the coverage; `ratio` is the standard deviation between seeds divided by that of the image sample."""
    mean, num_images = 0.9, 10_000
    sd = ratio * math.sqrt(mean * (1 - mean) / num_images)
    covered = 0
    for finals in simulated(seeds, mean, sd, num_images, np.random.default_rng(seeds)).tolist():
        low, high = result_of([[x] for x in finals], num_images=num_images).on_new_images()
        covered += low <= mean <= high
    return covered / REPETITIONS


@pytest.mark.parametrize("seeds", [5, 10])
@pytest.mark.parametrize("ratio", [0.1, 1, 3, 10])
def test_interval_covers_about_95_percent(seeds, ratio):
    assert 0.94 < coverage(seeds, ratio) < 0.985


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [2, 3])
@pytest.mark.parametrize("ratio", [0.1, 1, 5])
def test_interval_covers_over_94_percent_with_few_seeds(seeds, ratio):
    assert coverage(seeds, ratio) > 0.94


@pytest.mark.slow
@pytest.mark.parametrize("seeds", NUM_SEEDS)
def test_interval_covers_with_independent_errors_across_networks(seeds):
    rng = np.random.default_rng(seeds)
    mean, num_images = 0.99, 10_000
    true = rng.normal(mean, 0.001, (REPETITIONS, seeds)).clip(0, 1)
    covered = 0
    for finals in (rng.binomial(num_images, true) / num_images).tolist():
        low, high = result_of([[x] for x in finals], num_images=num_images).on_new_images()
        covered += low <= mean <= high
    assert covered / REPETITIONS > 0.945


@pytest.mark.parametrize("mean", [0.994, 0.999])
def test_interval_covers_over_94_percent_with_few_images(mean):
    rng = np.random.default_rng(0)
    covered = 0
    for finals in simulated(5, mean, 0.0005, 360, rng).tolist():
        low, high = result_of([[x] for x in finals], num_images=360).on_new_images()
        covered += low <= mean <= high
    assert covered / REPETITIONS > 0.94
