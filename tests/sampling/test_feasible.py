import math
from collections import Counter
from random import Random
from statistics import fmean

import optuna
import pytest
import torch
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.testing.pytest_samplers import BasicSamplerTestCase, RelativeSamplerTestCase
from optuna.trial import TrialState

from nas.architecture.cost import Cost, cost_of
from nas.errors import NasError
from nas.sampling import feasible as samplers
from nas.sampling import samplers as proposals
from nas.sampling.feasible import FeasibleSampler, NothingNewError
from nas.sampling.samplers import SAMPLERS
from nas.space.constraints import Constraint, limits
from nas.space.domains import Choice, FloatRange, IntRange
from nas.space.feasibility import Verdict, judge
from nas.space.search_space import SearchSpace

LIMITS = {
    "loose": ("mnist", ["params<=30000"]),
    "the main job": ("mnist", ["params<=8000", "receptive_field>=28"]),
    "wide": ("mnist_wide", ["params<=8000", "receptive_field>=28"]),
    "colour": ("colour", ["params<=12000", "receptive_field>=32"]),
    "several": ("mnist", ["params<=8000", "receptive_field>=28", "macs<=200000", "peak_activation_bytes<=60000"]),
    "two sides": ("mnist", ["params<=5200", "params>=5000"]),
    "tight": ("mnist", ["params<=1500", "receptive_field>=28"]),
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
    """A space of as many candidates as widths."""
    data = {"network": {"num_blocks": 1}, "block": {"num_convs": 1}, "conv": {"channels": list(widths)}}
    return SearchSpace.from_toml({"input_shape": [1, 8, 8], **data}, name="tiny")


def closeness(candidate):
    """0 at 5,000 parameters and a learning rate of 0.1, below elsewhere."""
    params = abs(cost_of(candidate.architecture).params - 5000) / 5000
    return -params - abs(math.log10(candidate.recipe.learning_rate / 0.1))


def run(study, sampler, number, objective=closeness):
    """The next candidates of a study, each with its trial's values, all told."""
    study.sampler = sampler
    given = []
    for _ in range(number):
        trial = study.ask()
        candidate = sampler.space.suggest(trial)
        trial.set_user_attr("candidate", len(sampler.seen) - 1)
        given.append((candidate, trial.params))
        study.tell(trial, objective(candidate))
    return given


def new_study():
    return optuna.create_study(direction="maximize")


SMALL = {
    "network": {"num_blocks": {"low": 2, "high": 3}, "activation": ["relu", "silu"], "residual": [False, True]},
    "block": {"num_convs": {"low": 1, "high": 2}, "kernel_size": [3, 5], "dropout": {"low": 0.0, "high": 0.1}},
    "conv": {"channels": {"low": 4, "high": 16}},
    "recipe": {"sgd_learning_rate": {"low": 0.02, "high": 0.5, "log": True}},
}
WITHIN = (Constraint("params", "<=", 3000), Constraint("receptive_field", ">=", 12))


@pytest.fixture(scope="module")
def small():
    """Of some 20 parameters: a Gaussian process over them takes a tenth of a second, over mnist's seconds."""
    return SearchSpace.from_toml({"input_shape": [1, 16, 16], **SMALL}, name="small")


@pytest.fixture(params=SAMPLERS)
def propose(request):
    return SAMPLERS[request.param]


class TestContract:
    """What every sampler has to keep."""

    NUMBER = 10

    def sampler(self, space, propose, *, seed=3, seen=None, lag=0):
        return FeasibleSampler(space, WITHIN, propose=propose, seed=seed, seen=seen, lag=lag, num_startup=5)

    def test_every_candidate_is_feasible_and_new(self, small, propose):
        sampler = self.sampler(small, propose)
        given = run(new_study(), sampler, self.NUMBER)
        for candidate, params in given:
            assert [str(c) for c in WITHIN if c.violation(cost_of(candidate.architecture)) > 0] == []
            assert params.keys() == small.domains.keys()
            assert [key for key, value in params.items() if not small.domains[key].holds(value)] == []
            assert candidate == small.candidate(params)
        assert len({candidate.fingerprint() for candidate, _ in given}) == self.NUMBER

    def test_the_seed_decides_everything(self, small, propose):
        first, again, other = (
            run(new_study(), self.sampler(small, propose, seed=seed), self.NUMBER) for seed in (3, 3, 4)
        )
        assert first == again
        assert first != other

    @pytest.mark.parametrize("interrupted_after", [2, 8])
    def test_a_resumed_study_goes_on_as_if_never_stopped(self, small, propose, interrupted_after):
        whole, study = run(new_study(), self.sampler(small, propose), self.NUMBER), new_study()
        before = run(study, self.sampler(small, propose), interrupted_after)
        seen = {candidate.fingerprint() for candidate, _ in before}
        after = run(study, self.sampler(small, propose, seen=seen), self.NUMBER - interrupted_after)
        assert before + after == whole

    def test_results_later_than_the_lag_change_nothing(self, small, propose):
        def given(objective):
            return run(new_study(), self.sampler(small, propose, lag=4), self.NUMBER, objective)[-1]

        counted = iter(range(100))

        def changed(candidate):
            return closeness(candidate) + (next(counted) >= 5)  # the last one, of index 9, is drawn from those below 5

        assert given(closeness) == given(changed)

    def test_two_objectives(self, small, propose):
        study = optuna.create_study(directions=["maximize", "minimize"])

        def both(candidate):
            return closeness(candidate), cost_of(candidate.architecture).params

        given = run(study, self.sampler(small, propose), 9, both)
        assert len({candidate.fingerprint() for candidate, _ in given}) == 9

    def test_pruned_trials_are_learned_from_or_ignored(self, small, propose):
        study, sampler = new_study(), self.sampler(small, propose)
        run(study, sampler, 6)
        trial = study.ask()
        small.suggest(trial)
        trial.report(0.5, 1)
        study.tell(trial, state=TrialState.PRUNED)
        given = run(study, sampler, 2)
        assert len({candidate.fingerprint() for candidate, _ in given}) == 2


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "random"])
def test_every_sampler_but_random_finds_better_candidates_than_chance(small, name):
    def rate(candidate):
        return -abs(math.log10(candidate.recipe.learning_rate / 0.1))

    number = 24 if name == "gp" else 80  # a Gaussian process is the quickest to learn, and the slowest to ask

    def late(proposed, seed):
        sampler = FeasibleSampler(small, WITHIN, propose=SAMPLERS[proposed], seed=seed, num_startup=10)
        return fmean(rate(candidate) for candidate, _ in run(new_study(), sampler, number, rate)[number // 2 :])

    assert fmean(late(name, seed) for seed in range(2)) > fmean(late("random", seed) for seed in range(2))


NO_COST = Cost(params=0, macs=0, receptive_field=0, peak_activation_bytes=0, weight_bytes=0)


class OnAnySpace(BaseSampler):
    """A sampler of ours on whatever parameters a study has, with a limit that admits everything.

    Ours is bound to a search space and draws all of its parameters for a trial; the studies of Optuna's suite have
    parameters of their own, so each call here gets a sampler for the space it names. What is in no space yet (the
    first trial's parameters, conditional ones) is drawn independently, as Optuna's own relative samplers do.
    """

    class Anything(SearchSpace):
        def candidate(self, values):
            return values

    class Admitting(FeasibleSampler):
        def _judge(self, values):
            self.num_draws += 1
            return Verdict(None, NO_COST, "", 0.0)

        def _fingerprint(self, values, verdict):
            return repr(values)

    def __init__(self, propose):
        self.propose = propose
        self.independent = RandomSampler(seed=0)
        self.spaces = IntersectionSearchSpace()

    def infer_relative_search_space(self, study, trial):
        return {k: v for k, v in self.spaces.calculate(study).items() if not v.single()}

    def sample_relative(self, study, trial, search_space):
        if not search_space:
            return {}
        space = self.Anything(
            name="any",
            input_shape=(1, 8, 8),
            num_classes=2,
            domains={name: self.domain(distribution) for name, distribution in search_space.items()},
            fixed={},
        )
        sampler = self.Admitting(space, (), propose=self.propose, seed=trial.number, seen=set(map(str, range(1000))))
        sampler.num_startup = 1
        return sampler.sample_relative(study, trial, search_space)

    def sample_independent(self, study, trial, param_name, param_distribution):
        return self.independent.sample_independent(study, trial, param_name, param_distribution)

    @staticmethod
    def domain(distribution):
        if isinstance(distribution, CategoricalDistribution):
            return Choice(distribution.choices)
        if isinstance(distribution, IntDistribution):
            return IntRange(distribution.low, distribution.high, distribution.step, distribution.log)
        return FloatRange(distribution.low, distribution.high, distribution.step, distribution.log)


class TestOptunasOwnSuite(BasicSamplerTestCase, RelativeSamplerTestCase):
    """What Optuna asks of every sampler that draws parameters together."""

    @pytest.fixture
    def sampler(self, propose):
        return lambda: OnAnySpace(propose)


@pytest.mark.parametrize("name", LIMITS)
def test_every_candidate_is_feasible_new_and_of_the_space(name):
    space_name, texts = LIMITS[name]
    space, constraints = SearchSpace.load(space_name), [Constraint.parse(text) for text in texts]
    sampler = FeasibleSampler(space, constraints, seed=1, num_startup=8)
    given = run(new_study(), sampler, 24)
    for candidate, params in given:
        cost = cost_of(candidate.architecture)
        assert [str(c) for c in constraints if c.violation(cost) > 0] == []
        assert params.keys() == space.domains.keys()
        assert [key for key, value in params.items() if not space.domains[key].holds(value)] == []
        assert candidate == space.candidate(params)
    fingerprints = {candidate.fingerprint() for candidate, _ in given}
    assert len(fingerprints) == 24
    assert sampler.seen == fingerprints


def test_nothing_is_built_while_sampling(mnist, monkeypatch):
    def built(self, *args, **kwargs):
        raise AssertionError(f"{type(self).__name__} built")

    monkeypatch.setattr(torch.nn.Module, "__init__", built)
    sampler = FeasibleSampler(mnist, MAIN, seed=0, num_startup=6)
    given = run(new_study(), sampler, 12)
    assert sampler.counts.total() > 10
    with pytest.raises(AssertionError, match=r"^Conv2d built$"):  # the spy sees what is built
        given[0][0].architecture.build()


def test_the_seed_decides_everything(mnist):
    def given(seed):
        return run(new_study(), FeasibleSampler(mnist, MAIN, seed=seed, num_startup=8), 16)

    assert given(5) == given(5)
    assert not {c.fingerprint() for c, _ in given(5)} & {c.fingerprint() for c, _ in given(6)}


@pytest.mark.parametrize("interrupted_after", [1, 5, 8, 13])
def test_a_resumed_study_goes_on_as_if_never_stopped(mnist, interrupted_after):
    def sampler(seen=None):
        return FeasibleSampler(mnist, MAIN, seed=2, num_startup=8, seen=seen)

    whole = run(new_study(), sampler(), 18)
    study = new_study()
    before = run(study, sampler(), interrupted_after)
    after = run(study, sampler({candidate.fingerprint() for candidate, _ in before}), 18 - interrupted_after)
    assert before + after == whole


def test_what_the_study_has_is_not_given_again(mnist):
    first, *_ = run(new_study(), FeasibleSampler(mnist, MAIN, seed=0), 1)
    seen = {first[0].fingerprint(), "another"}
    sampler = FeasibleSampler(mnist, MAIN, seed=0, seen=seen)
    others = run(new_study(), sampler, 5)
    assert first[0] not in [candidate for candidate, _ in others]
    assert seen == {first[0].fingerprint(), "another"} | {candidate.fingerprint() for candidate, _ in others}
    trained = tiny().candidate({"block1.conv1.channels": 4})
    fresh = FeasibleSampler(tiny(), (), seed=0, seen={trained.fingerprint()})
    widths = [next(iter(params.values())) for _, params in run(new_study(), fresh, 2)]
    assert sorted(widths) == [6, 8]
    assert fresh.counts.keys() <= {"duplicate"}


def test_every_draw_is_counted_once(mnist):
    constraints = limits((1, 28, 28), max_params=2000)
    sampler, study = FeasibleSampler(mnist, constraints, seed=0, num_startup=6), new_study()
    num_draws, counts = 0, Counter()
    for _ in range(12):
        run(study, sampler, 1)
        num_draws += sampler.num_draws
        taken, discards = sampler.take_discards()
        assert discards == []  # none was to be kept
        assert taken.total() + 1 == sampler.num_draws
        counts += taken
    assert counts.total() + 12 == num_draws
    assert counts.keys() == {"params", "receptive_field", "impossible_shape"}
    assert sampler.take_discards() == (Counter(), [])


def test_the_first_discards_are_kept_whole(mnist):
    sampler = FeasibleSampler(mnist, limits((1, 28, 28), max_params=2000), seed=0)
    sampler.keep = 25
    study = new_study()
    run(study, sampler, 3)
    counts, discards = sampler.take_discards()
    assert counts.total() > 25
    assert len(discards) == 25
    for values, verdict in discards:
        assert verdict == judge(mnist, sampler.constraints, values)
        assert verdict.reason in {"params", "receptive_field", "impossible_shape"}
        assert verdict.violation > 0
    # Drawn by the seed alone, so the first discards are the draws themselves.
    rng = Random("0 0")
    drawn = [mnist.draw(rng) for _ in range(40)]
    assert all(values in drawn for values, _ in discards)
    run(study, sampler, 1)
    assert len(sampler.take_discards()[1]) <= 25


def test_few_discards_are_all_kept(mnist):
    sampler = FeasibleSampler(mnist, limits((1, 28, 28), max_params=30_000), seed=0)
    sampler.keep = 10_000
    run(new_study(), sampler, 5)
    counts, discards = sampler.take_discards()
    assert Counter(discard.verdict.reason for discard in discards) == counts
    assert counts.total() > 0


@pytest.mark.parametrize("num_startup", [1, 20])
def test_a_tiny_space_is_handed_out_completely(monkeypatch, num_startup):
    monkeypatch.setattr(samplers, "MAX_TRIES", 3_000)
    monkeypatch.setattr(proposals, "NUM_RANDOM", 1_000)
    space = tiny()
    sampler, study = FeasibleSampler(space, (), seed=0, num_startup=num_startup), new_study()
    sampler.keep = 10_000
    given = run(study, sampler, 3)
    assert sorted(params["block1.conv1.channels"] for _, params in given) == [4, 6, 8]
    sampler.take_discards()
    trial = study.ask()
    with pytest.raises(NothingNewError) as caught:
        space.suggest(trial)
    num_draws = 3_000 if num_startup == 20 else 3_004  # 4 proposals of TPE, then thousands of changes
    assert str(caught.value) == f"none of {num_draws:,} more draws is feasible and new"
    assert isinstance(caught.value, NasError)
    counts, discards = sampler.take_discards()
    assert counts == {"duplicate": num_draws}
    assert {verdict.reason for _, verdict in discards} == {"duplicate"}
    assert all(verdict.violation == 0 for _, verdict in discards)
    assert study.trials[trial.number].state == TrialState.RUNNING


def test_infeasible_ones_of_a_tiny_space_are_never_handed_out(monkeypatch):
    monkeypatch.setattr(samplers, "MAX_TRIES", 1_000)
    space = tiny(range(4, 24))
    sampler = FeasibleSampler(space, (Constraint("params", "<=", 200),), seed=0, num_startup=3)
    study = new_study()
    widths = [params["block1.conv1.channels"] for _, params in run(study, sampler, 6)]
    assert sorted(widths) == [4, 5, 6, 7, 8, 9]  # 9 w + 2 w + 10 w parameters
    with pytest.raises(NothingNewError):
        run(study, sampler, 1)


def test_an_enqueued_trial_keeps_its_own_values(mnist):
    rng = Random(7)
    infeasible = next(v for v in iter(lambda: mnist.draw(rng), None) if judge(mnist, MAIN, v).reason == "params")
    sampler, study = FeasibleSampler(mnist, MAIN, seed=0), new_study()
    study.sampler = sampler
    study.enqueue_trial(infeasible)
    trial = study.ask()
    candidate = mnist.suggest(trial)
    assert trial.params == infeasible
    assert candidate == mnist.candidate(infeasible)
    study.tell(trial, 0.0)
    assert (sampler.num_draws, sampler.counts, sampler.seen) == (0, Counter(), set())
    # What follows is what would have come without it.
    assert run(study, sampler, 2) == run(new_study(), FeasibleSampler(mnist, MAIN, seed=0), 2)


def test_a_trial_enqueued_in_part_keeps_that_part_and_gets_the_rest_at_random(mnist):
    part = {"num_blocks": 4, "head": "conv_gap", "block1.conv1.channels": 24}
    sampler, study = FeasibleSampler(mnist, MAIN, seed=0), new_study()
    study.sampler = sampler
    study.enqueue_trial(part)
    trial = study.ask()
    for name, domain in mnist.domains.items():
        assert domain.holds(domain.suggest(trial, name))
    assert {name: trial.params[name] for name in part} == part
    assert sampler.num_draws == 0


def test_a_copy_for_another_process_draws_otherwise(mnist):
    sampler = FeasibleSampler(mnist, MAIN, seed=0)
    sampler.reseed_rng()
    assert run(new_study(), sampler, 1) != run(new_study(), FeasibleSampler(mnist, MAIN, seed=0), 1)


@pytest.mark.parametrize(("seed", "max_params"), [(0, 8000), (1, 2500)])
def test_the_sampler_learns_which_recipes_are_good(mnist, seed, max_params):
    constraints = limits((1, 28, 28), max_params=max_params)

    def rate(candidate):
        return -abs(math.log(candidate.recipe.learning_rate / 0.1))

    study = new_study()
    run(study, FeasibleSampler(mnist, constraints, seed=seed), 80, rate)
    values = [trial.value for trial in study.trials]
    startup, late = sum(values[:20]) / 20, sum(values[40:]) / 40
    assert late > startup / 2  # random draws come out at -1.4 to -2.1, these at -0.4


def test_the_sampler_learns_which_networks_are_good(mnist):
    study = new_study()
    run(study, FeasibleSampler(mnist, MAIN, seed=0), 80)
    values = [trial.value for trial in study.trials]
    assert sum(values[40:]) / 40 > 0.7 * sum(values[:20]) / 20


class TestOptunasOwnSuiteOutsideTheSpace(BasicSamplerTestCase):
    """The same, as the sampler is, for parameters that are not of its space."""

    @pytest.fixture
    def sampler(self, mnist):
        return lambda: FeasibleSampler(mnist, (), seed=0)


def test_the_first_candidates_are_the_largest_of_as_many_feasible_draws_as_asked(mnist):
    one_by_one = FeasibleSampler(mnist, MAIN, seed=0)
    chosen = FeasibleSampler(mnist, MAIN, seed=0, choices=4)
    chosen.keep = 10_000
    (first, _) = run(new_study(), chosen, 1)[0]
    counts, discards = chosen.take_discards()
    smaller = [discard for discard in discards if discard.verdict.reason == "smaller"]
    assert counts["smaller"] == len(smaller) == 3
    sizes = [discard.verdict.cost.params for discard in smaller]
    assert cost_of(first.architecture).params >= max(sizes)
    assert all(judge(mnist, MAIN, discard.values).reason == "" for discard in smaller)
    assert chosen.num_draws == counts.total() + 1
    # The four are the first four that the same seed draws.
    rng, drawn = Random("0 0"), []
    while len(drawn) < 4:
        values = mnist.draw(rng)
        if not judge(mnist, MAIN, values).reason:
            drawn.append(mnist.candidate(values))
    assert first in drawn
    assert run(new_study(), one_by_one, 1)[0][0] == drawn[0]


def test_where_there_are_not_so_many_the_largest_there_is_will_do():
    sampler, study = FeasibleSampler(tiny(), (), seed=0, choices=4), new_study()
    widths = [params["block1.conv1.channels"] for _, params in run(study, sampler, 3)]
    assert widths == [8, 6, 4]
    assert len(sampler.seen) == 3
