"""Ranks as the released evaluation of EERCF makes them, for comparison with its numbers only.

N texts, M videos of the gallery, V videos that could be read, k candidates, K pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tvr_bench.evaluation.ranks import Ranks, rank_pairs
from tvr_bench.evaluation.scoring import MatrixScores, rank_grouped

_BONUS = 100.0  # of a candidate


def as_released(
    first: Tensor, items: Tensor, fine: Tensor, scale: float, present: Tensor
) -> Tensor:
    """Return the scores [N, M] that the released EERCF evaluation ranks by.

    They are those of stage one, `first` [N, V], times the logit scale; candidates of a text,
    `items` int64 [N, k], have 100 plus their score `fine` [N, k] times that scale.
    """
    scores = torch.full((len(first), len(present)), torch.nan)
    boosted = (scale * first).scatter_(1, items, _BONUS + scale * fine)
    scores[:, present] = boosted
    return scores


def rank_as_released(
    scores: Tensor, gold: Tensor, wanted: tuple[Tensor, Tensor]
) -> tuple[Tensor, Ranks, Ranks]:
    """Return the scores of `wanted` and both ranks as the released EERCF evaluation makes them.

    Video-to-text is the transposed matrix of `scores`, a clip's texts being one item with their
    greatest score: no search for a video takes place.
    """
    t2v = rank_pairs(scores, torch.arange(len(gold)), gold)
    return scores[wanted], t2v, rank_grouped(MatrixScores(scores), gold)
