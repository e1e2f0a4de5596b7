"""Whether two systems differ: tests of a difference, and its spread over seeds.

The unit of chance is a video, or whatever else shares its luck: the signs of its queries are
flipped together (`clusters`). The seeds of a system are averaged per query before that. So an
interval and a p-value speak of the trained weights on other videos, and the spread over seeds is a
figure of its own (`mean_sd`, `seed_error`), to be read beside them.

Q queries, V videos, S systems (or comparisons of two), R seeds (runs).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tvr_bench.evaluation.intervals import Floats, Labels, difference_intervals, per_unit

DRAWS = 10_000
ALPHA = 0.05
_CELLS = 1 << 16  # of a block of draws, which then stays in the cache of a core
_ROUNDING = 1e-9  # two sums of the same numbers in another order differ by less, relatively


@dataclass(frozen=True)
class Comparison:
    """What parts one system from another: `first` less `second`, in the unit of the values.

    `low` and `high` bound it over other videos, `p` is two-sided (sign flips). `seed_error` is the
    standard error of the difference over seeds, None where a system has a single one.
    """

    first: float
    second: float
    difference: float
    low: float
    high: float
    p: float
    queries: int
    videos: int
    seed_error: float | None

    @property
    def beyond_seeds(self) -> bool | None:
        """Whether the difference exceeds two standard errors over seeds; None where unknown."""
        return None if self.seed_error is None else abs(self.difference) > 2 * self.seed_error


def mean_sd(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean and the standard deviation (n - 1) of one value per seed; None for one."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, None
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))


def seed_error(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return the standard error of the difference of two means over seeds; None without an sd."""
    spread = 0.0
    for values in (first, second):
        _, sd = mean_sd(values)
        if sd is None:
            return None
        spread += sd**2 / len(values)
    return math.sqrt(spread)


def sign_flip_test(
    differences: Floats, clusters: Labels, *, draws: int = DRAWS, seed: int = 0
) -> Floats:
    """Return the two-sided p [S] that each column of `differences` [Q, S] has mean zero.

    Under the null a video's two results may change places, which flips the sign of its summed
    difference. All sign patterns are tried where they are no more than `draws`; else p is
    (1 + draws at least as far from zero) / (1 + draws), which is never 0 and valid for any draws.
    """
    sums, _ = per_unit(differences, clusters)
    observed = np.abs(sums.sum(axis=0))
    bar = observed - _ROUNDING * np.abs(sums).sum(axis=0)
    few = np.flatnonzero(2.0 ** np.count_nonzero(sums, axis=0) <= draws)
    p = np.empty(sums.shape[1])
    for column in few:
        p[column] = _all_patterns(sums[:, column], bar[column])
    many = np.setdiff1d(np.arange(sums.shape[1]), few)
    if many.size:
        far = _random_patterns(sums[:, many], bar[many], draws, seed)
        p[many] = (1 + far) / (1 + draws)
    return p


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values adjusted for their number by Holm's step-down, in the given order."""
    adjusted = [1.0] * len(p_values)
    largest = 0.0
    for step, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - step) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def compare_values(
    first: Floats,
    second: Floats,
    clusters: Labels,
    *,
    most: float = np.inf,
    draws: int = DRAWS,
    seed: int = 0,
) -> Comparison:
    """Return the comparison of two systems by their values [R, Q] per seed and query, 0 to `most`.

    Both have the queries in the same order, whose videos are `clusters` [Q]; the numbers of seeds
    may differ.
    """
    difference = (first.mean(axis=0) - second.mean(axis=0))[:, None]
    low, high = difference_intervals(difference, clusters, most=most)[0]
    return Comparison(
        first=float(first.mean()),
        second=float(second.mean()),
        difference=float(difference.mean()),
        low=float(low),
        high=float(high),
        p=float(sign_flip_test(difference, clusters, draws=draws, seed=seed)[0]),
        queries=difference.shape[0],
        videos=len(np.unique(clusters)),
        seed_error=seed_error(first.mean(axis=1).tolist(), second.mean(axis=1).tolist()),
    )


def _blocks(draws: int, width: int) -> Iterator[slice]:
    step = max(1, _CELLS // max(1, width))
    for start in range(0, draws, step):
        yield slice(start, min(start + step, draws))


def _all_patterns(sums: Floats, bar: float) -> float:
    """Return the share of all sign patterns whose sum is at least `bar` from zero."""
    totals = np.zeros(1)
    for value in sums[sums != 0]:
        totals = np.concatenate([totals + value, totals - value])
    return float(np.mean(np.abs(totals) >= bar))


def _random_patterns(sums: Floats, bar: Floats, draws: int, seed: int) -> NDArray[np.int64]:
    """Return how many of `draws` random sign patterns bring each column `bar` from zero."""
    rng = np.random.default_rng(seed)
    far = np.zeros(sums.shape[1], dtype=np.int64)
    for block in _blocks(draws, len(sums)):
        shape = (block.stop - block.start, len(sums))
        signs = rng.integers(0, 2, shape, dtype=np.int8).astype(np.float64) * 2 - 1
        far += (np.abs(signs @ sums) >= bar).sum(axis=0)
    return far
