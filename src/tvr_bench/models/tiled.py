"""InfoNCE of dot products, tile by tile: the matrix of scores is never held as a whole.

The forward pass keeps one log-sum per row and column, and the backward pass makes each tile again.
That is one product of matrices more than with the whole matrix, and a fraction of its memory, so it
pays from some thousand items on. Below 1,024 there is nothing to gain.

b own items, B items of all ranks, R rows of a tile, L words, D width.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Vectors(NamedTuple):
    """Matched texts and videos whose dot products are the scores, each [n, D]."""

    text: Tensor
    video: Tensor


def tiled_info_nce(
    own: Vectors,
    whole: Vectors,
    scale: Tensor,
    start: int = 0,
    tile: int = 1024,
    ids: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Return the mean of both directions' cross-entropy, as `losses.symmetric_info_nce` does.

    `own` are this rank's b pairs and `whole` those of all B; the match of own item i stands at
    start + i. Scores are dot products times `scale`, a scalar; `tile` rows [R, B] of them are held
    at once. `ids` are the tokens of own and of all texts, int64 [b, L] and [B, L]: another video
    with the very same text is no negative.
    """
    if whole.text is own.text:
        both: Tensor = _Tiled.apply(*own, scale, start, tile, ids, True)
        return both / 2
    rows: Tensor = _Tiled.apply(own.text, whole.video, scale, start, tile, ids, False)
    columns: Tensor = _Tiled.apply(own.video, whole.text, scale, start, tile, ids, False)
    return (rows + columns) / 2


def equal_rows(ids: Tensor, others: Tensor) -> Tensor:
    """Return which rows of [R, L] and [B, L] are the same, bool [R, B]."""
    same = ids[:, :1] == others[:, 0]
    for word in range(1, ids.shape[1]):  # word by word, as [R, B, L] would be larger than all else
        same &= ids[:, word, None] == others[:, word]
    return same


class _Tiled(torch.autograd.Function):
    """The mean cross-entropy of queries [b, D] among keys [B, D], with `both` plus that of keys."""

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        keys: Tensor,
        scale: Tensor,
        start: int,
        tile: int,
        ids: tuple[Tensor, Tensor] | None,
        both: bool,
    ) -> Tensor:
        ctx.start, ctx.ids, ctx.both = start, ids, both
        ctx.tile = tile
        with torch.autocast(queries.device.type, enabled=False):
            row_sums, column_sums, own = _log_sums(ctx, queries * scale, keys)
        ctx.save_for_backward(queries, keys, scale, row_sums, column_sums)
        loss = (row_sums - own).mean()
        return loss + (column_sums - own).mean() if both else loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, scale, row_sums, column_sums = ctx.saved_tensors
        with torch.autocast(queries.device.type, enabled=False):
            towards, to_keys = _gradients(ctx, queries * scale, keys, row_sums, column_sums)
            share = grads[0] / len(queries)
            # the sum over all pairs of gradient times score, by the rows of its product
            to_scale = (queries * towards).sum() * share
            found = (towards * (scale * share), to_keys * share, to_scale.view_as(scale))
        return *found, None, None, None, None


def _log_sums(ctx: Any, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the log-sum of every row [b] and column [B], and the scores of the matches [b]."""
    rows, own = queries.new_empty(len(queries)), queries.new_empty(len(queries))
    # finite, so that a column whose tile is all duplicates has no difference of infinities
    peaks = keys.new_full((len(keys),), torch.finfo(keys.dtype).min)
    sums, spare = torch.zeros_like(peaks), _buffer(ctx, queries, keys)
    for part, scores in _tiles(ctx, queries, keys):
        own[part] = scores.gather(1, _targets(ctx, part, scores)).squeeze(1)
        if ctx.both:
            higher = torch.maximum(peaks, scores.amax(0))
            new = torch.sub(scores, higher, out=spare[: len(scores)]).exp_().sum(0)
            sums, peaks = sums * (peaks - higher).exp() + new, higher
        peak = scores.amax(1, keepdim=True)
        rows[part] = scores.sub_(peak).exp_().sum(1).log_() + peak.squeeze(1)
    return rows, sums.log_() + peaks, own


def _gradients(
    ctx: Any, queries: Tensor, keys: Tensor, rows: Tensor, columns: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gradient of b times the loss: as to queries before the scale, and as to keys."""
    towards, to_keys = torch.empty_like(queries), torch.zeros_like(keys)
    spare, matches = _buffer(ctx, queries, keys), -2.0 if ctx.both else -1.0
    for part, scores in _tiles(ctx, queries, keys):
        if ctx.both:
            by_column = torch.sub(scores, columns, out=spare[: len(scores)]).exp_()
        grad = scores.sub_(rows[part, None]).exp_()
        if ctx.both:
            grad.add_(by_column)
        target = _targets(ctx, part, scores)
        grad.scatter_add_(1, target, grad.new_full(target.shape, matches))
        torch.mm(grad, keys, out=towards[part])
        to_keys.addmm_(grad.mT, queries[part])
    return towards, to_keys


def _tiles(ctx: Any, queries: Tensor, keys: Tensor) -> Any:
    """Yield the slices of rows with their scores [R, B] in one buffer, -inf for duplicates."""
    buffer = queries.new_empty(min(ctx.tile, len(queries)), len(keys))
    for first in range(0, len(queries), ctx.tile):
        part = slice(first, min(first + ctx.tile, len(queries)))
        scores = torch.mm(queries[part], keys.mT, out=buffer[: part.stop - first])
        if ctx.ids is not None:
            same = equal_rows(ctx.ids[0][part], ctx.ids[1])
            same.scatter_(1, _targets(ctx, part, scores), False)
            scores.masked_fill_(same, -torch.inf)
        yield part, scores


def _buffer(ctx: Any, queries: Tensor, keys: Tensor) -> Tensor:
    rows = min(ctx.tile, len(queries)) if ctx.both else 0
    return queries.new_empty(rows, len(keys))


def _targets(ctx: Any, part: slice, scores: Tensor) -> Tensor:
    """Return the columns of the matches, [R, 1]."""
    first = ctx.start + part.start
    return torch.arange(first, first + len(scores), device=scores.device)[:, None]
