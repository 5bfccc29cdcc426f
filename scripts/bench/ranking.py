"""How well scores rank candidates: correlations, gains, and their intervals.

Each statistic takes how often each candidate counts, (resamples, candidates), and gives one number a resample.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
DRAWN, TOP = 4, 0.1
RESAMPLES, SEED = 2000, 0


def rank_correlations(columns: Sequence[Array], counts: Array) -> Array:
    """Spearman's rho of every pair of columns: (resamples, columns, columns)."""
    ranks = np.stack([counts @ (np.sign(column - column[:, None]) / 2 + 0.5) for column in map(_order, columns)], 1)
    total = counts.sum(1)[:, None, None]
    centred = ranks - (ranks * counts[:, None]).sum(2, keepdims=True) / total
    covariances = (centred * counts[:, None]) @ centred.transpose(0, 2, 1)
    deviations = np.sqrt(np.diagonal(covariances, axis1=1, axis2=2))
    return np.asarray(covariances / (deviations[:, :, None] * deviations[:, None]))


def _order(column: Array) -> Array:
    """Ranks, which compare where the values may be infinite."""
    return np.unique(column, return_inverse=True)[1].astype(np.float64)


def spearman(scores: Array, target: Array, counts: Array) -> Array:
    return rank_correlations((scores, target), counts)[:, 0, 1]


def remaining(given: Sequence[Array], scores: Array, target: Array, counts: Array) -> Array:
    """Correlation of what is left of both ranks after a linear fit to the ranks of what is given."""
    precision = np.linalg.inv(rank_correlations((scores, target, *given), counts))
    return np.asarray(-precision[:, 0, 1] / np.sqrt(precision[:, 0, 0] * precision[:, 1, 1]))


def kendall(scores: Array, target: Array, counts: Array) -> Array:
    """Tau-b."""
    x, y = (np.sign(column - column[:, None]) for column in (_order(scores), _order(target)))
    both, of_x, of_y = (((counts @ pairs) * counts).sum(1) for pairs in (x * y, x * x, y * y))
    return np.asarray(both / np.sqrt(of_x * of_y))


def within(groups: NDArray[np.str_], scores: Array, target: Array, counts: Array) -> Array:
    """Mean of Spearman's rho within each group, each weighing as much as it has candidates."""
    rhos = [spearman(scores[groups == g], target[groups == g], counts[:, groups == g]) for g in np.unique(groups)]
    sizes = [counts[:, groups == g].sum(1) for g in np.unique(groups)]
    return np.asarray(np.average(rhos, axis=0, weights=sizes))


def kept_shares(scores: Array, counts: Array) -> Array:
    """How likely each candidate is the one kept of DRAWN at random: (resamples, candidates); ties are drawn for."""
    order = _order(scores).astype(int)
    shares = counts / counts.sum(1, keepdims=True)
    groups = np.zeros((len(counts), order.max() + 1))
    np.add.at(groups.T, order, shares.T)
    up_to = groups.cumsum(1)
    wins = up_to**DRAWN - (up_to - groups) ** DRAWN
    rates = np.divide(wins, groups, out=np.zeros_like(wins), where=groups > 0)
    return np.asarray(rates[:, order] * shares)


def gain(scores: Array, target: Array, counts: Array) -> Array:
    """Mean objective of the kept minus that of all."""
    return np.asarray(kept_shares(scores, counts) @ target - counts @ target / counts.sum(1))


def more(than: Array, scores: Array, target: Array, counts: Array) -> Array:
    """The gain above that by other scores."""
    return gain(scores, target, counts) - gain(than, target, counts)


def top_lost(scores: Array, target: Array, counts: Array) -> Array:
    """Of the draws with a candidate of the top, the share that keep one that is not."""
    top = target >= np.quantile(target, 1 - TOP)
    among = counts[:, top].sum(1) / counts.sum(1)
    drawn = np.where(among > 0, 1 - (1 - among) ** DRAWN, np.nan)
    return np.asarray((1 - kept_shares(scores, counts)[:, top].sum(1) / drawn).clip(0))


@dataclass(frozen=True, slots=True)
class Resampling:
    """The candidates as they are and resampled, the same way for every statistic, so that differences are paired."""

    once: Array
    counts: Array

    @classmethod
    def of(cls, size: int) -> "Resampling":
        rng = np.random.default_rng(SEED)
        return cls(np.ones((1, size)), rng.multinomial(size, np.full(size, 1 / size), RESAMPLES).astype(np.float64))

    def of_some(self, chosen: NDArray[np.bool_]) -> "Resampling":
        return Resampling(self.once[:, chosen], self.counts[:, chosen])

    def cell(self, statistic: Callable[[Array], Array], form: str = "+.2f", unit: float = 1) -> str:
        """The statistic with its 95 % interval."""
        low, high = np.nanquantile(statistic(self.counts), (0.025, 0.975)) * unit
        return f"{statistic(self.once)[0] * unit:{form}} [{low:{form}}, {high:{form}}]"
