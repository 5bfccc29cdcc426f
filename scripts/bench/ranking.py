"""Statistics of how well scores rank candidates: correlations, gains, and their bootstrap intervals.

`counts`, (resamples, candidates), is how often each candidate occurs in each resample. Statistics return one number per
resample.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
DRAWN, TOP = 4, 0.1
RESAMPLES, SEED = 2000, 0


def rank_correlations(columns: Sequence[Array], counts: Array) -> Array:
    """Returns Spearman's rho of every pair of columns, (resamples, columns, columns)."""
    ranks = np.stack([counts @ (np.sign(column - column[:, None]) / 2 + 0.5) for column in map(_order, columns)], 1)
    total = counts.sum(1)[:, None, None]
    centred = ranks - (ranks * counts[:, None]).sum(2, keepdims=True) / total
    covariances = (centred * counts[:, None]) @ centred.transpose(0, 2, 1)
    deviations = np.sqrt(np.diagonal(covariances, axis1=1, axis2=2))
    return np.asarray(covariances / (deviations[:, :, None] * deviations[:, None]))


def _order(column: Array) -> Array:
    """Returns ranks, because the difference of two infinite scores is NaN."""
    return np.unique(column, return_inverse=True)[1].astype(np.float64)


def spearman(scores: Array, target: Array, counts: Array) -> Array:
    return rank_correlations((scores, target), counts)[:, 0, 1]


def partial_correlation(given: Sequence[Array], scores: Array, target: Array, counts: Array) -> Array:
    """Returns the partial rank correlation of `scores` and `target`, controlled for `given`."""
    precision = np.linalg.inv(rank_correlations((scores, target, *given), counts))
    return np.asarray(-precision[:, 0, 1] / np.sqrt(precision[:, 0, 0] * precision[:, 1, 1]))


def kendall(scores: Array, target: Array, counts: Array) -> Array:
    """Returns Kendall's tau-b."""
    x, y = (np.sign(column - column[:, None]) for column in (_order(scores), _order(target)))
    both, of_x, of_y = (((counts @ pairs) * counts).sum(1) for pairs in (x * y, x * x, y * y))
    return np.asarray(both / np.sqrt(of_x * of_y))


def within(groups: NDArray[np.str_], scores: Array, target: Array, counts: Array) -> Array:
    """Returns the mean of Spearman's rho within each group, weighted by the number of candidates."""
    rhos = [spearman(scores[groups == g], target[groups == g], counts[:, groups == g]) for g in np.unique(groups)]
    sizes = [counts[:, groups == g].sum(1) for g in np.unique(groups)]
    return np.asarray(np.average(rhos, axis=0, weights=sizes))


def selection_probabilities(scores: Array, counts: Array) -> Array:
    """Returns the probability that each candidate is kept as the best of DRAWN random draws, (resamples, candidates).

    Ties are broken at random.
    """
    order = _order(scores).astype(int)
    shares = counts / counts.sum(1, keepdims=True)
    groups = np.zeros((len(counts), order.max() + 1))
    np.add.at(groups.T, order, shares.T)
    up_to = groups.cumsum(1)
    wins = up_to**DRAWN - (up_to - groups) ** DRAWN
    rates = np.divide(wins, groups, out=np.zeros_like(wins), where=groups > 0)
    return np.asarray(rates[:, order] * shares)


def gain(scores: Array, target: Array, counts: Array) -> Array:
    """Returns the mean objective of the kept candidate minus that of all candidates."""
    return np.asarray(selection_probabilities(scores, counts) @ target - counts @ target / counts.sum(1))


def more(than: Array, scores: Array, target: Array, counts: Array) -> Array:
    """Returns the gain by `scores` minus the gain by the scores `than`."""
    return gain(scores, target, counts) - gain(than, target, counts)


def top_lost(scores: Array, target: Array, counts: Array) -> Array:
    """Returns how often no top candidate is kept, as a share of the cases in which one is drawn."""
    top = target >= np.quantile(target, 1 - TOP)
    among = counts[:, top].sum(1) / counts.sum(1)
    drawn = np.where(among > 0, 1 - (1 - among) ** DRAWN, np.nan)
    return np.asarray((1 - selection_probabilities(scores, counts)[:, top].sum(1) / drawn).clip(0))


@dataclass(frozen=True, slots=True)
class Resampling:
    """The candidates, unchanged and resampled; all statistics use the same resamples, so differences are paired."""

    once: Array
    counts: Array

    @classmethod
    def of(cls, size: int) -> "Resampling":
        rng = np.random.default_rng(SEED)
        return cls(np.ones((1, size)), rng.multinomial(size, np.full(size, 1 / size), RESAMPLES).astype(np.float64))

    def of_some(self, chosen: NDArray[np.bool_]) -> "Resampling":
        return Resampling(self.once[:, chosen], self.counts[:, chosen])

    def cell(self, statistic: Callable[[Array], Array], form: str = "+.2f", unit: float = 1) -> str:
        """Returns the statistic with its 95 % interval as text."""
        low, high = np.nanquantile(statistic(self.counts), (0.025, 0.975)) * unit
        return f"{statistic(self.once)[0] * unit:{form}} [{low:{form}}, {high:{form}}]"
