"""How the next candidate is proposed: one function for each `--sampler`.

Each gives proposals from the parameter values and results of the candidates before it; `feasible.py` judges whether one
keeps the limits and is new.
"""

import warnings
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import optuna
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from nas.errors import NasError, ShapeError
from nas.pareto import dominates
from nas.space.drawn import Values
from nas.space.search_space import SearchSpace

Propose = Callable[[SearchSpace, optuna.Study, Random], Iterator[Values]]
"""Proposals for a space. The study shows nothing but the candidates that have ended, in their order."""

NUM_STARTUP = 10
"""Candidates that are drawn at random before any other sampler has enough to go on."""

NUM_CHOICES = 4
"""Feasible draws of which a search for accuracy takes the largest for each of those (docs/search.md)."""

NUM_RANDOM = 1_000  # random draws before the closest is mended
NUM_TPE = 4  # proposals before the last is mended: each costs as much as some 200 judgements
NUM_GENETIC = 100
POPULATION = 20
TOURNAMENT = 5


def at_random(space: SearchSpace, trained: optuna.Study, rng: Random) -> Iterator[Values]:
    """Every parameter evenly over its range."""
    for _ in range(NUM_RANDOM):
        yield space.draw(rng)


def tpe(space: SearchSpace, trained: optuna.Study, rng: Random) -> Iterator[Values]:
    """Optuna's tree-structured Parzen estimator over all parameters together."""
    sampler = _quietly(TPESampler, multivariate=True, constant_liar=False, n_startup_trials=1, seed=_seed(rng))
    return _of_optuna(sampler, space, trained, rng, NUM_TPE)


def gp(space: SearchSpace, trained: optuna.Study, rng: Random) -> Iterator[Values]:
    """Optuna's Gaussian process: one proposal, since it would say much the same again."""
    sampler = _quietly(GPSampler, n_startup_trials=1, seed=_seed(rng))
    return _of_optuna(sampler, space, trained, rng, 1)


def nsga2(space: SearchSpace, trained: optuna.Study, rng: Random) -> Iterator[Values]:
    """Optuna's NSGA-II: children of the best of all generations so far."""
    sampler = _NsgaByOrder(population_size=POPULATION, seed=_seed(rng))
    return _of_optuna(sampler, space, trained, rng, NUM_GENETIC)


def evolution(space: SearchSpace, trained: optuna.Study, rng: Random) -> Iterator[Values]:
    """Aging evolution: the best of a few drawn from the youngest, with one choice changed.

    Real et al. 2019, "Regularized evolution for image classifier architecture search" (arXiv 1802.01548).
    """
    young = _complete(trained)[-POPULATION:]
    drawn = rng.sample(young, min(TOURNAMENT, len(young)))
    points = {trial.number: _point(trial, trained.directions) for trial in drawn}
    # With one objective nobody dominates the best; with several, any of their front may be the parent.
    parent = min(drawn, key=lambda trial: sum(dominates(other, points[trial.number]) for other in points.values()))
    for _ in range(NUM_GENETIC):
        yield _mutated(space, {name: parent.params[name] for name in space.domains}, rng)


SAMPLERS: dict[str, Propose] = {
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


def _of_optuna(
    sampler: BaseSampler, space: SearchSpace, trained: optuna.Study, rng: Random, count: int
) -> Iterator[Values]:
    asked = create_trial(state=TrialState.RUNNING)  # samplers make notes on the trial that they are asked for
    for _ in range(count):
        values = _quietly(sampler.sample_relative, trained, asked, space.distributions())
        # What NSGA-II mutates it leaves out, to be drawn anew.
        yield {name: values[name] if name in values else domain.draw(rng) for name, domain in space.domains.items()}


def _mutated(space: SearchSpace, values: Values, rng: Random) -> Values:
    """The values with one of them changed, one that changes the candidate."""
    names = list(space.domains)
    own = space.candidate(values)
    for _ in range(100):  # almost all parameters may be unused
        name = names[int(rng.random() * len(names))]
        changed = {**values, name: space.domains[name].draw(rng)}
        try:
            if space.candidate(changed) != own:
                break
        except ShapeError:
            break
    return changed


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
