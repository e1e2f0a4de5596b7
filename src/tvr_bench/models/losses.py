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


def symmetric_info_nce(rows: Tensor, columns: Tensor, start: int = 0) -> Tensor:
    """Return the mean of both directions' cross-entropy.

    `rows` [b, B] are scaled scores of own texts with all videos, `columns` [b, B] those of own
    videos with all texts; the match of own item i stands at column start + i.
    """
    target = torch.arange(start, start + len(rows), device=rows.device)
    return (F.cross_entropy(rows, target) + F.cross_entropy(columns, target)) / 2


def paired_losses(
    score: Callable[[Features, Features], Scores],
    contrast: Contrast,
    own: tuple[Features, Features],
    whole: tuple[Features, Features],
) -> dict[str, Tensor]:
    """Return one loss per named score, the mean over this rank's share of the whole batch.

    `own` are the features of this rank's b texts and videos, matched row by row, and `whole` those
    of all B pairs, as `gather` returns them. `score(text, video)` gives named scores
    [N, M, ...]; `contrast(name, rows, columns, start)` makes a loss of them: `rows` [b, B, ...] are
    scores of own texts with all videos, `columns` [b, B, ...] those of own videos with all texts,
    and the match of own item i stands at column start + i of both.
    """
    text, video = own
    rows = score(text, whole[1])
    columns = rows if whole[0] is text else score(whole[0], video)
    start = dist.get_rank() * len(next(iter(text.values()))) if world_size() > 1 else 0
    return {k: contrast(k, rows[k], columns[k].transpose(0, 1), start) for k in rows}
