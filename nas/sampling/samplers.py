"""Samplers: one function for each value of `--sampler`, which proposes values for the next candidate.

A sampler reads the parameter values and results of earlier candidates; `feasible.py` checks whether a proposal is
feasible and new.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any, NamedTuple

import optuna
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from nas.errors import NasError, ShapeError, argument_text, one_of, suggestion
from nas.pareto import dominates, pareto_front
from nas.space.domains import Values
from nas.space.search_space import SearchSpace
from nas.space.widths import is_width, nearest_width


class Proposal(NamedTuple):
    """Values that a sampler proposes for the next candidate.

    Attributes:
        values: A value for each parameter of the space.
        fill: Whether the widths are scaled to fill the limits.
    """

    values: Values
    fill: bool = True

    @classmethod
    def from_parent(cls, parent: Values, values: Values) -> "Proposal":
        """Returns a proposal that changes a trained candidate; it keeps the widths if only the recipe differs."""
        return cls(values, fill=_network(values) != _network(parent))


SamplerFunction = Callable[[SearchSpace, optuna.Study, Random], Iterator[Proposal]]
"""A function that yields proposals for a space. The study is a `CandidateView`: ended candidates in their order."""

NUM_STARTUP = 10
"""Default number of first candidates that the sampler does not propose."""

NUM_CHOICES = 4
"""Feasible random draws per start-up candidate in a search for accuracy; the largest is taken (docs/search.md)."""

NUM_RANDOM = 1_000  # random draws before the closest is repaired
NUM_TPE = 4  # proposals before the closest is repaired; each takes as long as about 200 judgements
NUM_GENETIC = 100  # the same for "nsga2", "evolution" and "elite"
NUM_ELITE = 4  # best candidates from which "elite" picks a parent
NUM_PROBED = 3  # best networks to which "elite" applies the space's probes
CHANGES = (0.25, 0.25, 0.5)  # probabilities that "elite" changes the recipe, the widths, and the rest of the network
POPULATION_SIZE = 20
TOURNAMENT_SIZE = 5


def random_search(space: SearchSpace, ended_study: optuna.Study, rng: Random) -> Iterator[Proposal]:
    """Yields random draws of the space (random search)."""
    for _ in range(NUM_RANDOM):
        yield Proposal(space.draw(rng))


def tpe(space: SearchSpace, ended_study: optuna.Study, rng: Random) -> Iterator[Proposal]:
    """Yields proposals of Optuna's multivariate tree-structured Parzen estimator."""
    sampler = _without_warnings(TPESampler, multivariate=True, constant_liar=False, n_startup_trials=1, seed=_seed(rng))
    return _optuna_proposals(sampler, space, ended_study, rng, NUM_TPE)


def gp(space: SearchSpace, ended_study: optuna.Study, rng: Random) -> Iterator[Proposal]:
    """Yields one proposal of Optuna's Gaussian process; further ones would be nearly the same."""
    sampler = _without_warnings(GPSampler, n_startup_trials=1, seed=_seed(rng))
    return _optuna_proposals(sampler, space, ended_study, rng, 1)


def nsga2(space: SearchSpace, ended_study: optuna.Study, rng: Random) -> Iterator[Proposal]:
    """Yields children by Optuna's NSGA-II; random draws until the first generation is complete."""
    sampler = _NsgaByOrder(population_size=POPULATION_SIZE, seed=_seed(rng))
    return _optuna_proposals(sampler, space, ended_study, rng, NUM_GENETIC)


def evolution(space: SearchSpace, ended_study: optuna.Study, rng: Random) -> Iterator[Proposal]:
    """Yields mutations of one trial, in one parameter each.

    The trial is the best of `TOURNAMENT_SIZE` trials drawn from the last `POPULATION_SIZE` (aging evolution: Real et
    al. 2019, "Regularized evolution for image classifier architecture search", arXiv 1802.01548).
    """
    young = _complete(ended_study)[-POPULATION_SIZE:]
    drawn = rng.sample(young, min(TOURNAMENT_SIZE, len(young)))
    points = {trial.number: _point(trial, ended_study.directions) for trial in drawn}
    # With one objective only the best is dominated by none. With two the parent is the first on the sample's front.
    parent = min(drawn, key=lambda trial: sum(dominates(other, points[trial.number]) for other in points.values()))
    for _ in range(NUM_GENETIC):
        values = {name: parent.params[name] for name in space.domains}
        yield Proposal.from_parent(values, _mutated(space, values, rng))


def elite(space: SearchSpace, ended_study: optuna.Study, rng: Random) -> Iterator[Proposal]:
    """Yields the space's probes, then small changes (see `small_change`) of the best candidates.

    Probes are changes of the recipe, applied to the `NUM_PROBED` best networks; probes that have been trained are left
    out. The parent of a small change is one of the `NUM_ELITE` best candidates, or with two objectives any candidate on
    the Pareto front.
    """
    ranked = _ranked(ended_study)
    trained = [trial.params for trial in _complete(ended_study)]
    for best in _of_different_networks([{name: trial.params[name] for name in space.domains} for trial in ranked]):
        yield from (
            Proposal.from_parent(best, probed) for probe in space.probes if (probed := {**best, **probe}) not in trained
        )
    parents = ranked[:NUM_ELITE] if len(ended_study.directions) == 1 else ranked
    for _ in range(NUM_GENETIC):
        parent = parents[int(rng.random() * len(parents))]
        values = {name: parent.params[name] for name in space.domains}
        yield Proposal.from_parent(values, small_change(space, values, rng))


def small_change(space: SearchSpace, values: Values, rng: Random) -> Values:
    """Returns values near `values` that give another candidate.

    Changes one or two parameters of the recipe, the widths of one block, or one or two other parameters of the network;
    `CHANGES` says how often which.
    """
    recipe = [name for name in space.domains if name.startswith("recipe.")]
    widths = [name for name in space.domains if is_width(name)]
    others = [name for name in space.domains if name not in {*recipe, *widths}]

    def near() -> Values:
        names = rng.choices((recipe, widths, others), CHANGES)[0]
        if not names:
            return values
        change = _change_block_widths if names is widths else _change_parameters
        return change(space, values, names, rng)

    return _first_different(space, values, near)


def _change_parameters(space: SearchSpace, values: Values, names: Sequence[str], rng: Random) -> Values:
    """Returns the values with one or two of the named parameters moved by a step."""
    chosen = rng.sample(names, min(len(names), 1 + int(rng.random() * 2)))
    return {**values, **{name: space.domains[name].random_neighbour(values[name], rng) for name in chosen}}


def _change_block_widths(space: SearchSpace, values: Values, names: Sequence[str], rng: Random) -> Values:
    """Returns the values with the widths of one block scaled by a common factor and a small one for each width.

    The common factor is 2/3 to 1.5, the small one 1/1.1 to 1.1. `names` are the names of all widths.
    """
    block = names[int(rng.random() * len(names))].partition(".")[0]
    factor = 1.5 ** rng.uniform(-1.0, 1.0)
    own = [name for name in names if name.startswith(f"{block}.")]
    widths = {name: float(values[name]) * factor * 1.1 ** rng.uniform(-1.0, 1.0) for name in own}
    return {**values, **{name: nearest_width(space.domains[name], width) for name, width in widths.items()}}


SAMPLERS: dict[str, SamplerFunction] = {
    "elite": elite,
    "evolution": evolution,
    "tpe": tpe,
    "gp": gp,
    "nsga2": nsga2,
    "random": random_search,
}


def sampler_named(name: str) -> SamplerFunction:
    """Returns the sampler with that name; raises `NasError` for an unknown name."""
    if name not in SAMPLERS:
        raise NasError(f"{argument_text('sampler', name)}{suggestion(name, SAMPLERS)}: expected {one_of(SAMPLERS)}")
    return SAMPLERS[name]


class _NsgaByOrder(NSGAIISampler):
    """NSGA-II whose generations follow from the order of the candidates, so that a resumed study has the same ones."""

    def get_trial_generation(self, study: optuna.Study, trial: FrozenTrial) -> int:
        return len(_complete(study)) // POPULATION_SIZE

    def get_population(self, study: optuna.Study, generation: int) -> list[FrozenTrial]:
        return _complete(study)[generation * POPULATION_SIZE : (generation + 1) * POPULATION_SIZE]


def _complete(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def _of_different_networks(candidates: Sequence[Values]) -> list[Values]:
    """Returns the first `NUM_PROBED` candidates with different networks."""
    different: dict[tuple[object, ...], Values] = {}
    for values in candidates:
        different.setdefault(_network(values), values)
    return list(different.values())[:NUM_PROBED]


def _network(values: Values) -> tuple[object, ...]:
    """Returns the values that determine the network: all but those of the recipe."""
    return tuple(value for name, value in values.items() if not name.startswith("recipe."))


def _ranked(study: optuna.Study) -> list[FrozenTrial]:
    """Returns the trained trials, the most accurate first; with two objectives only those on the Pareto front."""
    done = [(trial, _point(trial, study.directions)) for trial in _complete(study)]
    ranked = sorted(done, key=lambda each: each[1], reverse=True)
    return [trial for trial, _ in ranked] if len(study.directions) == 1 else pareto_front(ranked)


def _optuna_proposals(
    sampler: BaseSampler, space: SearchSpace, ended_study: optuna.Study, rng: Random, count: int
) -> Iterator[Proposal]:
    """Yields `count` proposals of one of Optuna's samplers."""
    placeholder = create_trial(state=TrialState.RUNNING)  # samplers set attributes on the trial
    for _ in range(count):
        values = _without_warnings(sampler.sample_relative, ended_study, placeholder, space.distributions())
        # NSGA-II leaves out the parameters that it mutates; they are drawn at random.
        yield Proposal(
            {name: values[name] if name in values else domain.draw(rng) for name, domain in space.domains.items()}
        )


def _mutated(space: SearchSpace, values: Values, rng: Random) -> Values:
    """Returns the values with one parameter drawn again so that the candidate changes."""
    names = list(space.domains)

    def mutant() -> Values:
        name = names[int(rng.random() * len(names))]
        return {**values, name: space.domains[name].draw(rng)}

    return _first_different(space, values, mutant)


def _first_different(space: SearchSpace, values: Values, propose: Callable[[], Values]) -> Values:
    """Returns the first proposal that gives another candidate than `values`, or the last of 100 proposals."""
    own = space.candidate(values)
    for _ in range(100):  # a candidate may leave most parameters unused
        proposed = propose()
        try:
            if space.candidate(proposed) != own:
                break
        except ShapeError:
            break
    return proposed


def _point(trial: FrozenTrial, directions: list[StudyDirection]) -> tuple[float, ...]:
    """Returns the trial's objective values, with signs that make larger values better."""
    signs = (1 if direction == StudyDirection.MAXIMIZE else -1 for direction in directions)
    return tuple(sign * value for sign, value in zip(signs, trial.values, strict=True))


def _seed(rng: Random) -> int:
    """Returns a seed for one candidate's Optuna sampler: Optuna does not store the random state of a sampler."""
    return rng.getrandbits(32)


def _without_warnings(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Returns `call(*args, **kwargs)` without Optuna's warnings that a feature is experimental."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return call(*args, **kwargs)
