"""How many candidates and further runs a budget admits."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.effort import examples

from nas.study.budget import Budget
from nas.study.progress import Tally


def tally(spent, seconds=0.0, further=0):
    return Tally(num_trained=int(spent), num_pruned=0, spent=spent, spent_seconds=seconds, num_further=further)


def simulated(admits, seconds_each=7.0):
    """Returns how many trainings of `seconds_each` begin, one after another."""
    num = 0
    while admits(tally(num, num * seconds_each)):
        num += 1
    return num


def test_trial_budget_counts_spent_and_running_trainings():
    budget = Budget(trials=3)
    assert [budget.admits(tally(spent)) for spent in (0, 2, 2.5, 3)] == [True, True, False, False]
    assert budget.admits(tally(1), running=1)
    assert not budget.admits(tally(1), running=2)
    assert budget.admits(tally(1 / 3 + 1 / 3 + 1 / 3 + 1)), "thirds add up"


@given(st.floats(0.1, 30), st.integers(1, 8), st.floats(1, 100))
@settings(max_examples=examples(100))
def test_time_budget_admits_first_training_and_ends_in_time(minutes, workers, each):
    """The available time is `minutes` times `workers`; the trainings run one after another."""
    budget = Budget(minutes=minutes, workers=workers)
    num = simulated(budget.admits, each)
    assert num >= 1, "there is always a first one"
    if num > 1:
        assert num * each <= 60 * minutes * workers * (1 + 1e-6)
    assert (num + 1) * each > 60 * minutes * workers * (1 - 1e-6)


def test_tighter_of_trials_and_minutes_limits_budget():
    assert simulated(Budget(trials=3, minutes=100).admits) == 3
    assert simulated(Budget(trials=100, minutes=1).admits) == 60 // 7


def test_time_budget_is_unlimited_before_first_training_ends():
    budget = Budget(minutes=1, workers=3)
    assert all(budget.admits(tally(0), running=running) for running in range(16))
    assert all(budget.admits_candidate(tally(0), running=running) for running in range(16))
    assert Budget(minutes=1, trials=2).admits(tally(0), running=1)
    assert not Budget(minutes=1, trials=2).admits(tally(0), running=2)


def test_trainings_of_zero_seconds_exhaust_time_budget():
    assert Budget(minutes=1).admits(tally(5, seconds=0.0))
    assert not Budget(minutes=1).admits(tally(600, seconds=0.0))


@pytest.mark.parametrize(
    ("trials", "finalists", "runs"),
    [(5, 0, 0), (19, 0, 0), (20, 2, 4), (30, 3, 6), (50, 5, 10), (60, 5, 12), (99, 5, 18), (1000, 5, 200)],
)
def test_finals_get_at_most_a_fifth_of_trials_and_use_up_budget(trials, finalists, runs):
    budget = Budget(trials=trials)
    candidates = simulated(budget.admits_candidate)
    assert budget.finalist_counts(tally(candidates)) == (finalists, runs)
    assert candidates + runs == trials


def test_unknown_or_spent_budget_allows_no_finals():
    assert Budget(minutes=1).finalist_counts(tally(0)) == (0, 0)
    assert Budget(minutes=1).finalist_counts(tally(16, 960.0)) == (0, 0)
    assert Budget(trials=20).finalist_counts(tally(20)) == (0, 0)
    assert Budget(trials=20).finalist_counts(tally(20, further=4)) == (0, 0)


def test_finals_get_a_fifth_of_time_budget():
    budget = Budget(minutes=10)
    candidates = simulated(budget.admits_candidate, 10.0)
    assert candidates == 48
    assert budget.finalist_counts(tally(candidates, 480.0)) == (5, 12)


@given(st.floats(0.5, 30), st.floats(5, 60))
@settings(max_examples=examples(100))
def test_candidates_and_finals_leave_less_than_two_trainings(minutes, each):
    budget = Budget(minutes=minutes)
    candidates = simulated(budget.admits_candidate, each)
    _, runs = budget.finalist_counts(tally(candidates, candidates * each))
    spent = candidates + runs
    assert candidates >= 1
    assert spent == 1 or spent * each <= 60 * minutes * (1 + 1e-6)
    assert (spent + 2) * each > 60 * minutes * (1 - 1e-6)


def test_resumed_study_reserves_only_missing_further_runs():
    def most(trials):
        return next(n for n in range(20, 99) if not Budget(trials=trials).admits_candidate(tally(n, further=4)))

    assert most(40) == 40 - (8 - 4)
    assert most(24) == 24
    assert not Budget(trials=20).admits_candidate(tally(20, further=10)), "what finalists had too much is spent"


def test_resumed_finals_are_limited_to_remaining_budget():
    assert Budget(trials=30).finalist_counts(tally(28, further=4)) == (3, 6)
    assert Budget(trials=30).finalist_counts(tally(29, further=4)) == (2, 5)
    assert Budget(trials=30).finalist_counts(tally(29.5, further=4)) == (2, 4)


def test_share_is_larger_of_trial_and_time_shares():
    budget = Budget(trials=4, minutes=10)
    assert budget.spent_share(tally(1, 60.0)) == 0.25
    assert budget.spent_share(tally(1, 300.0)) == 0.5
    assert budget.spent_share(tally(3, 60.0)) == 0.75
    assert Budget(minutes=10, workers=2).spent_share(tally(1, 300.0)) == 0.25
    assert Budget(trials=4).spent_share(tally(1, 300.0)) == 0.25
    assert budget.spent_share(tally(5, 60.0)) == budget.spent_share(tally(1, 601.0)) == 1.0
