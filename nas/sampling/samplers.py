"""How the next candidate is proposed: one function for each `--sampler`.

Each gives proposals from the parameter values and results of the candidates before it; `feasible.py` judges whether one
keeps the limits and is new.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any, NamedTuple

import optuna
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from nas.errors import NasError, ShapeError
from nas.pareto import dominates, front
from nas.space.drawn import Values
from nas.space.search_space import SearchSpace
from nas.space.widths import is_width, nearest


class Proposal(NamedTuple):
    """Values of all parameters. fill: whether their widths are to be scaled to the limits."""

    values: Values
    fill: bool = True

    @classmethod
    def child(cls, parent: Values, values: Values) -> "Proposal":
        """Values that a trained candidate was changed into. Where the network is the same, it keeps its widths."""
        return cls(values, fill=_network(values) != _network(parent))


Propose = Callable[[SearchSpace, optuna.Study, Random], Iterator[Proposal]]
"""Proposals for a space. The study shows nothing but the candidates that have ended, in their order."""

NUM_STARTUP = 10
"""Candidates that are drawn at random before any other sampler has enough to go on."""

NUM_CHOICES = 4
"""Feasible draws of which a search for accuracy takes the largest for each of those (docs/search.md)."""

NUM_RANDOM = 1_000  # random draws before the closest is mended
NUM_TPE = 4  # proposals before the last is mended: each costs as much as some 200 judgements
NUM_GENETIC = 100
NUM_ELITE = 4
NUM_PROBED = 3  # networks that "elite" tries the space's probes on
CHANGES = (0.25, 0.25, 0.5)  # how likely "elite" changes the recipe, the widths, and the rest of the network
POPULATION = 20
TOURNAMENT = 5


def at_random(space: SearchSpace, trained: optuna.Study, rng: Random) -> Iterator[Proposal]:
    """Every parameter evenly over its range."""
    for _ in range(NUM_RANDOM):
        yield Proposal(space.draw(rng))


def tpe(space: SearchSpace, trained: optuna.Study, rng: Random) -> Iterator[Proposal]:
    """Optuna's tree-structured Parzen estimator over all parameters together."""
    sampler = _quietly(TPESampler, multivariate=True, constant_liar=False, n_startup_trials=1, seed=_seed(rng))
    return _of_optuna(sampler, space, trained, rng, NUM_TPE)


def gp(space: SearchSpace, trained: optuna.Study, rng: Random) -> Iterator[Proposal]:
    """Optuna's Gaussian process: one proposal, since it would say much the same again."""
    sampler = _quietly(GPSampler, n_startup_trials=1, seed=_seed(rng))
    return _of_optuna(sampler, space, trained, rng, 1)


def nsga2(space: SearchSpace, trained: optuna.Study, rng: Random) -> Iterator[Proposal]:
    """Optuna's NSGA-II: children of the best of all generations so far."""
    sampler = _NsgaByOrder(population_size=POPULATION, seed=_seed(rng))
    return _of_optuna(sampler, space, trained, rng, NUM_GENETIC)


def evolution(space: SearchSpace, trained: optuna.Study, rng: Random) -> Iterator[Proposal]:
    """Aging evolution: the best of a few drawn from the youngest, with one choice changed.

    Real et al. 2019, "Regularized evolution for image classifier architecture search" (arXiv 1802.01548).
    """
    young = _complete(trained)[-POPULATION:]
    drawn = rng.sample(young, min(TOURNAMENT, len(young)))
    points = {trial.number: _point(trial, trained.directions) for trial in drawn}
    # With one objective nobody dominates the best; with several, any of their front may be the parent.
    parent = min(drawn, key=lambda trial: sum(dominates(other, points[trial.number]) for other in points.values()))
    for _ in range(NUM_GENETIC):
        values = {name: parent.params[name] for name in space.domains}
        yield Proposal.child(values, _mutated(space, values, rng))


def elite(space: SearchSpace, trained: optuna.Study, rng: Random) -> Iterator[Proposal]:
    """Small changes of one of the best few, or of a front: of its recipe, its widths, or one or two other choices.

    The space's probes come first: its changes of the recipe, applied to the best three networks. A probe that has been
    trained is left out.
    """
    ranked = _ranked(trained)
    had = [trial.params for trial in _complete(trained)]
    for best in _of_different_networks([{name: trial.params[name] for name in space.domains} for trial in ranked]):
        yield from (Proposal.child(best, probed) for probe in space.probes if (probed := {**best, **probe}) not in had)
    parents = ranked[:NUM_ELITE] if len(trained.directions) == 1 else ranked
    for _ in range(NUM_GENETIC):
        parent = parents[int(rng.random() * len(parents))]
        values = {name: parent.params[name] for name in space.domains}
        yield Proposal.child(values, changed(space, values, rng))


def changed(space: SearchSpace, values: Values, rng: Random) -> Values:
    """Values near these that stand for another candidate."""
    recipe = [name for name in space.domains if name.startswith("recipe.")]
    widths = [name for name in space.domains if is_width(name)]
    others = [name for name in space.domains if name not in {*recipe, *widths}]

    def near() -> Values:
        kind = rng.choices((recipe, widths, others), CHANGES)[0]
        if not kind:
            return values
        return _rewidened(space, values, kind, rng) if kind is widths else _stepped(space, values, kind, rng)

    return _another(space, values, near)


def _stepped(space: SearchSpace, values: Values, names: Sequence[str], rng: Random) -> Values:
    """The values, one or two of those named a step away."""
    chosen = rng.sample(names, min(len(names), 1 + int(rng.random() * 2)))
    return {**values, **{name: space.domains[name].step_from(values[name], rng) for name in chosen}}


def _rewidened(space: SearchSpace, values: Values, names: Sequence[str], rng: Random) -> Values:
    """The values, the widths of one block larger or smaller by up to a half, each by a little more or less.

    `names`: those of all widths.
    """
    block = names[int(rng.random() * len(names))].partition(".")[0]
    factor = 1.5 ** rng.uniform(-1.0, 1.0)
    own = [name for name in names if name.startswith(f"{block}.")]
    widths = {name: float(values[name]) * factor * 1.1 ** rng.uniform(-1.0, 1.0) for name in own}
    return {**values, **{name: nearest(space.domains[name], width) for name, width in widths.items()}}


SAMPLERS: dict[str, Propose] = {
    "elite": elite,
    "evolution": evolution,
    "tpe": tpe,
    "gp": gp,
    "nsga2": nsga2,
    "random": at_random,
}


def proposer(name: str) -> Propose:
    """The one of that name."""
    if name not in SAMPLERS:
        raise NasError(f"--sampler {name!r}, allowed: {', '.join(SAMPLERS)}")
    return SAMPLERS[name]


class _NsgaByOrder(NSGAIISampler):
    """NSGA-II whose generations follow from the order of the candidates, so that a resumed study has the same."""

    def get_trial_generation(self, study: optuna.Study, trial: FrozenTrial) -> int:
        return len(_complete(study)) // POPULATION

    def get_population(self, study: optuna.Study, generation: int) -> list[FrozenTrial]:
        return _complete(study)[generation * POPULATION : (generation + 1) * POPULATION]


def _complete(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def _of_different_networks(candidates: Sequence[Values]) -> list[Values]:
    """The first few candidates whose networks differ, not their recipes alone."""
    different: dict[tuple[object, ...], Values] = {}
    for values in candidates:
        different.setdefault(_network(values), values)
    return list(different.values())[:NUM_PROBED]


def _network(values: Values) -> tuple[object, ...]:
    """The values that decide the network."""
    return tuple(value for name, value in values.items() if not name.startswith("recipe."))


def _ranked(study: optuna.Study) -> list[FrozenTrial]:
    """The trials by accuracy, the best first, or with two objectives those that no other one dominates."""
    done = [(trial, _point(trial, study.directions)) for trial in _complete(study)]
    ranked = sorted(done, key=lambda each: each[1], reverse=True)
    return [trial for trial, _ in ranked] if len(study.directions) == 1 else front(ranked)


def _of_optuna(
    sampler: BaseSampler, space: SearchSpace, trained: optuna.Study, rng: Random, count: int
) -> Iterator[Proposal]:
    asked = create_trial(state=TrialState.RUNNING)  # samplers make notes on the trial that they are asked for
    for _ in range(count):
        values = _quietly(sampler.sample_relative, trained, asked, space.distributions())
        # What NSGA-II mutates it leaves out, to be drawn anew.
        yield Proposal(
            {name: values[name] if name in values else domain.draw(rng) for name, domain in space.domains.items()}
        )


def _mutated(space: SearchSpace, values: Values, rng: Random) -> Values:
    """The values with one of them changed, one that changes the candidate."""
    names = list(space.domains)

    def mutant() -> Values:
        name = names[int(rng.random() * len(names))]
        return {**values, name: space.domains[name].draw(rng)}

    return _another(space, values, mutant)


def _another(space: SearchSpace, values: Values, propose: Callable[[], Values]) -> Values:
    """The first proposal that stands for another candidate than the values, or else the last of a hundred."""
    own = space.candidate(values)
    for _ in range(100):  # almost all parameters may be unused
        proposed = propose()
        try:
            if space.candidate(proposed) != own:
                break
        except ShapeError:
            break
    return proposed


def _point(trial: FrozenTrial, directions: list[StudyDirection]) -> tuple[float, ...]:
    """The trial's values, larger ones better."""
    signs = (1 if direction == StudyDirection.MAXIMIZE else -1 for direction in directions)
    return tuple(sign * value for sign, value in zip(signs, trial.values, strict=True))


def _seed(rng: Random) -> int:
    """A seed for a sampler of Optuna's: one for each candidate, since it does not save a sampler's random state."""
    return rng.getrandbits(32)


def _quietly(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return call(*args, **kwargs)
