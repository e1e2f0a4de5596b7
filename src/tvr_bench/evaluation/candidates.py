"""Stage one of a search: the k best items of each query, both directions in one walk.

Of equal scores the item that comes first in the split is taken, and a NaN last.

N texts, V videos, D width; of one direction Q queries and I items, k candidates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tvr_bench.errors import UserError
from tvr_bench.evaluation.counting import count_nan
from tvr_bench.evaluation.scoring import BlockScores, Features

Recall = Callable[[Features], Tensor]
NAN_STEP = -(2**31)  # below the step of every number
_LAST = 0xFFFFFFFF  # above every position
_ROWS = 64  # items whose vectors are made at once: a model may convert all their features for it


@dataclass(frozen=True)
class Candidates:
    """The best items of Q queries by stage one, best first: positions and scores, each [Q, k]."""

    items: Tensor
    first: Tensor

    def split(self, k: int) -> tuple[Candidates, Candidates]:
        """Return the first k items of each query, and the others."""
        left, right = (self.items[:, :k], self.first[:, :k]), (self.items[:, k:], self.first[:, k:])
        return Candidates(*left), Candidates(*right)


def first_stage(
    recall: Recall, text: Features, video: Features, tile: tuple[int, int]
) -> BlockScores:
    """Return the dot products of the vectors of N texts and V videos, made in tiles.

    Raises UserError where `recall` does not return a vector per item.
    """
    return BlockScores(_dot, _vectors(recall, text), _vectors(recall, video), tile)


def _vectors(recall: Recall, features: Features) -> Features:
    """Return the vectors of stage one, float32 [n, D], as features of `_dot`."""
    items = len(next(iter(features.values())))
    with torch.inference_mode():
        parts = [
            recall({name: part[at : at + _ROWS] for name, part in features.items()})
            for at in range(0, items, _ROWS)
        ]
    vectors = torch.cat(parts).float()
    if vectors.ndim != 2 or len(vectors) != items:
        raise UserError(
            f"recall_embedding returned the shape {tuple(vectors.shape)} for {items} items; it "
            "must return one vector per item, [n, D]"
        )
    return {"vector": vectors}


def _dot(text: Features, video: Features) -> Tensor:
    return text["vector"] @ video["vector"].T


def choose(
    made: BlockScores, k: int, keep: bool, more: int = 0
) -> tuple[Candidates, Candidates, int, Tensor | None]:
    """Return the candidates of all N texts and of all V videos, each direction on its own.

    Then how many of the scores are NaN, and if `keep` the scores themselves, float32 [N, V].
    Texts have `more` candidates than k. Everything is on the CPU. The scores are walked once.
    """
    texts, videos = made.shape
    matrix = torch.empty(texts, videos) if keep else None
    device = next(iter(made.text.values())).device
    by_text = _Best(texts, min(k + more, videos), device)
    by_video = _Best(videos, min(k, texts), device)
    nan = 0
    for rows, columns in made.blocks():
        scores = made.score(rows, columns)
        nan += count_nan(scores)
        steps = as_steps(scores)
        by_text.add(rows, columns.start, steps)
        by_video.add(columns, rows.start, steps.T)
        if matrix is not None:
            matrix[rows, columns] = scores.cpu()
    return by_text.found(), by_video.found(), nan, matrix


class _Best:
    """The k best items of each query among those seen so far.

    A score and its item are one whole number, the score above the item: no two are equal, so the
    result does not depend on how the items come in tiles.
    """

    def __init__(self, queries: int, k: int, device: torch.device) -> None:
        lowest = torch.iinfo(torch.int64).min
        self.keys = torch.full((queries, k), lowest, device=device)

    def add(self, queries: slice, start: int, steps: Tensor) -> None:
        """Take the scores of items from `start` on, as steps [q, i], for some queries."""
        items = torch.arange(start, start + steps.shape[1], device=steps.device)
        keys, k = (steps << 32) + (_LAST - items), self.keys.shape[1]
        best = keys.topk(min(k, keys.shape[1]), dim=1).values
        self.keys[queries] = torch.cat([self.keys[queries], best], dim=1).topk(k, dim=1).values

    def found(self) -> Candidates:
        """Return the items and their scores, on the CPU."""
        keys = self.keys.cpu()
        return Candidates(_LAST - (keys & _LAST), from_steps(keys >> 32))


def in_order(first: Tensor, fine: Tensor, k: int) -> Tensor:
    """Return the positions [Q, I] of all items, best first: the k best of `first` [Q, I] by `fine`.

    Of equal scores the first item comes first, and NaN comes last.
    """
    order = first.nan_to_num(-torch.inf).argsort(dim=1, descending=True, stable=True)
    head = order[:, :k].sort(dim=1).values
    scores = fine.gather(1, head).nan_to_num(-torch.inf)
    head = head.gather(1, scores.argsort(dim=1, descending=True, stable=True))
    return torch.cat([head, order[:, k:]], dim=1)


def as_steps(scores: Tensor) -> Tensor:
    """Return whole numbers, int64, in the order of float32 scores; NaN has the lowest."""
    bits = (scores + 0.0).view(torch.int32)  # of the two zeros, which are equal, one remains
    steps = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return steps.masked_fill(scores.isnan(), NAN_STEP).to(torch.int64)


def from_steps(steps: Tensor) -> Tensor:
    """Return the float32 scores of `as_steps`."""
    bits = steps.to(torch.int32)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).view(torch.float32)
