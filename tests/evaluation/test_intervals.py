"""Intervals hold the truth as often as they say, and stay honest where a sample says little."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tvr_bench.evaluation.intervals import (
    difference_intervals,
    few_queries,
    median_interval,
    rank_interval,
    share_intervals,
)


def _shares(
    rng: np.random.Generator, p: float, units: int, size: int, alike: float, tests: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return hits [Q, tests] in percent whose units are `alike` (their correlation), and units."""
    luck = np.full((units, tests), p)
    if alike:
        luck = rng.beta(p * (1 / alike - 1), (1 - p) * (1 / alike - 1), (units, tests))
    hits = rng.random((units * size, tests)) < np.repeat(luck, size, axis=0)
    return 100.0 * hits, np.repeat(np.arange(units), size)


def _held(bounds: np.ndarray, truth: float) -> float:
    return float(np.mean((bounds[:, 0] <= truth) & (truth <= bounds[:, 1])))


@pytest.mark.parametrize(("size", "alike"), [(1, 0.0), (4, 0.2)])
@pytest.mark.parametrize("queries", [52, 252, 1_000])
def test_95_in_100_intervals_of_a_recall_hold_the_truth(
    queries: int, size: int, alike: float
) -> None:
    rng = np.random.default_rng(4)
    held = []
    for p in (0.02, 0.1, 0.3, 0.5, 0.9, 0.98):
        values, units = _shares(rng, p, queries // size, size, alike, tests=1_000)
        held.append(_held(share_intervals(values, units), 100 * p))
    assert 0.93 <= np.mean(held) <= 0.97
    assert min(held) > 0.92


def test_intervals_of_rank_means_and_medians_hold_the_truth() -> None:
    rng = np.random.default_rng(5)
    mean, middle, units = [], [], np.repeat(np.arange(100), 2)
    luck = rng.normal(size=(500, 100)).repeat(2, axis=1)
    ranks = 1 + np.floor(np.exp(1.5 + 0.6 * luck + 1.0 * rng.normal(size=luck.shape)))
    truth = ranks.mean(), np.median(ranks)
    for test in ranks:
        for found, bounds, right in (
            (mean, rank_interval(test, units), truth[0]),
            (middle, median_interval(test, units), truth[1]),
        ):
            found.append(bounds[0] <= right <= bounds[1])
    assert 0.92 <= np.mean(mean) <= 0.98
    assert np.mean(middle) >= 0.93


@pytest.mark.parametrize(
    ("hits", "queries", "bounds"),
    [(2, 2, (0, 100)), (0, 32, (0, 12)), (32, 32, (88, 100)), (1, 1, (0, 100)), (0, 1, (0, 100))],
)
def test_no_interval_of_a_share_is_without_width(
    hits: int, queries: int, bounds: tuple[float, float]
) -> None:
    values = np.where(np.arange(queries) < hits, 100.0, 0.0)[:, None]
    low, high = share_intervals(values, np.arange(queries))[0]
    assert low >= bounds[0] and high <= bounds[1]
    assert high - low > 100 / (queries + 4)
    same = share_intervals(values, np.zeros(queries))[0]
    assert same.tolist() == [0, 100], "one video says nothing of others"


def test_without_clusters_it_is_wilsons_interval() -> None:
    n, p, z = 100_000, 0.3, 1.959964
    values = (100.0 * (np.arange(n) % 10 < 3))[:, None]
    low, high = share_intervals(values, np.arange(n))[0] / 100
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert (low, high) == pytest.approx((centre - half, centre + half), abs=1e-6)


def test_a_unit_of_ten_alike_counts_as_one() -> None:
    hits = 100.0 * (np.arange(100) % 10 < 3)
    single = share_intervals(hits[:, None], np.arange(100))
    tenfold = share_intervals(np.repeat(hits, 10)[:, None], np.repeat(np.arange(100), 10))
    assert tenfold == pytest.approx(single)


def test_differences_are_paired_and_never_without_width() -> None:
    rng = np.random.default_rng(1)
    values = rng.choice([-100.0, 0.0, 100.0], (300, 400), p=[0.1, 0.7, 0.2])
    assert 0.93 <= _held(difference_intervals(values, np.arange(300), most=100), 10.0) <= 0.97
    low, high = difference_intervals(np.zeros((32, 1)), np.arange(32), most=100)[0]
    assert low == -high and 5 < high < 12
    assert difference_intervals(np.ones((3, 1)), np.zeros(3), most=100)[0].tolist() == [-100, 100]


def test_columns_and_the_order_of_queries_do_not_matter() -> None:
    rng = np.random.default_rng(2)
    values, units = rng.integers(0, 101, (90, 4)).astype(float), rng.integers(0, 40, 90)
    order = rng.permutation(90)
    for function in (share_intervals, difference_intervals):
        whole = function(values, units)
        assert np.allclose(function(values[order], units[order]), whole)
        assert np.allclose(
            np.concatenate([function(values[:, [i]], units) for i in range(4)]), whole
        )


def test_few_queries_are_warned_of() -> None:
    assert "2 queries are too few" in few_queries(2) and "1 query is" in few_queries(1)
    assert few_queries(50) == ""
