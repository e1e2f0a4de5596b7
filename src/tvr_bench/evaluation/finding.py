"""The three ways to rank a split: by vectors, by all scores of a similarity, in two stages.

N texts, M videos of the gallery, V videos that could be read, K pairs asked about.
`gold` int64 [N] is the video of each text, `present` bool [M] marks the V videos; of the pairs
`wanted` the first N are the right ones. `keep`: the matrix of scores is kept. `grouped`: the
captions of a clip compete as one, by their best score. `top`: how many of the best videos of each
text are listed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tvr_bench.errors import UserError
from tvr_bench.evaluation.counting import count_nan
from tvr_bench.evaluation.outcome import Found
from tvr_bench.evaluation.scoring import (
    BlockScores,
    MatrixScores,
    matrix_gb,
    rank_both,
    rank_grouped,
)
from tvr_bench.evaluation.top import Top
from tvr_bench.evaluation.two_stage import Stages, list_gb, search
from tvr_bench.evaluation.vector_scores import Vectors, VectorScores
from tvr_bench.evaluation.vector_top import best_of_vectors

Pairs = tuple[Tensor, Tensor]  # texts and videos by position, int64 [K] each


def in_two_stages(
    stages: Stages,
    made: BlockScores,
    gold: Tensor,
    wanted: Pairs,
    present: Tensor,
    *,
    keep: bool,
    grouped: bool,
    top: int = 0,
) -> Found:
    """Return what a search in two stages finds."""
    if grouped and stages.parity == "none":
        raise UserError(
            "eval.v2t=group ranks all captions of all videos, which a search in two stages does "
            "not score; set eval.two_stage=null, or eval.v2t=caption"
        )
    return search(
        stages,
        *(made.text, made.video, gold, wanted, present),
        keep=keep,
        chunk=made.sides[0] * made.sides[1],
        top=top,
    )


def by_vectors(
    vectors: Vectors,
    made: BlockScores,
    gold: Tensor,
    wanted: Pairs,
    present: Tensor,
    *,
    keep: bool,
    grouped: bool,
    top: int = 0,
) -> Found:
    """Return what the dot products of all pairs say, exactly."""
    with torch.inference_mode():
        sides = vectors(made.text), vectors(made.video)
    scores = VectorScores(*sides, present)
    values = scores.gather(*wanted)
    t2v, v2t = scores.rank(gold, values[: len(gold)], grouped=grouped)
    return Found(
        values=values,
        t2v=t2v,
        v2t=v2t,
        nan_scores=scores.nan_scores,
        pairs_scored=scores.pairs_scored,
        query_ms=scores.query_ms,
        scores=scores.matrix() if keep else None,
        best=best_of_vectors(scores.text, scores.video, scores.columns, top) if top else None,
    )


def by_similarity(
    made: BlockScores, gold: Tensor, wanted: Pairs, *, keep: bool, grouped: bool, top: int = 0
) -> Found:
    """Return what the scores of all pairs say; `wanted` are gathered in one pass."""
    made.top = Top(made.shape[0], top) if top else None
    matrix = made.matrix() if keep else None
    scores = made if matrix is None else MatrixScores(matrix)
    values = scores.gather(*wanted)
    t2v, v2t = rank_both(scores, gold, values[: len(gold)])
    if grouped:
        v2t = rank_grouped(scores, gold)
    absent = made.shape[0] * (made.shape[1] - len(made.columns))
    return Found(
        values=values,
        t2v=t2v,
        v2t=v2t,
        nan_scores=made.nan_scores if matrix is None else count_nan(matrix) - absent,
        pairs_scored=made.pairs_scored,
        query_ms=made.query_ms,
        scores=matrix,
        best=None if made.top is None else made.top.lists(),
    )


def check_room(stages: Stages, texts: int, videos: int, limit: float | None) -> None:
    """Raise UserError where two stages need more than `limit`, 10^9 bytes."""
    lists, matrix = list_gb(stages.k, texts, videos), matrix_gb(texts, videos)
    if limit is not None and lists > limit:
        raise UserError(
            f"{stages.k} candidates per query take {lists:.2f} GB, but {limit:g} are allowed; "
            "lower eval.two_stage or raise eval.max_matrix_gb"
        )
    if limit is not None and matrix > limit and stages.parity != "none":
        raise UserError(
            f"eval.parity={stages.parity} keeps a matrix of {matrix:.2f} GB, but {limit:g} are "
            "allowed; raise eval.max_matrix_gb or set eval.parity=none"
        )
