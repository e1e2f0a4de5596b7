"""Features of window captions from a text tower. M videos, W windows, L words, D width."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class TextTower(Protocol):
    """What reads a caption."""

    def encode_text(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return pooled [B, D] and word [B, L, D] features."""
        ...


def encode_windows(
    tower: TextTower, ids: Tensor, mask: Tensor, device: torch.device | None = None
) -> Tensor:
    """Return the pooled features of window captions, [M, W, D], zero for a window without text.

    `ids` int64 [M, W, L] and `mask` bool [M, W, L] may lie in the host's memory while the tower is
    on `device`; then nothing here waits for it. A caption that occurs several times is encoded
    once and padding that no caption needs is cut, both without effect on the result. All empty
    windows are one more row, never used, so that a tower of its own is part of the graph of every
    batch.
    """
    present = mask.any(-1)
    longest = max(1, int(mask.sum(-1).max()))
    rows = ids.masked_fill(~mask, -1)[..., :longest].flatten(0, 1)
    unique, where = rows.unique(dim=0, return_inverse=True)
    valid = unique >= 0
    valid[:, 0] = True  # attention needs a token in the empty row too
    rows, valid, where, present = (
        x.to(device, non_blocking=True) for x in (unique.clamp_min(0), valid, where, present)
    )
    pooled, _ = tower.encode_text(rows, valid)
    return pooled[where].unflatten(0, present.shape).masked_fill(~present[..., None], 0)
