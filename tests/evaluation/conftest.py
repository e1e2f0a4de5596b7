"""A slow, obvious reference for ranks, and similarities whose scores are known in advance."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tvr_bench.datamodules.types import Clip, Query, Split


@cache
def _first_gold(tied: int, gold: int) -> tuple[int, ...]:
    """Place of the first right item among equals (from 0), once for every possible order."""
    orders = itertools.combinations(range(tied + gold), gold)
    return tuple(min(places) for places in orders)


def _ranks_of_query(row: list[float], gold: set[int]) -> list[int]:
    """Every rank that the first right item can have, all equally likely."""
    numbers = [row[j] for j in gold if row[j] == row[j]]
    if not numbers:
        return [len(row)]
    best = max(numbers)
    ahead = sum(1 for score in row if score > best)
    wrong = sum(1 for j, score in enumerate(row) if score == best and j not in gold)
    right = sum(1 for j in gold if row[j] == best)
    return [1 + ahead + place for place in _first_gold(wrong, right)]


def _slow_metrics(scores: list[list[float]], gold: list[set[int]]) -> dict[str, float]:
    """The metrics by enumeration of all orders of tied items, in exact fractions."""
    queries = [_ranks_of_query(row, right) for row, right in zip(scores, gold, strict=True)]
    count = len(queries)

    def recall(k: int) -> Fraction:
        hits = sum(Fraction(sum(rank <= k for rank in ranks), len(ranks)) for ranks in queries)
        return 100 * Fraction(hits) / count

    expected = [Fraction(sum(ranks), len(ranks)) for ranks in queries]
    metrics = {f"R@{k}": recall(k) for k in (1, 5, 10, 50)}
    metrics["RSum"] = recall(1) + recall(5) + recall(10)
    metrics["MdR"] = median(expected)
    metrics["MnR"] = sum(expected) / Fraction(count)
    metrics["R@1_optimistic"] = Fraction(100 * sum(min(ranks) == 1 for ranks in queries), count)
    return {name: float(value) for name, value in metrics.items()}


def _table_scores(table: np.ndarray) -> SimpleNamespace:
    """Features and a similarity that look every score up, so no block can change one."""
    scores = torch.as_tensor(table, dtype=torch.float32)
    return SimpleNamespace(
        similarity=lambda text, video: scores[text["row"]][:, video["column"]],
        text={"row": torch.arange(scores.shape[0])},
        video={"column": torch.arange(scores.shape[1])},
    )


def _make_split(gold: Any, skills: Any = None, groups: Any = None, clips: int = 0) -> Split:
    gold = [int(clip) for clip in gold]
    skills, groups = skills or [""] * len(gold), groups or [""] * len(gold)
    return Split(
        clips=tuple(Clip(f"v{c}", Path(f"v{c}.mp4")) for c in range(clips or max(gold) + 1)),
        queries=tuple(
            Query(f"q{i}", f"text {i}", f"v{clip}", skill, group)
            for i, (clip, skill, group) in enumerate(zip(gold, skills, groups, strict=True))
        ),
    )


@pytest.fixture(scope="session")
def slow_metrics() -> Callable[[list[list[float]], list[set[int]]], dict[str, float]]:
    """Metrics of the rows by the slow reference."""
    return _slow_metrics


@pytest.fixture(scope="session")
def table_scores() -> Callable[[np.ndarray], SimpleNamespace]:
    """Make `similarity`, `text` and `video` that give the scores of a table."""
    return _table_scores


@pytest.fixture(scope="session")
def make_split() -> Callable[..., Split]:
    """Make a split from the clip of each query, and its skills and groups."""
    return _make_split
