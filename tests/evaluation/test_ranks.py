"""Ranks and metrics against the slow reference, and the traps of other metric code."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tvr_bench.errors import UserError
from tvr_bench.evaluation.counting import count_nan, count_rows
from tvr_bench.evaluation.ranks import Ranks, rank, retrieval_metrics

KEYS = ("R@1", "R@5", "R@10", "R@50", "RSum", "MdR", "MnR", "R@1_optimistic")
STYLES = ("plain", "ties", "nan", "infinite", "negative", "constant", "bf16", "float64", "mixed")


def random_scores(rng: np.random.Generator, style: str, shape: tuple[int, int]) -> np.ndarray:
    scores = rng.normal(size=shape).astype(np.float32)
    if style in ("ties", "mixed"):
        scores = np.round(2 * scores) / 2
    if style in ("nan", "mixed"):
        scores[rng.random(shape) < 0.3] = np.nan
    if style in ("infinite", "mixed"):
        scores[rng.random(shape) < 0.2] = np.inf
        scores[rng.random(shape) < 0.2] = -np.inf
    if style == "negative":
        scores = -np.abs(scores) - 1
    if style == "constant":
        scores[:] = rng.normal()
    if style == "bf16":
        scores = (0.3 + 0.01 * torch.from_numpy(scores)).bfloat16().float().numpy()
    if style == "float64":  # differences that float32 cannot hold
        scores = 1 + 1e-12 * rng.integers(0, 4, size=shape)
    return scores


def random_gold(rng: np.random.Generator, several: bool, shape: tuple[int, int]) -> np.ndarray:
    first = rng.integers(0, shape[1], size=shape[0])
    if not several:
        return first
    mask = rng.random(shape) < 0.2
    mask[np.arange(shape[0]), first] = True
    return mask


def as_sets(gold: np.ndarray) -> list[set[int]]:
    if gold.ndim == 1:
        return [{int(column)} for column in gold]
    return [set(np.flatnonzero(row).tolist()) for row in gold]


def quiet_metrics(scores, gold):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return retrieval_metrics(scores, gold)


def assert_same(ours, reference, case):
    for key in KEYS:
        assert ours[key] == pytest.approx(reference[key], rel=1e-12, abs=1e-10), (key, case)


def test_thousand_random_matrices_equal_the_slow_reference(slow_metrics):
    rng = np.random.default_rng(7)
    for case in range(1000):
        style, several = STYLES[case % len(STYLES)], bool(rng.integers(2))
        shape = (int(rng.integers(1, 9)), int(rng.integers(1, 15 if case % 5 else 70)))
        scores = random_scores(rng, style, shape)
        gold = random_gold(rng, several and shape[1] < 15, shape)
        ours = quiet_metrics(scores, gold)
        assert_same(ours, slow_metrics(scores.tolist(), as_sets(gold)), (case, style, shape))
        assert ours["R@1_pessimistic"] <= ours["R@1"] + 1e-9
        assert ours["R@1"] <= ours["R@1_optimistic"] + 1e-9
        assert ours["queries"] == shape[0]


@settings(max_examples=200, deadline=None)
@given(
    scores=hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=6),
        elements=st.sampled_from([0.0, -0.0, 1.0, -1.0, np.nan, np.inf, -np.inf, 3e38, 1e-45]),
    ),
    data=st.data(),
)
def test_any_matrix_equals_the_slow_reference(slow_metrics, scores, data):
    mask = data.draw(hnp.arrays(np.bool_, scores.shape))
    mask[:, 0] |= ~mask.any(1)
    reference = slow_metrics(scores.tolist(), as_sets(mask))
    assert_same(quiet_metrics(scores, mask), reference, scores)
    assert_same(quiet_metrics(torch.from_numpy(scores), torch.from_numpy(mask)), reference, scores)


@pytest.mark.parametrize("items", [1, 2, 7, 50, 333])
def test_constant_scorer_gets_exactly_chance(items):
    metrics = retrieval_metrics(np.full((41, items), -0.3, np.float32), np.arange(41) % items)
    for k in (1, 5, 10, 50):
        assert metrics[f"R@{k}"] == pytest.approx(100 * min(1, k / items), rel=1e-14)
    assert metrics["MdR"] == metrics["MnR"] == (items + 1) / 2
    assert metrics["tied_queries"] == (41 if items > 1 else 0)
    assert metrics["R@1_optimistic"] == 100
    assert metrics["R@1_pessimistic"] == (0 if items > 1 else 100)


def test_constant_scorer_with_several_gold_gets_the_hypergeometric_chance():
    gold = np.zeros((4, 10), bool)
    gold[:, [1, 4, 7]] = True
    metrics = retrieval_metrics(np.zeros((4, 10)), gold)
    assert metrics["R@1"] == pytest.approx(30)
    assert metrics["R@5"] == pytest.approx(100 * (1 - 21 / 252))  # C(7,5) / C(10,5)
    assert metrics["MnR"] == pytest.approx(11 / 4)  # the first of 3 among 10: (10 + 1) / (3 + 1)


def test_nan_scorer_misses_everything_but_keeps_its_queries():
    with pytest.warns(RuntimeWarning, match=r"3600 of 3600 scores are NaN.*60 of 60 queries"):
        metrics = retrieval_metrics(np.full((60, 60), np.nan, np.float32), np.arange(60))
    assert [metrics[f"R@{k}"] for k in (1, 5, 10, 50)] == [0, 0, 0, 0]
    assert (metrics["MdR"], metrics["MnR"]) == (60, 60)
    assert (metrics["queries"], metrics["nan_queries"], metrics["tied_queries"]) == (60, 60, 0)


def test_nan_of_the_right_item_is_a_miss_and_of_a_wrong_item_is_last():
    scores = np.array([[np.nan, 0, -1], [np.nan, -5, -9], [-np.inf, np.nan, np.nan]])
    with pytest.warns(RuntimeWarning, match="4 of 9"):
        metrics = retrieval_metrics(scores, [0, 1, 0])
    assert rank(scores, [0, 1, 0]).expected.tolist() == [3, 1, 1]
    assert metrics["R@1"] == pytest.approx(200 / 3)
    assert metrics["nan_queries"] == 1


def test_one_number_among_several_gold_is_enough():
    ranks = rank(np.array([[np.nan, 5.0, 7.0]]), np.array([[True, True, False]]))
    assert (ranks.expected[0], bool(ranks.nan[0])) == (2, False)
    ranks = rank(np.array([[np.nan, np.nan, 7.0]]), np.array([[True, True, False]]))
    assert (ranks.expected[0], bool(ranks.nan[0])) == (3, True)


def test_negative_scores_count_like_any_others():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(30, 30))
    gold = rng.integers(0, 30, 30)
    assert retrieval_metrics(scores - 100, gold) == retrieval_metrics(scores, gold)


def test_adding_a_constant_and_doubling_change_nothing():
    rng = np.random.default_rng(1)
    scores = rng.integers(-40, 40, size=(50, 60)).astype(np.float32)
    gold = rng.integers(0, 60, 50)
    plain = retrieval_metrics(scores, gold)
    assert retrieval_metrics(scores + 1024, gold) == plain
    assert retrieval_metrics(2 * scores, gold) == plain


def test_permuted_items_and_queries_change_nothing():
    rng = np.random.default_rng(2)
    scores = np.round(rng.normal(size=(40, 60)), 1)
    gold = random_gold(rng, True, (40, 60))
    columns, rows = rng.permutation(60), rng.permutation(40)
    moved = retrieval_metrics(scores[rows][:, columns], gold[rows][:, columns])
    assert moved == retrieval_metrics(scores, gold)


def test_bf16_ties_are_counted_and_shared(slow_metrics):
    rng = np.random.default_rng(3)
    exact = torch.from_numpy(0.25 + 0.01 * rng.normal(size=(60, 60))) + 0.015 * torch.eye(60)
    rounded = exact.bfloat16()
    metrics = retrieval_metrics(rounded, np.arange(60))
    assert metrics["tied_queries"] > 20
    assert metrics["R@1_pessimistic"] < metrics["R@1"] < metrics["R@1_optimistic"]
    assert_same(metrics, slow_metrics(rounded.tolist(), [{i} for i in range(60)]), "bf16")


@pytest.mark.parametrize(
    "dtype", ["float16", "float32", "float64", "int8", "int64", "uint16", ">f4"]
)
@pytest.mark.parametrize("layout", ["plain", "transposed", "reversed", "strided", "readonly"])
def test_any_dtype_and_memory_layout_gives_the_same_ranks(dtype, layout):
    rng = np.random.default_rng(4)
    scores = rng.integers(0, 9, size=(300, 1000)).astype(dtype)
    gold = rng.integers(0, 1000, 300)
    expected = rank(scores.astype(np.float64), gold).expected
    laid = {
        "plain": scores,
        "transposed": np.asfortranarray(scores),
        "reversed": scores[::-1][::-1],
        "strided": np.repeat(scores, 2, axis=1)[:, ::2],
        "readonly": scores.copy(),
    }[layout]
    laid.setflags(write=layout != "readonly")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(rank(laid, gold).expected, expected)


def test_float64_is_compared_in_float64():
    scores = np.array([[1.0, 1.0 + 1e-15]])
    assert rank(scores, [0]).expected.tolist() == [2]
    assert rank(torch.from_numpy(scores).float(), [0]).expected.tolist() == [1.5]


def test_ranks_over_many_chunks_equal_a_plain_count():
    rng = np.random.default_rng(5)
    scores = rng.integers(0, 50, size=(1500, 700)).astype(np.float32)
    threshold = rng.integers(0, 50, size=1500).astype(np.float32)
    for view in (torch.from_numpy(scores), torch.from_numpy(np.asfortranarray(scores))):
        above, level = count_rows(view, torch.from_numpy(threshold))
        np.testing.assert_array_equal(above, (scores > threshold[:, None]).sum(1))
        np.testing.assert_array_equal(level, (scores == threshold[:, None]).sum(1))


def test_infinities_of_both_signs_are_no_nan():
    scores = torch.zeros(600, 600)
    scores[0, 0], scores[599, 599] = torch.inf, -torch.inf
    assert count_nan(scores) == 0
    scores[300, 300] = torch.nan
    assert count_nan(scores) == 1
    assert count_nan(torch.zeros(3, 3, dtype=torch.int64)) == 0


def test_median_averages_the_middle_two():
    scores = np.array([[3, 2, 1, 0], [3, 2, 1, 0]])
    assert retrieval_metrics(scores, [0, 3])["MdR"] == 2.5
    assert retrieval_metrics(scores, [0, 3])["MnR"] == 2.5


def test_take_keeps_the_chosen_queries():
    ranks = rank(np.eye(4) * [1, 1, 0, 1], np.arange(4))
    assert ranks.take(np.array([False, False, True, True])).expected.tolist() == [2.5, 1]
    with pytest.raises(UserError, match="no query"):
        ranks.take(np.array([], dtype=np.int64)).metrics()


def test_metrics_are_plain_numbers():
    metrics = retrieval_metrics(torch.eye(3), torch.arange(3))
    assert {type(value) for value in metrics.values()} <= {int, float}
    assert metrics["R@1"] == 100 and metrics["RSum"] == 300 and metrics["MdR"] == 1
    assert isinstance(rank(torch.eye(3), torch.arange(3)), Ranks)


@pytest.mark.parametrize(
    ("scores", "gold", "message"),
    [
        (np.zeros((0, 3)), [], "not empty"),
        (np.zeros((3, 0)), [0, 0, 0], "not empty"),
        (np.zeros(3), [0], "matrix"),
        (np.zeros((2, 2, 2)), [0, 0], "matrix"),
        ([[1.0], [1.0, 2.0]], [0, 0], "differ in length"),
        (np.array([["a", "b"]]), [0], "real numbers"),
        (np.array([[1j, 2j]]), [0], "real numbers"),
        (torch.zeros(1, 2, dtype=torch.complex64), [0], "complex"),
        (np.zeros((2, 3)), [0, 3], r"gold\[1\] is 3, but columns go from 0 to 2"),
        (np.zeros((2, 3)), [-1, 0], r"gold\[0\] is -1"),
        (np.zeros((2, 3)), [0], "one column index per row"),
        (np.zeros((2, 3)), [0.0, 1.0], "integers"),
        (np.zeros((2, 3)), np.ones((2, 3), int), "booleans"),
        (np.zeros((2, 3)), np.ones((3, 2), bool), "booleans"),
        (np.zeros((2, 3)), np.array([[True, False, False], [False] * 3]), "row 1"),
    ],
)
def test_wrong_arguments_are_one_line_user_errors(scores, gold, message):
    with pytest.raises(UserError, match=message) as caught:
        retrieval_metrics(scores, gold)
    assert "\n" not in str(caught.value) and ";" in str(caught.value)
