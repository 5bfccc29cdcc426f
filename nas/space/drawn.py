"""Result of a draw: a feasible, new candidate, its cost, and the discards before it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from nas.architecture.cost import Cost
from nas.space.candidate import Candidate
from nas.space.domains import Value
from nas.space.feasibility import Judgement

Values = dict[str, Value]
"""A value for each parameter of a search space."""


class Discard(NamedTuple):
    """Values that were drawn and not taken, and why."""

    values: Values
    judgement: Judgement


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A feasible, new candidate.

    counts: draws discarded before it, by reason. discards: the first of them, as many as were to be kept.
    """

    values: Values
    candidate: Candidate
    cost: Cost
    fingerprint: str
    counts: Mapping[str, int]
    discards: tuple[Discard, ...]

    @property
    def num_draws(self) -> int:
        """Draws that it took, itself included."""
        return sum(self.counts.values()) + 1
