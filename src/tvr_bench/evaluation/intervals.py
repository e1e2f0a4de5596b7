"""How far a number may lie from that of other test videos: intervals that hold what they promise.

Queries of one unit (a video with its captions, a group of hard negatives) share their luck, so all
spread is that between the units' sums, with a t of one degree less than there are units. Shares are
bounded by Wilson's interval with as many queries as would spread as much, which stays honest at 0
and 100 percent; `benchmarks/intervals.md` has how often each holds the truth.

Q queries, V units, S systems.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

LEVEL = 0.95
FEW_QUERIES = 50  # with fewer, an interval is wider than most differences between models

Floats = NDArray[np.float64]
Labels = NDArray[Any]  # [Q], equal where two queries are of one unit


def few_queries(queries: int) -> str:
    """Return the warning for a test of so few queries, "" where there are enough."""
    if queries >= FEW_QUERIES:
        return ""
    text = "1 query is" if queries == 1 else f"{queries} queries are"
    return f"{text} too few to tell models apart; take {FEW_QUERIES} or more"


def per_unit(values: Floats, units: Labels) -> tuple[Floats, Floats]:
    """Return the sums [V, S] of the values [Q, S] of each unit's queries, and their number [V]."""
    _, place, sizes = np.unique(units, return_inverse=True, return_counts=True)
    order = np.argsort(place, kind="stable")
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    ordered = np.asarray(values, dtype=np.float64)[order]
    return np.add.reduceat(ordered, starts, axis=0), sizes.astype(np.float64)


def share_intervals(
    values: Floats, units: Labels, *, most: float = 100.0, level: float = LEVEL
) -> Floats:
    """Return the interval [S, 2] of the mean of each column of `values` [Q, S], all 0 to `most`.

    It is never without width: where all values are 0, or all are `most`, every unit counts as one
    query.
    """
    means, variance, count = _spread(values / most, units)
    single = means * (1 - means)
    worth = np.full_like(means, float(count))  # queries that would spread as much
    np.divide(single, variance, out=worth, where=(single > 0) & (variance > 0))
    t = _t(count, level)
    if not np.isfinite(t):
        return np.tile([0.0, most], (len(means), 1))
    centre = (means + t**2 / (2 * worth)) / (1 + t**2 / worth)
    half = t / (1 + t**2 / worth) * np.sqrt(single / worth + t**2 / (4 * worth**2))
    return most * np.clip(np.stack([centre - half, centre + half], axis=1), 0.0, 1.0)


def difference_intervals(
    differences: Floats, units: Labels, *, most: float = np.inf, level: float = LEVEL
) -> Floats:
    """Return the interval [S, 2] of the mean of each column of paired differences [Q, S].

    They lie between -`most` and `most`. Where all are 0 it is as wide as a share of 0 would be of
    `most`; one unit bounds nothing.
    """
    means, variance, count = _spread(differences, units)
    half = np.full_like(means, np.inf)
    if count > 1:
        half = _t(count, level) * np.sqrt(variance)
        if np.isfinite(most):
            none = share_intervals(np.zeros((count, 1)), np.arange(count), most=most, level=level)
            half = np.where(np.any(differences != 0, axis=0), half, none[0, 1])
    return np.clip(np.stack([means - half, means + half], axis=1), -most, most)


def rank_interval(ranks: Floats, units: Labels, *, level: float = LEVEL) -> tuple[float, float]:
    """Return the interval of the mean of ranks [Q], on the log of what they exceed 1 by.

    It is not known, and NaN, for a single unit and where all ranks are 1.
    """
    means, variance, count = _spread(ranks[:, None] - 1, units)
    beyond = float(means[0])
    if count < 2 or beyond <= 0:
        return np.nan, np.nan
    factor = float(np.exp(_t(count, level) * np.sqrt(variance[0]) / beyond))
    return 1 + beyond / factor, 1 + beyond * factor


def median_interval(ranks: Floats, units: Labels, *, level: float = LEVEL) -> tuple[float, float]:
    """Return the interval of the median of ranks [Q]: the ranks at which its share may lie."""
    middle = np.median(ranks)
    shares = [(ranks <= middle).astype(float), (ranks < middle).astype(float)]
    bounds = share_intervals(np.stack(shares, axis=1), units, most=1.0, level=level)
    half = float(np.max(bounds[:, 1] - bounds[:, 0])) / 2
    low, high = np.clip([0.5 - half, 0.5 + half], 0, 1)
    return (
        float(np.quantile(ranks, low, method="lower")),
        float(np.quantile(ranks, high, method="higher")),
    )


def _spread(values: Floats, units: Labels) -> tuple[Floats, Floats, int]:
    """Return the means [S], the variances [S] of these over other units, and V."""
    sums, sizes = per_unit(values, units)
    count, queries = len(sizes), sizes.sum()
    means = sums.sum(axis=0) / queries
    left = sums - means * sizes[:, None]  # of a ratio: units differ in size
    return means, (left**2).sum(axis=0) * count / max(1, count - 1) / queries**2, count


def _t(count: int, level: float) -> float:
    return float(stdtrit(count - 1, (1 + level) / 2)) if count > 1 else float("inf")
