"""Draws candidates that keep the limits and are new to the study.

Optuna's own constraints are soft: its samplers may still draw infeasible points, and pruning those one by one misleads
them and wastes trials. Here discarding happens inside the draw, before Optuna has a trial to spend: the first
candidates are drawn at random, later ones proposed by what `--sampler` names. Where no draw or proposal keeps the
limits, the closest one is changed a few parameters at a time until it does.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from random import Random
from typing import NamedTuple

from nas.errors import NasError
from nas.sampling.candidate_view import CandidateView
from nas.sampling.samplers import NUM_STARTUP, Proposal, Propose, at_random, tpe
from nas.space.candidate import Candidate
from nas.space.constraints import Constraint
from nas.space.drawn import Discard, Drawn, Values
from nas.space.feasibility import DUPLICATE, SMALLER, Judgement, judge
from nas.space.fill import filled
from nas.space.search_space import SearchSpace

MAX_TRIES = 20_000


class NothingNewError(NasError):
    """No feasible candidate that the study does not have yet was found in many tries."""


class FeasibleSampler:
    """Draws feasible, new candidates of a search space; `propose` learns from the trained ones.

    A draw depends on the seed, on how many candidates the study has had and on their results alone, so a resumed study
    goes on as if it had never stopped. The last `lag` candidates before a draw may still be in training and are not
    looked at. The first `num_startup` are drawn at random, each the largest of `choices` that are feasible: where
    accuracy is sought within a limit, large networks are better.

    In a space that says how widths go together (`Widths`) each draw and proposal is scaled to fill the upper limits, or
    a share of them from `smallest` to 1, drawn evenly in the logarithm. A proposal whose network has been trained keeps
    its widths.
    """

    def __init__(
        self,
        space: SearchSpace,
        constraints: Sequence[Constraint],
        *,
        propose: Propose = tpe,
        seed: int,
        lag: int = 0,
        num_startup: int = NUM_STARTUP,
        choices: int = 1,
        smallest: float = 1.0,
    ) -> None:
        self.space = space
        self.constraints = tuple(constraints)
        self.propose = propose
        self.seed = seed
        self.lag = lag
        self.num_startup = num_startup
        self.choices = choices
        self.smallest = smallest

    def draw(self, view: CandidateView, seen: Set[str], *, keep: int = 0) -> Drawn:
        """The next candidate of the study that `view` shows.

        `seen` holds the fingerprints of the candidates so far; `keep` is how many discards to keep whole. Raises
        `NothingNewError` after `MAX_TRIES` draws.
        """
        rng = Random(f"{self.seed} {len(seen)}")
        trained = view.below(len(seen) - self.lag)
        enough = view.num_ended() >= self.num_startup
        propose, choices = (self.propose, 1) if enough else (at_random, self.choices)
        return _Draw(self, rng, seen, keep).feasible(propose(self.space, trained, rng), choices)


class _Found(NamedTuple):
    """A feasible, new candidate among the draws."""

    values: Values
    judgement: Judgement
    candidate: Candidate
    fingerprint: str

    @property
    def params(self) -> int:
        assert self.judgement.cost is not None
        return self.judgement.cost.params


class _Draw:
    """One draw: what it has judged and discarded so far."""

    def __init__(self, sampler: FeasibleSampler, rng: Random, seen: Set[str], keep: int) -> None:
        self.space, self.constraints = sampler.space, sampler.constraints
        self.rng = rng
        self.share = math.exp(rng.uniform(math.log(sampler.smallest), 0.0)) if sampler.smallest < 1 else 1.0
        self.seen = seen
        self.keep = keep
        self.num_draws = 0
        self.counts: Counter[str] = Counter()
        self.discards: list[Discard] = []

    def feasible(self, proposals: Iterator[Proposal], choices: int) -> Drawn:
        """The largest of the first `choices` feasible, new proposals; without any the closest one, mended."""
        found: list[_Found] = []
        least, closest = math.inf, self.space.draw(self.rng)
        for proposal in proposals:
            outcome = self._judge(proposal)
            if isinstance(outcome, _Found):
                found.append(outcome)
                if len(found) == choices:
                    break
            elif outcome.violation <= least:
                least, closest = outcome.violation, proposal.values
        while not found and self.num_draws < MAX_TRIES:
            found = self._mended(least, closest)
            least, closest = math.inf, self.space.draw(self.rng)
        if not found:
            raise NothingNewError(f"none of {self.num_draws:,} more draws is feasible and new")
        taken = max(found, key=lambda each: each.params)
        for each in found:
            if each is not taken:
                self._discard(each.values, each.judgement._replace(reason=SMALLER))
        assert taken.judgement.cost is not None
        return Drawn(
            values=taken.values,
            candidate=taken.candidate,
            cost=taken.judgement.cost,
            fingerprint=taken.fingerprint,
            counts=self.counts,
            discards=tuple(self.discards),
        )

    def _mended(self, violation: float, values: Values, tries: int = 1_000) -> list[_Found]:
        """A feasible, new candidate near `values`, or none: random changes, kept unless they lead off the limits."""
        names = list(self.space.domains)
        for _ in range(tries):
            changed = dict(values)
            for name in self.rng.sample(names, min(len(names), 1 + int(self.rng.expovariate(0.5)))):
                changed[name] = self.space.domains[name].draw(self.rng)
            outcome = self._judge(Proposal(changed))
            if isinstance(outcome, _Found):
                return [outcome]
            if outcome.violation <= violation:
                violation, values = outcome.violation, changed
        return []

    def _judge(self, proposal: Proposal) -> "_Found | Judgement":
        """The candidate where it is feasible and new; else the judgement, which is counted as a discard."""
        self.num_draws += 1
        values = proposal.values
        if proposal.fill:
            values = filled(self.space, self.constraints, values, self.share)
        judgement = judge(self.space, self.constraints, values)
        if not judgement.reason:
            assert judgement.architecture is not None
            candidate = Candidate(judgement.architecture, self.space.recipe(values))
            fingerprint = candidate.fingerprint()
            if fingerprint not in self.seen:
                return _Found(values, judgement, candidate, fingerprint)
            judgement = judgement._replace(reason=DUPLICATE)
        self._discard(values, judgement)
        return judgement

    def _discard(self, values: Values, judgement: Judgement) -> None:
        self.counts[judgement.reason] += 1
        if len(self.discards) < self.keep:
            self.discards.append(Discard(values, judgement))
