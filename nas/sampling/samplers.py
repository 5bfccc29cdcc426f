"""How the next candidate is proposed: one function for each `--sampler`.

Each gives proposals from the parameter values and results of the candidates before it; whether one keeps the limits
and is new is for `nas.sampling.feasible` to judge.
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
from nas.space.search_space import SearchSpace

Values = dict[str, Any]
Propose = Callable[[SearchSpace, optuna.Study, Random], Iterator[Values]]
"""Proposals for a space. The study is one in memory that holds nothing but the trained candidates, in their order."""

NUM_STARTUP = 10
"""Candidates that are drawn at random before any other sampler has enough to go on."""

NUM_CHOICES = 4
"""Feasible draws of which a search for accuracy takes the largest for each of those (docs/search.md)."""

NUM_RANDOM = 1_000  # random draws before the closest is mended
NUM_TPE = 4  # proposals before the last is mended: each costs as much as some 200 judgements
NUM_GENETIC = 100
POPULATION = 20
TOURNAMENT = 5


def remember(trained: optuna.Study, trial: FrozenTrial, *, place: int) -> None:
    """Adds a trained, or partly trained, candidate to a study in memory, `place` trained ones before it."""
    trained.add_trial(
        create_trial(
            state=trial.state,
            values=trial.values,
            params=trial.params,
            distributions=trial.distributions,
            intermediate_values=trial.intermediate_values,
            # NSGA-II's; it follows from the place among the trained ones, so that a resumed study has the same.
            system_attrs={NSGAIISampler._get_generation_key(): place // POPULATION},
        )
    )


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
    sampler = NSGAIISampler(population_size=POPULATION, seed=_seed(rng))
    return _of_optuna(sampler, space, trained, rng, NUM_GENETIC)


def evolution(space: SearchSpace, trained: optuna.Study, rng: Random) -> Iterator[Values]:
    """Aging evolution: the best of a few drawn from the youngest, with one choice changed.

    Real et al. 2019, "Regularized evolution for image classifier architecture search" (arXiv 1802.01548).
    """
    young = trained.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))[-POPULATION:]
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


def _of_optuna(
    sampler: BaseSampler, space: SearchSpace, trained: optuna.Study, rng: Random, count: int
) -> Iterator[Values]:
    # GP and NSGA-II make notes on the trial they are asked for, so there has to be one.
    asking = trained.ask()
    try:
        frozen = trained._storage.get_trial(asking._trial_id)
        for _ in range(count):
            values = _quietly(sampler.sample_relative, trained, frozen, space.distributions())
            # What NSGA-II mutates it leaves out, to be drawn anew.
            yield {name: values[name] if name in values else domain.draw(rng) for name, domain in space.domains.items()}
    finally:
        trained.tell(asking, state=TrialState.FAIL)  # no sampler learns from it


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
