"""Ranks among a query's hard negatives: only the items of its own group compete.

N queries, M items, K pairs. A group is a name that several queries carry, and its items are the
right items of those queries.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from tvr_bench.errors import UserError
from tvr_bench.evaluation.counting import exact_dtype
from tvr_bench.evaluation.ranks import Metrics, Ranks, as_scores, gold_pairs


def in_group_metrics(
    scores: ArrayLike | Tensor, gold: ArrayLike | Tensor, groups: Sequence[str]
) -> Metrics:
    """Return the metrics of scores [N, M] where only the items of a query's group compete.

    `gold` is int [N], `groups` names the group of each query; "" leaves it out. Beside the keys
    of `retrieval_metrics` comes `chance_R@1`, what guessing inside the groups reaches (percent).
    Raises UserError where the arguments do not fit or no query has a group.
    """
    matrix = as_scores(scores)
    rows, columns = gold_pairs(gold, len(matrix), matrix.shape[1])
    if len(rows) != len(matrix) or len(groups) != len(matrix):
        raise UserError(
            f"{len(matrix)} rows of scores have {len(rows)} right items and {len(groups)} groups; "
            "give one right item and one group per row"
        )
    matrix, work = matrix.cpu(), exact_dtype(matrix.dtype)
    pairs = group_pairs(columns.tolist(), groups)
    best = matrix[rows.cpu(), columns.cpu()].to(work)
    _, ranks = group_ranks(matrix[pairs].to(work), pairs[0], best)
    return chance_metrics(ranks)


def group_pairs(gold: Sequence[int], groups: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Return (row, column) of every item of every query's group, int64 [K] each, sorted by row."""
    members: dict[str, set[int]] = defaultdict(set)
    for item, group in zip(gold, groups, strict=True):
        members[group].add(item)
    ordered = {group: sorted(items) for group, items in members.items() if group}
    rows = [row for row, group in enumerate(groups) for _ in ordered.get(group, ())]
    columns = [column for group in groups for column in ordered.get(group, ())]
    return torch.tensor(rows, dtype=torch.int64), torch.tensor(columns, dtype=torch.int64)


def group_ranks(scores: Tensor, rows: Tensor, gold: Tensor) -> tuple[Tensor, Ranks]:
    """Return the queries that have a group, by position, and their ranks inside it.

    `scores` [K] belong to the pairs of `group_pairs`, whose rows are `rows` [K]; `gold` [N] is
    the score of each query's right item, which is one of its group.
    """
    queries, line, items = torch.unique_consecutive(rows, return_inverse=True, return_counts=True)
    threshold = gold[rows]
    count = torch.zeros(len(queries), dtype=torch.int64)
    above = count.index_add(0, line, (scores > threshold).to(torch.int64))
    level = count.index_add(0, line, (scores == threshold).to(torch.int64))
    known = (~gold[queries].isnan()).to(torch.int64)
    return queries, Ranks.from_counts(above, level, known, items)


def chance_metrics(ranks: Ranks) -> Metrics:
    """Return the metrics of ranks inside groups with the `chance_R@1` of their sizes."""
    chance = 100 * math.fsum((1 / ranks.items).tolist()) / max(1, len(ranks))
    return {**ranks.metrics(), "chance_R@1": chance}
