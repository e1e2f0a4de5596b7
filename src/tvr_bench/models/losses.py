"""Contrastive losses; the one place that knows about ranks.

b items on this rank, B items on all ranks together. Every rank scores its own texts against all
videos and all texts against its own videos; the gather passes gradients back to the rank that the
features came from, so the averaged gradient equals that of one process with the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from tvr_bench.models.tiled import Vectors, equal_rows, tiled_info_nce

_FAR = -1e4  # a score that adds nothing to any loss, and has finite moments where -inf has none

Features = dict[str, Tensor]
Scores = dict[str, Tensor]
Contrast = Callable[[str, Tensor, Tensor, int], Tensor]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        ctx.items = len(x)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.contiguous()
        dist.all_reduce(grad)
        start = dist.get_rank() * ctx.items
        return grad[start : start + ctx.items]


def world_size() -> int:
    """Return the number of ranks, 1 outside a distributed run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank_average(count: Tensor) -> Tensor:
    """Return the mean over ranks of a number without gradient, at least one for all together.

    A rank that divides its sum by it, and not by its own count, has its part of the mean over all
    items: the mean of the ranks' means would be another where their counts differ.
    """
    if world_size() == 1:
        return count.clamp_min(1)
    total = count.detach().clone()
    dist.all_reduce(total)
    return total.clamp_min(1) / world_size()


def gather(features: Features) -> Features:
    """Return the features [B, ...] of all ranks in rank order, with gradients to each rank's own.

    Every rank must hold the same number of items.
    """
    if world_size() == 1:
        return features
    return {key: _gather_one(value) for key, value in features.items()}


def _gather_one(x: Tensor) -> Tensor:
    if x.dtype == torch.bool:
        gathered: Tensor = _Gather.apply(x.to(torch.uint8))
        return gathered.bool()
    gathered = _Gather.apply(x)
    return gathered


def at_least_fp32(x: Tensor) -> Tensor:
    """Return `x` in single precision, or in double where it came so."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def symmetric_info_nce(rows: Tensor, columns: Tensor, start: int = 0) -> Tensor:
    """Return the mean of both directions' cross-entropy.

    `rows` [b, B] are scaled scores of own texts with all videos, `columns` [b, B] those of own
    videos with all texts; the match of own item i stands at column start + i.
    """
    target = torch.arange(start, start + len(rows), device=rows.device)
    return (F.cross_entropy(rows, target) + F.cross_entropy(columns, target)) / 2


def duplicates(ids: Tensor) -> Tensor:
    """Return which other texts of all ranks are the same as each own one, bool [b, B].

    `ids` int64 [b, L] are the tokens of own texts. Such a pair of text and video is no negative:
    the caption is as true of the other video.
    """
    whole = gather({"ids": ids})["ids"]
    same = equal_rows(ids, whole)
    own = torch.arange(len(ids), device=ids.device)
    same[own, _start(len(ids)) + own] = False
    return same


def _start(items: int) -> int:
    """Return the position of this rank's first item among those of all ranks."""
    return dist.get_rank() * items if world_size() > 1 else 0


def paired_losses(
    score: Callable[[Features, Features], Scores],
    contrast: Contrast,
    own: tuple[Features, Features],
    whole: tuple[Features, Features],
    same: Tensor | None = None,
) -> dict[str, Tensor]:
    """Return one loss per named score, the mean over this rank's share of the whole batch.

    `own` are the features of this rank's b texts and videos, matched row by row, and `whole` those
    of all B pairs, as `gather` returns them. `score(text, video)` gives named scores
    [N, M, ...]; `contrast(name, rows, columns, start)` makes a loss of them: `rows` [b, B, ...] are
    scores of own texts with all videos, `columns` [b, B, ...] those of own videos with all texts,
    and the match of own item i stands at column start + i of both. `same` bool [b, B], from
    `duplicates`, are pairs that are left out.
    """
    text, video = own
    rows = score(text, whole[1])
    columns = rows if whole[0] is text else score(whole[0], video)
    start = _start(len(next(iter(text.values()))))
    return {
        k: contrast(k, _without(rows[k], same), _without(columns[k].transpose(0, 1), same), start)
        for k in rows
    }


def tiled_loss(
    own: Vectors, whole: Vectors, scale: Tensor, tile: int, ids: Tensor | None = None
) -> Tensor:
    """Return the symmetric InfoNCE of dot products, with at most `tile` rows of scores held.

    `own` are this rank's b pairs of vectors [b, D] and `whole` those of all B pairs. `ids` int64
    [b, L], the tokens of own texts, leave out pairs as `duplicates` does.
    """
    tokens = None if ids is None else (ids, gather({"ids": ids})["ids"])
    return tiled_info_nce(own, whole, scale, _start(len(own.text)), tile, tokens)


def _without(scores: Tensor, same: Tensor | None) -> Tensor:
    """Return the scores [b, B, ...] with those of duplicates so low that no loss sees them."""
    if same is None:
        return scores
    return scores.masked_fill(same.view(*same.shape, *[1] * (scores.ndim - 2)), _FAR)
