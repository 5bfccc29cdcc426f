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
from nas.sampling.samplers import NUM_STARTUP, Proposal, SamplerFunction, random_search, tpe
from nas.space.candidate import Candidate
from nas.space.constraints import Constraint
from nas.space.domains import Values
from nas.space.drawn import Discard, DrawnCandidate
from nas.space.feasibility import DUPLICATE, SMALLER, Judgement, judge
from nas.space.fill import with_filled_widths
from nas.space.search_space import SearchSpace

MAX_TRIES = 20_000  # draws after which the search for one candidate gives up
TRIES_PER_REPAIR = 1_000  # draws near one starting point, before the next repair starts elsewhere


class NoNewCandidateError(NasError):
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
        num_choices: Number of feasible random draws per start-up candidate; the one with the most parameters is taken,
            because larger networks are usually more accurate. Default: 1.
        min_share: Smallest share of the upper limits to fill, above 0 and at most 1. The share that a draw fills is
            log-uniform between `min_share` and 1. Default: 1.
    """

    def __init__(
        self,
        space: SearchSpace,
        constraints: Sequence[Constraint],
        *,
        propose: SamplerFunction = tpe,
        seed: int,
        max_lag: int = 0,
        num_startup: int = NUM_STARTUP,
        num_choices: int = 1,
        min_share: float = 1.0,
    ) -> None:
        self.space = space
        self.constraints = tuple(constraints)
        self.propose = propose
        self.seed = seed
        self.max_lag = max_lag
        self.num_startup = num_startup
        self.num_choices = num_choices
        self.min_share = min_share

    def num_results_needed(self, index: int) -> int:
        """Returns how many of the first candidates must have ended before the candidate `index` is drawn."""
        if index < self.num_startup or self.propose is random_search:
            return 0
        return max(self.num_startup, index - min(self.max_lag, index // 2))

    def draw(self, view: CandidateView, known_fingerprints: Set[str], *, max_discards: int = 0) -> DrawnCandidate:
        """Returns the next candidate.

        Args:
            view: View of the study's ended candidates.
            known_fingerprints: Fingerprints of all candidates so far. Their number is the index of the drawn candidate.
            max_discards: Maximum number of discards to return with their values; all are counted. Default: 0.

        Raises:
            NoNewCandidateError: If `MAX_TRIES` draws give no candidate that is feasible and new.
        """
        index = len(known_fingerprints)
        rng = Random(f"{self.seed} {index}")
        ended = view.study_before(self.num_results_needed(index))
        propose, num_choices = (self.propose, 1) if view.num_ended() else (random_search, self.num_choices)
        return _Draw(self, rng, known_fingerprints, max_discards).select(propose(self.space, ended, rng), num_choices)


class _FeasibleDraw(NamedTuple):
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

    def __init__(self, sampler: FeasibleSampler, rng: Random, known_fingerprints: Set[str], max_discards: int) -> None:
        self.space, self.constraints = sampler.space, sampler.constraints
        self.rng = rng
        self.share = math.exp(rng.uniform(math.log(sampler.min_share), 0.0)) if sampler.min_share < 1 else 1.0
        self.known_fingerprints = known_fingerprints
        self.max_discards = max_discards
        self.num_draws = 0
        self.discard_counts: Counter[str] = Counter()
        self.discards: list[Discard] = []

    def select(self, proposals: Iterator[Proposal], num_choices: int) -> DrawnCandidate:
        """Returns the largest of the first `num_choices` proposals that are feasible and new.

        If there is none, returns a repair of the proposal closest to the limits. Raises `NoNewCandidateError`.
        """
        feasible, violation, closest = self._judge_proposals(proposals, num_choices)
        while not feasible and self.num_draws < MAX_TRIES:
            feasible = self._repair(violation, closest)
            violation, closest = math.inf, self.space.draw(self.rng)  # the next repair starts from random values
        if not feasible:
            raise NoNewCandidateError(f"none of {self.num_draws:,} further draws is feasible and new")
        largest = self._take_largest(feasible)
        assert largest.judgement.cost is not None
        return DrawnCandidate(
            values=largest.values,
            candidate=largest.candidate,
            cost=largest.judgement.cost,
            fingerprint=largest.fingerprint,
            discard_counts=self.discard_counts,
            discards=tuple(self.discards),
        )

    def _judge_proposals(
        self, proposals: Iterator[Proposal], num_choices: int
    ) -> tuple[list[_FeasibleDraw], float, Values]:
        """Returns up to `num_choices` feasible, new proposals, and the smallest violation of the others and its values.

        If all are feasible and new, the violation is infinite and the values are random.
        """
        feasible: list[_FeasibleDraw] = []
        violation, closest = math.inf, self.space.draw(self.rng)
        for proposal in proposals:
            outcome = self._judge(proposal)
            if isinstance(outcome, _FeasibleDraw):
                feasible.append(outcome)
                if len(feasible) == num_choices:
                    break
            elif outcome.violation <= violation:
                violation, closest = outcome.violation, proposal.values
        return feasible, violation, closest

    def _take_largest(self, feasible: Sequence[_FeasibleDraw]) -> _FeasibleDraw:
        """Returns the draw with the most parameters and counts the others as discards."""
        largest = max(feasible, key=lambda each: each.params)
        for each in feasible:
            if each is not largest:
                self._discard(each.values, each.judgement._replace(reason=SMALLER))
        return largest

    def _repair(self, violation: float, values: Values) -> list[_FeasibleDraw]:
        """Returns a list with a feasible, new candidate, or an empty one after `TRIES_PER_REPAIR` draws.

        A random walk from `values`: each step draws a few parameters again, and must not increase the violation.
        """
        names = list(self.space.domains)
        for _ in range(TRIES_PER_REPAIR):
            changed = dict(values)
            for name in self.rng.sample(names, min(len(names), 1 + int(self.rng.expovariate(0.5)))):
                changed[name] = self.space.domains[name].draw(self.rng)
            outcome = self._judge(Proposal(changed))
            if isinstance(outcome, _FeasibleDraw):
                return [outcome]
            if outcome.violation <= violation:
                violation, values = outcome.violation, changed
        return []

    def _judge(self, proposal: Proposal) -> _FeasibleDraw | Judgement:
        """Returns the candidate if it is feasible and new; otherwise counts a discard and returns its judgement."""
        self.num_draws += 1
        values = proposal.values
        if proposal.fill:
            values = with_filled_widths(self.space, self.constraints, values, self.share)
        judgement = judge(self.space, self.constraints, values)
        if not judgement.reason:
            assert judgement.architecture is not None
            candidate = Candidate(judgement.architecture, self.space.recipe(values))
            fingerprint = candidate.fingerprint()
            if fingerprint not in self.known_fingerprints:
                return _FeasibleDraw(values, judgement, candidate, fingerprint)
            judgement = judgement._replace(reason=DUPLICATE)
        self._discard(values, judgement)
        return judgement

    def _discard(self, values: Values, judgement: Judgement) -> None:
        """Counts a discard, and keeps it if it is one of the first `max_discards`."""
        self.discard_counts[judgement.reason] += 1
        if len(self.discards) < self.max_discards:
            self.discards.append(Discard(values, judgement))
