"""Samplers: every drawn candidate keeps the limits and is new to the study."""

import math
from collections import Counter
from dataclasses import replace
from itertools import islice
from random import Random
from statistics import fmean

import optuna
import pytest
import torch
from optuna.trial import TrialState, create_trial
from support.studies import new_study, view_of

from nas.architecture.cost import cost_of
from nas.errors import NasError
from nas.sampling import feasible, samplers
from nas.sampling.candidate_view import CandidateView
from nas.sampling.feasible import FeasibleSampler, NoNewCandidateError
from nas.sampling.samplers import SAMPLERS
from nas.space.constraints import Constraint, limits
from nas.space.feasibility import judge
from nas.space.search_space import SearchSpace

LIMITS = {
    "loose": ("mnist", ["params<=30000"]),
    "the main job": ("mnist", ["params<=8000", "receptive_field>=28"]),
    "wide": ("mnist_wide", ["params<=8000", "receptive_field>=28"]),
    "colour": ("colour", ["params<=12000", "receptive_field>=32"]),
    "several": ("mnist", ["params<=8000", "receptive_field>=28", "macs<=200000", "peak_activation_bytes<=60000"]),
    "two sides": ("mnist", ["params<=5200", "params>=5000"]),
    "tight": ("mnist", ["params<=1500", "receptive_field>=28"]),
    "filled": ("grey", ["params<=8000", "receptive_field>=28"]),
    "filled, in colour": ("rgb", ["params<=20000", "macs<=2000000", "receptive_field>=32"]),
    "filled, tight": ("grey", ["params<=600", "receptive_field>=28"]),
    "very tight": ("mnist", ["params<=700", "receptive_field>=28"]),  # 1 of 10,000 random draws
}
MAIN = limits((1, 28, 28), max_params=8000)


@pytest.fixture(autouse=True)
def _quiet():
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(verbosity)


@pytest.fixture(scope="module")
def mnist():
    return SearchSpace.load("mnist")


def tiny(widths=(4, 6, 8)):
    """Returns a space with one candidate per width."""
    data = {"network": {"num_blocks": 1}, "block": {"num_convs": 1}, "conv": {"channels": list(widths)}}
    return SearchSpace.from_toml({"input_shape": [1, 8, 8], **data}, name="tiny")


def closeness(candidate):
    """Objective with its maximum of 0 at 5,000 parameters and a learning rate of 0.1."""
    params = abs(cost_of(candidate.architecture).params - 5000) / 5000
    return -params - abs(math.log10(candidate.recipe.learning_rate / 0.1))


def run(study, sampler, number, objective=closeness, *, seen=None, keep=0):
    """Draws `number` candidates, adds each to the study with its objective, and adds its fingerprint to `seen`."""
    seen = set() if seen is None else seen
    draws, view = [], view_of(study)
    for _ in range(number):
        drawn = sampler.draw(view, seen, max_discards=keep)
        result = objective(drawn.candidate)
        trial = create_trial(
            params=drawn.values,
            distributions=sampler.space.distributions(),
            values=list(result) if isinstance(result, tuple) else [result],
            user_attrs={"candidate": len(seen)},
        )
        study.add_trial(trial)
        seen.add(drawn.fingerprint)
        draws.append(drawn)
    return draws


def candidates(draws):
    return [drawn.candidate for drawn in draws]


def check(space, constraints, draws):
    """Checks that each draw is in the space, keeps the limits, has its own cost and fingerprint, and is unique."""
    for drawn in draws:
        cost = cost_of(drawn.candidate.architecture)
        assert [str(c) for c in constraints if c.violation(cost) > 0] == []
        assert drawn.values.keys() == space.domains.keys()
        assert [key for key, value in drawn.values.items() if not space.domains[key].accepts(value)] == []
        assert drawn.candidate == space.candidate(drawn.values)
        assert (drawn.cost, drawn.fingerprint) == (cost, drawn.candidate.fingerprint())
    assert len({drawn.fingerprint for drawn in draws}) == len(draws)


SMALL = {
    "network": {"num_blocks": {"low": 2, "high": 3}, "activation": ["relu", "silu"], "residual": [False, True]},
    "block": {"num_convs": {"low": 1, "high": 2}, "kernel_size": [3, 5], "dropout": {"low": 0.0, "high": 0.1}},
    "conv": {"channels": {"low": 4, "high": 16}},
    "recipe": {"sgd_learning_rate": {"low": 0.02, "high": 0.5, "log": True}},
}
WITHIN = (Constraint("params", "<=", 3000), Constraint("receptive_field", ">=", 12))


@pytest.fixture(scope="module")
def small():
    """A space of about 20 parameters: a Gaussian process takes 0.1 s for a draw, in `mnist` seconds."""
    return SearchSpace.from_toml({"input_shape": [1, 16, 16], **SMALL}, name="small")


# A Gaussian process takes seconds per candidate.
WITH_MARKS = [pytest.param(name, marks=pytest.mark.slow) if name == "gp" else name for name in SAMPLERS]


@pytest.fixture(params=WITH_MARKS)
def propose(request):
    return SAMPLERS[request.param]


class TestContract:
    """Contract of every sampler."""

    NUMBER = 10

    def sampler(self, space, propose, *, seed=3, max_lag=0):
        return FeasibleSampler(space, WITHIN, propose=propose, seed=seed, max_lag=max_lag, num_startup=5)

    def test_every_candidate_is_feasible_and_new(self, small, propose):
        check(small, WITHIN, run(new_study(), self.sampler(small, propose), self.NUMBER))

    def test_seed_determines_draws(self, small, propose):
        first, again, other = (
            run(new_study(), self.sampler(small, propose, seed=seed), self.NUMBER) for seed in (3, 3, 4)
        )
        assert first == again
        assert first != other

    @pytest.mark.parametrize("interrupted_after", [2, 8])
    def test_resumed_study_continues_as_uninterrupted(self, small, propose, interrupted_after):
        whole, study = run(new_study(), self.sampler(small, propose), self.NUMBER), new_study()
        before = run(study, self.sampler(small, propose), interrupted_after)
        seen = {drawn.fingerprint for drawn in before}
        after = run(study, self.sampler(small, propose), self.NUMBER - interrupted_after, seen=seen)
        assert before + after == whole

    def test_draw_ignores_results_of_unneeded_candidates(self, small, propose):
        def last(objective):
            return run(new_study(), self.sampler(small, propose, max_lag=4), self.NUMBER, objective)[-1]

        counted = iter(range(100))
        needed = self.sampler(small, propose, max_lag=4).num_results_needed(self.NUMBER - 1)

        def changed(candidate):
            return closeness(candidate) + (next(counted) >= needed)

        assert last(closeness) == last(changed)

    def test_draws_for_two_objectives_are_feasible_and_new(self, small, propose):
        study = optuna.create_study(directions=["maximize", "minimize"])

        def both(candidate):
            return closeness(candidate), cost_of(candidate.architecture).params

        check(small, WITHIN, run(study, self.sampler(small, propose), 9, both))

    def test_draws_after_pruned_candidate_are_feasible_and_new(self, small, propose):
        study, sampler, seen = new_study(), self.sampler(small, propose), set()
        run(study, sampler, 6, seen=seen)
        drawn = sampler.draw(view_of(study), seen)
        stopped = create_trial(
            state=TrialState.PRUNED,
            params=drawn.values,
            distributions=small.distributions(),
            intermediate_values={1: 0.5},
            user_attrs={"candidate": len(seen)},
        )
        study.add_trial(stopped)
        seen.add(drawn.fingerprint)
        check(small, WITHIN, [drawn, *run(study, sampler, 2, seen=seen)])

    def test_discarded_and_failed_trials_do_not_change_draws(self, small, propose):
        plain = run(new_study(), self.sampler(small, propose), self.NUMBER)
        study, sampler, seen, draws = new_study(), self.sampler(small, propose), set(), []
        for number in range(self.NUMBER):
            study.add_trial(create_trial(state=(TrialState.PRUNED, TrialState.FAIL)[number % 2]))
            draws += run(study, sampler, 1, seen=seen)
        assert draws == plain


@pytest.mark.parametrize(
    ("max_lag", "needed"),
    [(0, [0, 0, 9, 10, 18, 90]), (2, [0, 0, 9, 9, 16, 88]), (30, [0, 0, 9, 9, 9, 60]), (300, [0, 0, 9, 9, 9, 45])],
)
def test_draws_need_startup_and_at_least_half_of_earlier_candidates(small, max_lag, needed):
    sampler = FeasibleSampler(small, WITHIN, seed=0, max_lag=max_lag, num_startup=9)
    assert [sampler.num_results_needed(index) for index in (0, 8, 9, 10, 18, 90)] == needed


def test_random_draws_need_no_results(small):
    sampler = FeasibleSampler(small, WITHIN, propose=SAMPLERS["random"], seed=0, max_lag=2, num_startup=2)
    assert [sampler.num_results_needed(index) for index in (0, 2, 90)] == [0, 0, 0]


@pytest.mark.parametrize("name", [name for name in WITH_MARKS if name != "random"])
def test_every_other_sampler_beats_random(small, name):
    def rate(candidate):
        return -abs(math.log10(candidate.recipe.learning_rate / 0.1))

    number = 24 if name == "gp" else 80  # a Gaussian process learns fastest, but each draw is slow

    def late(proposed, seed):
        sampler = FeasibleSampler(small, WITHIN, propose=SAMPLERS[proposed], seed=seed, num_startup=10)
        return fmean(map(rate, candidates(run(new_study(), sampler, number, rate)[number // 2 :])))

    assert fmean(late(name, seed) for seed in range(2)) > fmean(late("random", seed) for seed in range(2))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "very tight" else name for name in LIMITS]
)
def test_candidates_are_feasible_new_and_in_space(name):
    space_name, texts = LIMITS[name]
    space, constraints = SearchSpace.load(space_name), [Constraint.parse(text) for text in texts]
    seen = set()
    draws = run(new_study(), FeasibleSampler(space, constraints, seed=1, num_startup=8), 24, seen=seen)
    check(space, constraints, draws)
    assert seen == {drawn.fingerprint for drawn in draws}


def test_sampling_builds_no_modules(mnist, monkeypatch):
    def built(self, *args, **kwargs):
        raise AssertionError(f"{type(self).__name__} built")

    monkeypatch.setattr(torch.nn.Module, "__init__", built)
    draws = run(new_study(), FeasibleSampler(mnist, MAIN, seed=0, num_startup=6), 12)
    assert sum(drawn.num_draws - 1 for drawn in draws) > 10
    with pytest.raises(AssertionError, match=r"^Conv2d built$"):  # the patch detects building
        draws[0].candidate.architecture.build()


def test_seen_candidates_are_not_drawn_again(mnist):
    first, *_ = run(new_study(), FeasibleSampler(mnist, MAIN, seed=0), 1)
    seen = {first.fingerprint, "another"}
    others = run(new_study(), FeasibleSampler(mnist, MAIN, seed=0), 5, seen=seen)
    assert first.candidate not in candidates(others)
    trained = tiny().candidate({"block1.conv1.channels": 4})
    draws = run(new_study(), FeasibleSampler(tiny(), (), seed=0), 2, seen={trained.fingerprint()})
    assert sorted(drawn.values["block1.conv1.channels"] for drawn in draws) == [6, 8]
    assert {reason for drawn in draws for reason in drawn.discard_counts} <= {"duplicate"}


def test_every_discard_is_counted_once(mnist):
    constraints = limits((1, 28, 28), max_params=2000)
    draws = run(new_study(), FeasibleSampler(mnist, constraints, seed=0, num_startup=6), 12)
    assert all(drawn.discards == () for drawn in draws)  # `keep` is 0
    assert all(drawn.num_draws == sum(drawn.discard_counts.values()) + 1 for drawn in draws)
    counts = sum((Counter(drawn.discard_counts) for drawn in draws), Counter())
    assert counts.keys() == {"params", "receptive_field", "impossible_shape"}


def test_first_discards_are_returned_with_values_and_judgement(mnist):
    constraints = limits((1, 28, 28), max_params=2000)
    (drawn,) = run(new_study(), FeasibleSampler(mnist, constraints, seed=0), 1, keep=25)
    assert len(drawn.discards) == min(25, drawn.num_draws - 1) > 0
    for values, judgement in drawn.discards:
        assert judgement == judge(mnist, constraints, values)
        assert judgement.reason in {"params", "receptive_field", "impossible_shape"}
        assert judgement.violation > 0
    # The seed alone determines the first draws, so the discards are among them.
    rng = Random("0 0")
    first = [mnist.draw(rng) for _ in range(40)]
    assert all(values in first for values, _ in drawn.discards)


def test_all_discards_below_keep_limit_are_returned(mnist):
    sampler = FeasibleSampler(mnist, limits((1, 28, 28), max_params=30_000), seed=0)
    draws = run(new_study(), sampler, 5, keep=10_000)
    for drawn in draws:
        assert Counter(discard.judgement.reason for discard in drawn.discards) == drawn.discard_counts
    assert any(drawn.discard_counts for drawn in draws)


@pytest.mark.parametrize("num_startup", [1, 20])
def test_tiny_space_is_drawn_completely_then_raises(monkeypatch, num_startup):
    monkeypatch.setattr(feasible, "MAX_TRIES", 3_000)
    monkeypatch.setattr(samplers, "NUM_RANDOM", 1_000)
    sampler, study, seen = FeasibleSampler(tiny(), (), seed=0, num_startup=num_startup), new_study(), set()
    draws = run(study, sampler, 3, seen=seen)
    assert sorted(drawn.values["block1.conv1.channels"] for drawn in draws) == [4, 6, 8]
    with pytest.raises(NoNewCandidateError) as caught:
        sampler.draw(view_of(study), seen)
    num_draws = 3_000 if num_startup == 20 else 3_004  # 4 proposals of TPE, then thousands of changes
    assert str(caught.value) == f"none of {num_draws:,} further draws is feasible and new"
    assert isinstance(caught.value, NasError)


def test_tiny_space_yields_only_feasible_candidates_then_raises(monkeypatch):
    monkeypatch.setattr(feasible, "MAX_TRIES", 1_000)
    sampler = FeasibleSampler(tiny(range(4, 24)), (Constraint("params", "<=", 200),), seed=0, num_startup=3)
    study, seen = new_study(), set()
    widths = [drawn.values["block1.conv1.channels"] for drawn in run(study, sampler, 6, seen=seen)]
    assert sorted(widths) == [4, 5, 6, 7, 8, 9]  # 9 w + 2 w + 10 w parameters
    with pytest.raises(NoNewCandidateError):
        run(study, sampler, 1, seen=seen)


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "max_params"), [(0, 8000), (1, 2500)])
def test_sampler_learns_good_learning_rates(mnist, seed, max_params):
    constraints = limits((1, 28, 28), max_params=max_params)

    def rate(candidate):
        return -abs(math.log(candidate.recipe.learning_rate / 0.1))

    study = new_study()
    run(study, FeasibleSampler(mnist, constraints, seed=seed), 80, rate)
    values = [trial.value for trial in study.trials]
    startup, late = sum(values[:20]) / 20, sum(values[40:]) / 40
    assert late > startup / 2  # random draws: -1.4 to -2.1; these: -0.4


@pytest.mark.slow
def test_sampler_improves_objective_over_startup(mnist):
    study = new_study()
    run(study, FeasibleSampler(mnist, MAIN, seed=0), 80)
    values = [trial.value for trial in study.trials]
    assert sum(values[40:]) / 40 > 0.7 * sum(values[:20]) / 20


def test_first_candidate_is_largest_of_four_feasible_draws(mnist):
    (chosen,) = run(new_study(), FeasibleSampler(mnist, MAIN, seed=0, num_choices=4), 1, keep=10_000)
    smaller = [discard for discard in chosen.discards if discard.judgement.reason == "smaller"]
    assert chosen.discard_counts["smaller"] == len(smaller) == 3
    assert chosen.cost.params >= max(discard.judgement.cost.params for discard in smaller)
    assert all(judge(mnist, MAIN, discard.values).reason == "" for discard in smaller)
    # The four are the first four feasible draws of this seed.
    rng, drawn = Random("0 0"), []
    while len(drawn) < 4:
        values = mnist.draw(rng)
        if not judge(mnist, MAIN, values).reason:
            drawn.append(mnist.candidate(values))
    assert chosen.candidate in drawn
    (one,) = run(new_study(), FeasibleSampler(mnist, MAIN, seed=0), 1)
    assert one.candidate == drawn[0]


def test_tiny_space_yields_largest_candidates_first():
    draws = run(new_study(), FeasibleSampler(tiny(), (), seed=0, num_choices=4), 3)
    assert [drawn.values["block1.conv1.channels"] for drawn in draws] == [8, 6, 4]


def test_view_stops_at_missing_trial_number(small):
    """A trial may be visible before an earlier one that another process created."""
    done = [
        create_trial(params=values, distributions=small.distributions(), value=0.5, user_attrs={"candidate": index})
        for index, values in enumerate(small.draw(Random(seed)) for seed in range(3))
    ]
    trials = {}
    view = CandidateView(lambda: trials, [optuna.study.StudyDirection.MAXIMIZE])
    for number in (0, 2):
        trials[number] = done[number]
        trials[number].number = number
    assert len(view.study_before(3).get_trials()) == 1
    trials[1] = done[1]
    assert [trial.number for trial in view.study_before(3).get_trials()] == [0, 1, 2]


@pytest.mark.parametrize("name", ["elite", "tpe", "nsga2", "random"])
def test_candidates_of_space_with_joint_widths_fill_limits(name):
    grey = SearchSpace.load("grey")
    draws = run(new_study(), FeasibleSampler(grey, MAIN, propose=SAMPLERS[name], seed=0, num_startup=6), 12)
    check(grey, MAIN, draws)
    assert min(drawn.cost.params for drawn in draws) > 6000
    assert fmean(drawn.cost.params for drawn in draws) > 7400


def test_candidates_for_pareto_front_spread_over_sizes():
    grey = SearchSpace.load("grey")
    draws = run(new_study(), FeasibleSampler(grey, MAIN, seed=0, num_startup=40, min_share=0.05), 40)
    check(grey, MAIN, draws)
    sizes = sorted(drawn.cost.params for drawn in draws)
    assert 300 < sizes[0] < 800
    assert 1200 < sizes[20] < 3000, "the middle of the logarithm lies at 1,800"
    assert sizes[-1] > 6000


class TestElite:
    """The elite sampler: small changes of the best trials."""

    def study(self, space, number=12):
        study = new_study()
        run(study, FeasibleSampler(space, WITHIN, seed=0, num_startup=number), number)
        return study

    def proposals(self, space, study, number=100):
        proposals = islice(samplers.elite(space, view_of(study).study_before(100), Random(0)), number)
        return [proposal.values for proposal in proposals]

    def test_proposals_change_one_or_two_parameters_of_best_trials(self, small):
        study = self.study(small)
        best = sorted(study.trials, key=lambda trial: -trial.value)[: samplers.NUM_ELITE]
        num_changed = []
        for values in self.proposals(small, study):
            differences = [{name for name in values if values[name] != trial.params[name]} for trial in best]
            num_changed.append(min(map(len, differences)))
        # One or two parameters, or all widths of one block, at most two.
        assert set(num_changed) == {1, 2}

    def test_probes_of_best_three_networks_come_first_and_once(self, small):
        study = self.study(small)
        name = next(name for name in small.domains if name.startswith("recipe."))
        low, high = small.domains[name].grid()[0], small.domains[name].grid()[-1]
        probed = replace(small, probes=({name: low}, {name: high}))

        def add(params, value):
            study.add_trial(create_trial(params=params, distributions=small.distributions(), value=value))

        def first(number):
            return [proposal.values for proposal in islice(samplers.elite(probed, study, Random(0)), number)]

        best, second, third, *_ = sorted(study.trials, key=lambda trial: -trial.value)
        add({**best.params, name: low}, second.value + 1e-6)  # probe of the best network
        add({**best.params, name: high}, third.value + 1e-6)
        had = [trial.params for trial in study.trials]
        expected = [{**trial.params, name: value} for trial in (best, second, third) for value in (low, high)]
        expected = [values for values in expected if values not in had]
        assert len(expected) in (2, 3, 4)
        while expected:
            assert first(len(expected)) == expected
            add(expected.pop(0), -9.0)
        assert first(1) == [next(samplers.elite(small, study, Random(0))).values]

    def test_probes_change_only_recipe_and_are_not_repeated(self):
        grey = SearchSpace.load("grey")
        draws = run(new_study(), FeasibleSampler(grey, MAIN, propose=samplers.elite, seed=0, num_startup=6), 16)
        networks = [drawn.candidate.architecture for drawn in draws]
        probed = [index for index in range(6, 16) if networks[index] in networks[:6]]
        assert probed[:4] == [6, 7, 8, 9]
        assert len(probed) < 10
        assert sum(drawn.discard_counts["duplicate"] for drawn in draws) == 0

    def test_proposals_for_pareto_front_continue_after_probes(self):
        grey = SearchSpace.load("grey")

        def accuracy_and_params(candidate):
            return closeness(candidate), cost_of(candidate.architecture).params

        study = optuna.create_study(directions=["maximize", "minimize"])
        sampler = FeasibleSampler(grey, MAIN, propose=samplers.elite, seed=0, num_startup=6, min_share=0.05)
        draws = run(study, sampler, 18, accuracy_and_params)
        networks = [drawn.candidate.architecture for drawn in draws]
        assert networks[6] in networks[:6]
        assert len(set(networks)) > 8

    def test_no_proposal_repeats_trained_candidate(self, small):
        study = self.study(small)
        had = {small.candidate(trial.params) for trial in study.trials}
        assert [values for values in self.proposals(small, study) if small.candidate(values) in had] == []

    def test_proposals_change_recipes_and_networks(self, small):
        study = self.study(small)
        recipes = {small.recipe(trial.params) for trial in study.trials}
        changed = [small.recipe(values) not in recipes for values in self.proposals(small, study, 100)]
        assert 10 < sum(changed) < 40

    def test_parents_for_two_objectives_are_pareto_front(self, small):
        study = optuna.create_study(directions=["maximize", "minimize"])
        run(
            study,
            FeasibleSampler(small, WITHIN, seed=0, num_startup=12),
            12,
            lambda candidate: (closeness(candidate), cost_of(candidate.architecture).params),
        )
        fronts = {trial.number for trial in study.best_trials}
        parents = {trial.number for trial in samplers._ranked(study)}
        assert parents == fronts
