"""Samplers that hand out only candidates that keep the limits and are new to the study.

Optuna's own constraints are soft: its samplers may still draw infeasible points, and pruning those one by one
misleads them and wastes trials. Here discarding happens inside the sampling, before Optuna has a trial to spend:
the first candidates are drawn at random, later ones proposed by what `--sampler` names, and where no draw or
proposal keeps the limits, the closest is changed a few parameters at a time until it does.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any, NamedTuple

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from nas.errors import NasError
from nas.sampling.samplers import NUM_STARTUP, Propose, Values, at_random, remember, tpe
from nas.space.candidate import Candidate
from nas.space.constraints import Constraint
from nas.space.feasibility import DUPLICATE, SMALLER, Verdict, judge
from nas.space.search_space import SearchSpace

MAX_TRIES = 20_000


class NothingNewError(NasError):
    """No feasible candidate that the study does not have yet was found in many tries."""


class Discard(NamedTuple):
    """A candidate that was drawn and not trained."""

    values: Values
    verdict: Verdict


class FeasibleSampler(BaseSampler):
    """Hands Optuna only feasible, new candidates of a search space; `propose` learns from the trained ones.

    Every draw depends on the seed, on how many candidates the study has had and on their results alone, so a
    resumed study goes on as if it had never stopped. The last `lag` candidates before one may still be in training and
    are not looked at. `seen` holds the fingerprints of those candidates. The first `num_startup` are drawn at random,
    each the largest of `choices` that are feasible: where accuracy is sought within a limit, large ones are better.
    `draw` raises `NothingNewError` after `MAX_TRIES` draws, and so does `sample_relative`. A sampler serves one study.
    """

    def __init__(
        self,
        space: SearchSpace,
        constraints: Sequence[Constraint],
        *,
        propose: Propose = tpe,
        seed: int,
        lag: int = 0,
        seen: set[str] | None = None,
        num_startup: int = NUM_STARTUP,
        choices: int = 1,
    ) -> None:
        self.space = space
        self.constraints = tuple(constraints)
        self.propose = propose
        self.seed = seed
        self.lag = lag
        self.seen = set() if seen is None else seen
        self.num_startup = num_startup
        self.choices = choices
        self.counts: Counter[str] = Counter()  # discards by reason since they were last taken
        self.discards: list[Discard] = []
        self.keep = 0  # how many more discards to keep whole
        self.num_draws = 0
        self._distributions = space.distributions()
        self._independent = RandomSampler(seed=seed % 2**32)  # numpy takes no larger one
        # What proposals learn from: the trained trials alone. Discards and interruptions that the study stores would
        # count towards how many of them TPE takes for good ones.
        self._memory = InMemoryStorage()
        self._num_learned, self._num_complete = 0, 0
        self._open: list[int] = []  # numbers of trials that may be learned from later
        self._num_seen = 0  # trials looked at so far: a look at all of them would take the longer the more there are

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The whole space, always: it is flat and static."""
        return self._distributions

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> Values:
        """Values of every parameter of a feasible, new candidate; none for an enqueued trial, which has its own."""
        if "fixed_params" in trial.system_attrs:
            return {}
        return self.draw(study)

    def draw(self, study: optuna.Study) -> Values:
        """The same, before there is a trial that could be left behind unused."""
        rng = Random(f"{self.seed} {len(self.seen)}")
        self.num_draws = 0
        trained = self._trained(study)
        enough = self._num_learned >= self.num_startup
        propose, choices = (self.propose, 1) if enough else (at_random, self.choices)
        drawn = self._feasible(propose(self.space, trained, rng), rng, choices)
        if drawn is None:
            raise NothingNewError(f"none of {self.num_draws:,} more draws is feasible and new")
        return drawn

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A random value for a parameter that is not of the space."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def reseed_rng(self) -> None:
        """Draws of a copy in another process differ from now on."""
        self.seed = Random().getrandbits(32)
        self._independent.reseed_rng()

    def take_discards(self) -> tuple[Counter[str], list[Discard]]:
        """The discards since the last call: all of them counted by reason, the first `keep` whole."""
        counts, discards = self.counts, self.discards
        self.counts, self.discards = Counter(), []
        return counts, discards

    def _trained(self, study: optuna.Study) -> optuna.Study:
        """A study in memory of the trained candidates that the next one may be drawn from, in their order."""
        # Loaded anew each time: a study caches its trials from one ask to the next.
        memory = optuna.create_study(
            storage=self._memory, study_name="trained", directions=study.directions, load_if_exists=True
        )
        known = len(self.seen) - self.lag
        trials = study.get_trials(deepcopy=False)
        looked_at = [*(trials[number] for number in self._open), *trials[self._num_seen :]]
        self._num_seen, self._open = len(trials), []
        for trial in sorted(looked_at, key=lambda trial: trial.user_attrs.get("candidate", -1)):
            if not trial.state.is_finished() or trial.user_attrs.get("candidate", -1) >= known:
                self._open.append(trial.number)
            elif trial.state == TrialState.COMPLETE or (trial.state == TrialState.PRUNED and trial.intermediate_values):
                remember(memory, trial, place=self._num_complete)
                self._num_learned += 1
                self._num_complete += trial.state == TrialState.COMPLETE
        return memory

    def _feasible(self, proposals: Iterator[Values], rng: Random, choices: int) -> Values | None:
        """The largest of the first `choices` feasible, new proposals; without any the one that came closest, mended."""
        found: list[tuple[Values, Verdict]] = []
        least, closest = math.inf, self.space.draw(rng)
        for values in proposals:
            verdict = self._judge(values)
            if not verdict.reason:
                found.append((values, verdict))
                if len(found) == choices:
                    break
            elif verdict.violation <= least:
                least, closest = verdict.violation, values
        while not found and self.num_draws < MAX_TRIES:
            found = self._mended(least, closest, rng)
            least, closest = math.inf, self.space.draw(rng)
        if not found:
            return None
        taken, chosen = max(found, key=lambda item: _params(item[1]))
        for values, verdict in found:
            if values is not taken:
                self._discard(values, verdict._replace(reason=SMALLER))
        self.seen.add(self._fingerprint(taken, chosen))
        return taken

    def _mended(
        self, violation: float, values: Values, rng: Random, tries: int = 1_000
    ) -> list[tuple[Values, Verdict]]:
        """A feasible, new candidate near `values`, or none: random changes, kept unless they lead off the limits."""
        names = list(self.space.domains)
        for _ in range(tries):
            changed = dict(values)
            for name in rng.sample(names, min(len(names), 1 + int(rng.expovariate(0.5)))):
                changed[name] = self.space.domains[name].draw(rng)
            verdict = self._judge(changed)
            if not verdict.reason:
                return [(changed, verdict)]
            if verdict.violation <= violation:
                violation, values = verdict.violation, changed
        return []

    def _judge(self, values: Values) -> Verdict:
        """The verdict, "duplicate" where the study has the candidate already; counted if it is a discard."""
        self.num_draws += 1
        verdict = judge(self.space, self.constraints, values)
        if not verdict.reason and self._fingerprint(values, verdict) in self.seen:
            verdict = verdict._replace(reason=DUPLICATE)
        if verdict.reason:
            self._discard(values, verdict)
        return verdict

    def _fingerprint(self, values: Values, verdict: Verdict) -> str:
        assert verdict.architecture is not None
        return Candidate(verdict.architecture, self.space.recipe(values)).fingerprint()

    def _discard(self, values: Values, verdict: Verdict) -> None:
        self.counts[verdict.reason] += 1
        if len(self.discards) < self.keep:
            self.discards.append(Discard(values, verdict))


def _params(verdict: Verdict) -> int:
    assert verdict.cost is not None
    return verdict.cost.params
