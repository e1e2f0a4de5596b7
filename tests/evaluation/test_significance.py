"""Intervals and tests, held to slow loops, to exact enumeration and to their own promises."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvr_bench.evaluation.significance import (
    compare_values,
    holm,
    mean_sd,
    seed_error,
    sign_flip_test,
)

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


def _exact_p(values: list[Fraction], clusters: list[int]) -> Fraction:
    """The sign-flip p by writing out every pattern of signs, in exact fractions."""
    sums = [
        sum((v for v, c in zip(values, clusters, strict=True) if c == video), Fraction(0))
        for video in sorted(set(clusters))
    ]
    far = sum(
        abs(sum(sign * s for sign, s in zip(signs, sums, strict=True))) >= abs(sum(sums))
        for signs in itertools.product((1, -1), repeat=len(sums))
    )
    return Fraction(far, 2 ** len(sums))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(-3, 3), st.integers(1, 3), st.integers(0, 5)), min_size=1, max_size=14
    )
)
def test_few_videos_are_enumerated_exactly(rows: list[tuple[int, int, int]]) -> None:
    values = [Fraction(a, b) for a, b, _ in rows]
    clusters = [c for *_, c in rows]
    table = np.array([[float(v)] for v in values])
    (p,) = sign_flip_test(table, np.array(clusters))
    assert p == pytest.approx(float(_exact_p(values, clusters)), abs=1e-12)


def test_random_signs_come_close_to_the_enumeration() -> None:
    rng = np.random.default_rng(5)
    values = rng.choice([-2, -1, 1, 2], (14, 6)) / 3
    clusters = np.arange(14)
    exact = sign_flip_test(values, clusters, draws=1 << 14)
    drawn = sign_flip_test(values, clusters, draws=3_000)
    assert not np.array_equal(exact, drawn)
    assert np.abs(exact - drawn).max() < 4 * math.sqrt(0.25 / 3_000)


def test_closed_forms_of_the_sign_flip_test() -> None:
    one_sided = np.ones((10, 1))  # only all-plus and all-minus are as far from zero
    assert sign_flip_test(one_sided, np.arange(10))[0] == 2 / 2**10
    assert sign_flip_test(np.zeros((50, 1)), np.arange(50))[0] == 1
    together = sign_flip_test(one_sided, np.zeros(10))  # one video: nothing to tell apart
    assert together[0] == 1
    far = sign_flip_test(np.ones((300, 1)), np.arange(300))[0]
    assert far == 1 / 10_001  # never 0


def test_binomial_tail_of_many_videos() -> None:
    n, plus = 400, 225
    values = np.where(np.arange(n) < plus, 1.0, -1.0)[:, None]
    tail = 2 * sum(math.comb(n, k) for k in range(plus, n + 1)) / 2**n
    p = sign_flip_test(values, np.arange(n), draws=40_000)[0]
    assert p == pytest.approx(tail, abs=4 * math.sqrt(tail / 40_000))


def test_p_is_uniform_where_nothing_differs() -> None:
    rng = np.random.default_rng(11)
    clusters = np.repeat(np.arange(60), 3)
    video = rng.normal(size=(60, 2_000))  # luck that a video's three queries share
    values = np.repeat(video, 3, axis=0) + rng.normal(size=(180, 2_000))
    p = np.sort(sign_flip_test(values, clusters, draws=999))
    gap = np.abs(p - (np.arange(2_000) + 0.5) / 2_000).max()
    assert gap < 1.63 / math.sqrt(2_000)  # Kolmogorov-Smirnov at 1 %
    blind = sign_flip_test(values, np.arange(180), draws=999)
    assert np.mean(p < 0.05) < 0.07 < 0.1 < np.mean(blind < 0.05)  # what clustering is for


def test_the_order_of_queries_and_neighbours_do_not_matter() -> None:
    rng = np.random.default_rng(2)
    values, clusters = rng.normal(size=(90, 4)), rng.integers(0, 40, 90)
    order = rng.permutation(90)
    whole = sign_flip_test(values, clusters)
    assert np.allclose(sign_flip_test(values[order], clusters[order]), whole)
    alone = [sign_flip_test(values[:, [i]], clusters)[0] for i in range(4)]
    assert np.allclose(np.array(alone), whole)


def test_blocks_of_draws_cover_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(6).normal(0.1, 1, (50, 2))
    p = sign_flip_test(values, np.arange(50), draws=2_000)
    monkeypatch.setattr("tvr_bench.evaluation.significance._CELLS", 350)
    assert np.allclose(sign_flip_test(values, np.arange(50), draws=2_000), p, atol=0.04)


def test_holm_by_hand() -> None:
    assert holm([]) == []
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]


@given(P_VALUES)
def test_holm_rejects_what_the_step_down_rejects(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    for alpha in (0.01, 0.05, 0.2):
        rejected = set()
        for step, i in enumerate(sorted(range(len(p_values)), key=lambda i: (p_values[i], i))):
            if min(1.0, (len(p_values) - step) * p_values[i]) > alpha:
                break
            rejected.add(i)
        assert {i for i, p in enumerate(adjusted) if p <= alpha} == rejected
    assert all(a >= p for a, p in zip(adjusted, p_values, strict=True))


def test_seeds_are_averaged_and_their_spread_is_told() -> None:
    assert mean_sd([40.0]) == (40.0, None)
    assert mean_sd([40.0, 44.0]) == (42.0, pytest.approx(math.sqrt(8)))
    assert seed_error([1.0, 3.0], [5.0]) is None
    assert seed_error([1.0, 3.0], [5.0, 5.0, 5.0]) == pytest.approx(1.0)


def test_two_systems_compared() -> None:
    rng = np.random.default_rng(8)
    base = rng.random(300)
    strong = np.stack([(base < 0.6).astype(float), (base < 0.62).astype(float)])
    weak = np.stack([(base < 0.4).astype(float)] * 3)
    found = compare_values(strong, weak, np.arange(300) // 2)
    assert found.difference == pytest.approx(strong.mean() - weak.mean())
    assert found.low < found.difference < found.high
    assert (found.queries, found.videos) == (300, 150)
    assert found.p == 1 / 10_001
    assert found.beyond_seeds is True
    swapped = compare_values(weak, strong, np.arange(300) // 2)
    assert (swapped.low, swapped.high) == pytest.approx((-found.high, -found.low))
    assert swapped.p == found.p
    single = compare_values(strong[:1], weak, np.arange(300))
    assert (single.seed_error, single.beyond_seeds) == (None, None)
