"""Ranks among a query's hard negatives."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from tvr_bench.errors import UserError
from tvr_bench.evaluation.groups import group_pairs, in_group_metrics
from tvr_bench.evaluation.ranks import retrieval_metrics


def test_only_the_group_competes():
    # Each query's right item loses to items of the other group, and wins inside its own.
    scores = np.array([[5, 1, 9, 9], [1, 5, 9, 9], [9, 9, 5, 6], [9, 9, 1, 5]])
    metrics = in_group_metrics(scores, [0, 1, 2, 3], ["a", "a", "b", "b"])
    assert retrieval_metrics(scores, [0, 1, 2, 3])["R@1"] == 0
    assert metrics["R@1"] == 75
    assert metrics["chance_R@1"] == 50


def test_queries_without_a_group_are_left_out_wherever_they_stand():
    # The first two queries score high everywhere; the two of group "a" have their own scores.
    scores = np.array([[90, 90, 90, 90], [80, 80, 80, 80], [0, 0, 5, 4], [0, 0, 7, 6]])
    metrics = in_group_metrics(scores, [0, 1, 2, 3], ["", "", "a", "a"])
    assert (metrics["queries"], metrics["R@1"], metrics["MnR"]) == (2, 50, 1.5)


def test_chance_is_the_mean_of_one_over_group_size():
    groups = ["a"] * 4 + ["b"] * 2 + [""] * 3
    metrics = in_group_metrics(np.zeros((9, 9)), np.arange(9), groups)
    assert metrics["queries"] == 6
    assert metrics["chance_R@1"] == pytest.approx(100 * (4 * 0.25 + 2 * 0.5) / 6)
    assert metrics["R@1"] == pytest.approx(metrics["chance_R@1"])  # a constant scorer guesses


def test_in_group_ranks_equal_the_metrics_of_each_submatrix(slow_metrics):
    rng = np.random.default_rng(11)
    scores = np.round(rng.normal(size=(24, 12)), 1).astype(np.float32)
    scores[rng.random(scores.shape) < 0.1] = np.nan
    gold = np.concatenate([np.arange(12), rng.permutation(12)])
    groups = [f"g{clip // 4}" for clip in gold]
    recall = 0.0
    for group in range(3):
        mine = [i for i in range(24) if gold[i] // 4 == group]
        block = scores[mine, 4 * group : 4 * group + 4].tolist()
        recall += slow_metrics(block, [{int(gold[i] - 4 * group)} for i in mine])["R@1"] / 3
    assert in_group_metrics(scores, gold, groups)["R@1"] == pytest.approx(recall)


def test_nan_of_the_right_item_is_last_in_its_group():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metrics = in_group_metrics(np.full((4, 4), np.nan), np.arange(4), ["a"] * 4)
    assert (metrics["R@1"], metrics["MnR"], metrics["nan_queries"]) == (0, 4, 4)


def test_two_captions_of_a_clip_count_it_once():
    rows, columns = group_pairs([0, 0, 1], ["a", "a", "a"])
    assert rows.tolist() == [0, 0, 1, 1, 2, 2]
    assert columns.tolist() == [0, 1, 0, 1, 0, 1]


@pytest.mark.parametrize(
    ("gold", "groups", "message"),
    [
        ([0, 1], ["a"], "one group per row"),
        ([0, 1], ["", ""], "no query"),
        (np.ones((2, 2), bool), ["a", "a"], "one right item"),
    ],
)
def test_wrong_arguments_are_user_errors(gold, groups, message):
    with pytest.raises(UserError, match=message):
        in_group_metrics(np.eye(2), gold, groups)
