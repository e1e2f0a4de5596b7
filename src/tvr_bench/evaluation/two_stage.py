"""A search in two stages: dot products choose each query's candidates, the model scores these.

Stage one compares `recall` vectors in tiles of one size, whatever `eval.block` is, and keeps the k
best items of each query: of equal scores the one that comes first in the split, a NaN last. Each
direction has candidates of its own. Stage two calls `rerank` once per video with all texts that
meet it in either direction: a pair is scored once, and a video's features are read once.

The order of a query's items: its candidates by their fine score, then the others by stage one. An
item whose deciding score is NaN stands behind all others. With k of all items it is the order of
an exhaustive search.

N texts, M videos of the gallery, V videos that could be read, D width; of one direction Q queries;
k candidates, K pairs asked about, P pairs scored.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from tvr_bench.errors import UserError
from tvr_bench.evaluation.candidates import (
    NAN_STEP,
    Candidates,
    Recall,
    as_steps,
    choose,
    first_stage,
    from_steps,
)
from tvr_bench.evaluation.outcome import Found, StageCost
from tvr_bench.evaluation.ranks import Ranks, best_gold
from tvr_bench.evaluation.released import as_released, rank_as_released
from tvr_bench.evaluation.scoring import (
    Features,
    MatrixScores,
    PairScores,
)
from tvr_bench.evaluation.top import Lists, best_of_candidates, best_of_rows

PARITIES = ("none", "eercf")
_TILE = (1024, 1024)  # 4 MB of scores
_PAIR_BYTES = 64  # per candidate, of the lists below at their largest
_FINE = 2.0**33  # what the place of a fine score is more than its step


@dataclass(frozen=True)
class Stages:
    """The two stages of a model, as functions of its features.

    `recall(features)` returns the vectors [n, D] of texts or videos, `rerank(text, video)` the
    scores [P] of row i of both, where one row of `video` stands for all texts. `parity="eercf"`
    ranks as the released EERCF does (`released`), with the logit scale `scale`. Raises
    UserError for k below 1 and an unknown parity.
    """

    k: int
    recall: Recall
    rerank: Callable[[Features, Features], Tensor]
    parity: str = "none"
    scale: float = 1.0

    def __post_init__(self) -> None:
        """Hold the settings to their range."""
        if self.k < 1:
            raise UserError(f"eval.two_stage={self.k} is impossible; it must be >= 1, or null")
        if self.parity not in PARITIES:
            raise UserError(f"eval.parity={self.parity} is unknown; use {' or '.join(PARITIES)}")


def search(
    stages: Stages,
    text: Features,
    video: Features,
    gold: Tensor,
    wanted: tuple[Tensor, Tensor],
    present: Tensor,
    *,
    keep: bool = True,
    chunk: int | None = None,
    tile: tuple[int, int] = _TILE,
    top: int = 0,
) -> Found:
    """Return the ranks of both directions, and where pairs stand in the order text-to-video.

    `gold` int64 [N] is the video of each text; `wanted` are (texts, videos), int64 [K] each, of
    which the first N are the right pairs; `present` bool [M] marks the V videos with features.
    Stage one is kept as a matrix, or with `keep=False` made again where it is needed; at most
    `chunk` texts meet a video at once. The `top` best videos of each text are listed. Raises
    UserError where `recall` or `rerank` return another shape than they must.
    """
    start = time.perf_counter()
    released = stages.parity == "eercf"
    made = first_stage(stages.recall, text, video, tile)
    seen, by_video, nan_first, matrix = choose(made, stages.k, keep or released, top)
    by_text, rest = seen.split(stages.k)
    position = torch.where(present, present.cumsum(0) - 1, -1)  # of a clip among the readable ones
    searching = position[gold].unique()
    searching = searching[:0] if released else searching[searching >= 0]
    lists = (by_text, Candidates(by_video.items[searching], by_video.first[searching]))
    recall_s = time.perf_counter() - start

    pairs, where = _join(*lists, searching).unique(return_inverse=True)
    texts, videos = pairs % len(gold), pairs // len(gold)
    fine = rerank_pairs(stages, text, video, texts, videos, chunk)
    rerank_s = time.perf_counter() - start - recall_s

    asked = [one.items.numel() for one in lists]
    parts = fine[where].split(asked)
    t2v, v2t = (_Order(*pair) for pair in zip(lists, parts, strict=True))
    best = None
    if released:
        assert matrix is not None
        ranked, best = _as_released(stages, matrix, t2v, gold, wanted, present, top)
    else:
        scores = made if matrix is None else MatrixScores(matrix)
        places = wanted[0], position[wanted[1]]
        ranked = _rank(scores, t2v, v2t, places, searching, present)
        best = t2v.best(rest, present, top) if top else None
    share = torch.bincount(texts, minlength=len(gold)).numpy() / len(pairs)
    return Found(
        *ranked,
        nan_scores=nan_first + _more_nan(lists, where, fine),
        pairs_scored=len(pairs),
        query_ms=1000 * (recall_s / len(gold) + rerank_s * share),
        stages=StageCost(
            stages.k, made.shape[0] * made.shape[1], asked[0], asked[1], recall_s, rerank_s
        ),
        best=best,
    )


def _as_released(
    stages: Stages,
    matrix: Tensor,
    t2v: _Order,
    gold: Tensor,
    wanted: tuple[Tensor, Tensor],
    present: Tensor,
    top: int,
) -> tuple[tuple[Tensor, Ranks, Ranks], np.ndarray | None]:
    """Return what `_rank` does, and the `top` best, by the released EERCF's one boosted matrix."""
    boosted = as_released(matrix, t2v.items, t2v.fine, stages.scale, present)
    best = best_of_rows(boosted, top) if top else None
    return rank_as_released(boosted, gold, wanted), best


def list_gb(k: int, texts: int, videos: int) -> float:
    """Return the memory of all candidates with their scores, in 10^9 bytes."""
    return _PAIR_BYTES * (texts * min(k, videos) + videos * min(k, texts)) / 1e9


def rerank_pairs(
    stages: Stages,
    text: Features,
    video: Features,
    texts: Tensor,
    videos: Tensor,
    chunk: int | None = None,
) -> Tensor:
    """Return the fine scores of pairs, float32 [P] on the CPU; `videos` int64 [P] must not fall.

    One call per video, or per `chunk` texts of a video.
    """
    any_video, step = next(iter(video.values())), chunk or len(texts)
    texts = texts.to(any_video.device)
    fine = torch.empty(len(texts), device=any_video.device)
    edges = torch.searchsorted(videos, torch.arange(len(any_video) + 1)).tolist()
    with torch.inference_mode():
        for place, (start, stop) in enumerate(pairwise(edges)):
            one = {name: tensor[place : place + 1] for name, tensor in video.items()}
            for at in range(start, stop, step):
                rows = texts[at : min(stop, at + step)]
                scores = stages.rerank(_take(text, rows), one)
                if scores.shape != rows.shape:
                    raise UserError(
                        f"rerank returned the shape {tuple(scores.shape)} for {len(rows)} texts "
                        "and one video; it must return one score per text, [P]"
                    )
                fine[at : at + len(rows)] = scores
    return fine.cpu()


def _take(features: Features, rows: Tensor) -> Features:
    return {name: tensor.index_select(0, rows) for name, tensor in features.items()}


class _Order:
    """The order of all items for each of Q queries of one direction, as far as candidates go.

    A place in it is a float64 that is greater for a better item; NaN is behind all.
    """

    def __init__(self, candidates: Candidates, fine: Tensor) -> None:
        self.items, self.first = candidates.items, candidates.first
        self.fine = fine.view_as(self.first)  # float32 [Q, k]

    def places(self, queries: Tensor, items: Tensor, first: Tensor) -> Tensor:
        """Return the places of pairs, float64 [K]; `first` [K] are their scores of stage one."""
        if not self.items.numel():
            return _place(first, fine=False)
        span = int(max(self.items.max(), items.max())) + 2  # so that -1 is nobody's candidate
        lines = span * torch.arange(len(self.items))
        codes, origin = (lines[:, None] + self.items).flatten().sort()
        wanted = lines[queries] + items
        at = torch.searchsorted(codes, wanted).clamp_max(len(codes) - 1)
        fine = _place(self.fine.flatten()[origin[at]], fine=True)
        return torch.where(codes[at] == wanted, fine, _place(first, fine=False))

    def best(self, rest: Candidates, present: Tensor, k: int) -> Lists:
        """Return the k best items of each query, int32 [Q, k], as positions in the gallery.

        `rest` are the next best items by stage one, at least k if there are so many.
        """
        items = torch.cat([self.items, rest.items], dim=1)
        places = torch.cat([_place(self.fine, fine=True), _place(rest.first, fine=False)], dim=1)
        columns = torch.nonzero(present).flatten()
        return best_of_candidates(columns[items].numpy(), places.numpy(), k)

    def limit(self, best: Tensor) -> Tensor:
        """Return the score of stage one [Q] that has the place `best`; NaN for a candidate's."""
        return from_steps(torch.where(best < _FINE / 2, best, NAN_STEP).to(torch.int64))

    def counts(self, best: Tensor, above: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """Return how many items stand above and level with `best` [Q], each int64 [Q].

        `above` and `level` [Q] are how many scores of stage one are above and level with `limit`.
        """
        fine, first = _place(self.fine, fine=True), self.first
        best, limit = best[:, None], self.limit(best)[:, None]
        return (
            above - (first > limit).sum(1) + (fine > best).sum(1),
            level - (first == limit).sum(1) + (fine == best).sum(1),
        )


def _rank(
    scores: PairScores,
    t2v: _Order,
    v2t: _Order,
    pairs: tuple[Tensor, Tensor],
    searching: Tensor,
    present: Tensor,
) -> tuple[Tensor, Ranks, Ranks]:
    """Return the places of `pairs` text-to-video, float64 [K], and the ranks [N] and [M].

    `pairs` are texts and positions among the V readable videos, -1 for a video that is not there;
    `searching` are the positions of the videos that have an order in `v2t`, rising.
    """
    texts, videos = scores.shape
    rows, columns = pairs
    there = columns >= 0
    first = torch.full(rows.shape, torch.nan)
    first[there] = scores.gather(rows[there], columns[there])
    values = t2v.places(rows, columns, first)
    best_text, text_ties = best_gold(values[:texts], torch.arange(texts), texts)

    right = torch.nonzero(there[:texts]).flatten()
    lines = torch.searchsorted(searching, columns[right])
    back = v2t.places(lines, right, first[right])
    best_video, video_ties = best_gold(back, lines, len(searching))

    limit = torch.full((videos,), torch.nan)
    limit[searching] = v2t.limit(best_video)
    counts = scores.count(t2v.limit(best_text), limit)
    found = v2t.counts(best_video, counts[2][searching], counts[3][searching])
    clips = torch.zeros(3, len(present), dtype=torch.int64)
    clips[:, torch.nonzero(present).flatten()[searching]] = torch.stack([*found, video_ties])
    return (
        values,
        Ranks.from_counts(*t2v.counts(best_text, counts[0], counts[1]), text_ties, len(present)),
        Ranks.from_counts(clips[0], clips[1], clips[2], texts),
    )


def _join(by_text: Candidates, by_video: Candidates, searching: Tensor) -> Tensor:
    """Return a number per candidate of both directions, video * N + text, int64 [P']."""
    texts = len(by_text.items)
    forth = by_text.items * texts + torch.arange(texts)[:, None]
    back = searching[:, None] * texts + by_video.items
    return torch.cat([forth.flatten(), back.flatten()])


def _more_nan(lists: tuple[Candidates, ...], where: Tensor, fine: Tensor) -> int:
    """Return how many more of the pairs have NaN as a fine score than as one of stage one."""
    before = torch.zeros(len(fine), dtype=torch.bool)
    before[where] = torch.cat([one.first.flatten() for one in lists]).isnan()
    return int(fine.isnan().sum()) - int(before.sum())


def _place(scores: Tensor, *, fine: bool) -> Tensor:
    """Return float64 places, in the order of float32 scores and all fine ones above the others."""
    places = as_steps(scores).to(torch.float64) + (_FINE if fine else 0.0)
    return places.masked_fill(scores.isnan(), torch.nan)
