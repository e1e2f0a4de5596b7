"""What scoring a split comes to, in one stage or two.

N texts, M videos, K pairs, k first videos of a text.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from tvr_bench.evaluation.ranks import Floats, Ranks
from tvr_bench.evaluation.top import Lists


@dataclass(frozen=True)
class StageCost:
    """What a search in two stages did; the seconds are those of both directions.

    `recall_pairs` dot products of stage one chose `pairs_t2v` and `pairs_v2t` candidates. A pair
    that both directions ask for is scored once.
    """

    k: int
    recall_pairs: int
    pairs_t2v: int
    pairs_v2t: int
    recall_s: float
    rerank_s: float


@dataclass(frozen=True)
class Found:
    """What scoring a split found, in one stage or two.

    `values` [K] belong to the pairs that were asked for: greater is better in the order of the
    pair's text, NaN the worst. `t2v` [N] and `v2t` [M] are the ranks, `query_ms` float64 [N] each
    text's share of the time, `scores` the matrix [N, M] where there is one, `best` int32 [N, k] the
    first videos of each text, where they were asked for.
    """

    values: Tensor
    t2v: Ranks
    v2t: Ranks
    nan_scores: int
    pairs_scored: int
    query_ms: Floats
    scores: Tensor | None = None
    stages: StageCost | None = None
    best: Lists | None = None
