"""Draws candidates that are feasible and new to the study.

Optuna's constraints are soft: its samplers may still propose infeasible points, and pruning these one by one misleads
the sampler and wastes trials. Here infeasible draws are discarded before Optuna creates a trial. The first candidates
are drawn at random; later ones come from the sampler that `--sampler` names. If no draw is feasible and new, the
closest one is repaired: a few of its parameters are changed at a time until it is.
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
    """No candidate that is feasible and new to the study was found in `MAX_TRIES` draws."""


class FeasibleSampler:
    """Draws candidates of a search space that are feasible and new to the study.

    A draw depends only on the seed, the earlier candidates and their results, so a resumed study continues as if it had
    not been interrupted. In a space with `Widths`, the widths of each draw and proposal are scaled to fill the upper
    limits; a proposal that changes only the recipe of a trained candidate keeps its widths.

    Args:
        space: Search space to draw from.
        constraints: Limits that a candidate must keep.
        propose: Sampler, one of `SAMPLERS`. Default: `tpe`.
        seed: Seed of the study.
        max_lag: Largest number of candidates directly before a draw whose results are ignored, because they may still
            be in training. Start-up candidates and the first half of all candidates are never ignored. Default: 0.
        num_startup: Number of first candidates that `propose` does not draw; it needs the results of all of them.
            Default: 10.
        choices: Number of feasible random draws per start-up candidate; the one with the most parameters is taken,
            because larger networks are usually more accurate. Default: 1.
        smallest: Smallest share of the upper limits to fill, above 0 and at most 1. The share that a draw fills is
            log-uniform between `smallest` and 1. Default: 1.
    """

    def __init__(
        self,
        space: SearchSpace,
        constraints: Sequence[Constraint],
        *,
        propose: Propose = tpe,
        seed: int,
        max_lag: int = 0,
        num_startup: int = NUM_STARTUP,
        choices: int = 1,
        smallest: float = 1.0,
    ) -> None:
        self.space = space
        self.constraints = tuple(constraints)
        self.propose = propose
        self.seed = seed
        self.max_lag = max_lag
        self.num_startup = num_startup
        self.choices = choices
        self.smallest = smallest

    def num_needed(self, index: int) -> int:
        """Returns how many of the first candidates must have ended before the candidate `index` is drawn."""
        if index < self.num_startup or self.propose is at_random:
            return 0
        return max(self.num_startup, index - min(self.max_lag, index // 2))

    def draw(self, view: CandidateView, seen: Set[str], *, keep: int = 0) -> Drawn:
        """Returns the next candidate.

        Args:
            view: View of the study's ended candidates.
            seen: Fingerprints of all candidates so far. Their number is the index of the drawn candidate.
            keep: Maximum number of discards to return with their values; all are counted. Default: 0.

        Raises:
            NothingNewError: If `MAX_TRIES` draws give no candidate that is feasible and new.
        """
        rng = Random(f"{self.seed} {len(seen)}")
        trained = view.below(self.num_needed(len(seen)))
        propose, choices = (self.propose, 1) if view.num_ended() else (at_random, self.choices)
        return _Draw(self, rng, seen, keep).feasible(propose(self.space, trained, rng), choices)


class _Found(NamedTuple):
    """A draw that is feasible and new."""

    values: Values
    judgement: Judgement
    candidate: Candidate
    fingerprint: str

    @property
    def params(self) -> int:
        assert self.judgement.cost is not None
        return self.judgement.cost.params


class _Draw:
    """State of one call of `FeasibleSampler.draw`: its random generator and the discards so far."""

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
        """Returns the largest of the first `choices` feasible, new proposals; if there is none, repairs the closest."""
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
            raise NothingNewError(f"none of {self.num_draws:,} further draws is feasible and new")
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
        """Returns a feasible, new candidate near `values` or none; random changes must not increase the violation."""
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
        """Returns the candidate if it is feasible and new; otherwise counts a discard and returns its judgement."""
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
