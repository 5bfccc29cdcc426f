"""DrawnCandidate: the result of a draw, with a feasible new candidate, its cost and the discards before it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from nas.architecture.cost import Cost
from nas.space.candidate import Candidate
from nas.space.domains import Values
from nas.space.feasibility import Judgement


class Discard(NamedTuple):
    """Drawn values that were discarded, and the judgement with the reason."""

    values: Values
    judgement: Judgement


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnCandidate:
    """A feasible candidate that is new to the study.

    Attributes:
        values: its value of each drawn parameter.
        candidate: its network and recipe.
        cost: cost of its network.
        fingerprint: fingerprint of the candidate.
        discard_counts: number of draws discarded before it, by reason.
        discards: the first of these discards, up to the number that the caller asked for.
    """

    values: Values
    candidate: Candidate
    cost: Cost
    fingerprint: str
    discard_counts: Mapping[str, int]
    discards: tuple[Discard, ...]

    @property
    def num_draws(self) -> int:
        """Number of draws, including the candidate itself."""
        return sum(self.discard_counts.values()) + 1
