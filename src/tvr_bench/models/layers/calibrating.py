"""Heterogeneous semantics calibrating: cycle consistency between two sequences.

T-CARD, Figure 2 and "HSC": from V_i to its nearest O_j and back to the nearest V_k, the loss is
the squared distance of start and end. The soft nearest neighbours are those of TCC and COOT.
B pairs, T tokens of one sequence, S tokens of the other, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tvr_bench.models.layers.masking import attendable
from tvr_bench.models.losses import rank_average


def cycle_consistency(
    video: Tensor,
    ocr: Tensor,
    video_mask: Tensor,
    ocr_mask: Tensor,
    temperature: float = 0.1,
    normalise_index: bool = True,
    directions: str = "both",
) -> Tensor:
    """Return the mean squared cycle distance of the pairs that have tokens on both sides.

    On several ranks it is this rank's share: the mean over ranks is that of the pairs of all.

    video [B, T, D], ocr [B, S, D], masks bool [B, T] and [B, S]. `directions` is both, video
    (V to O to V) or ocr. `normalise_index` divides positions by T-1 (or S-1). Returns zero, still
    joined to the graph, where no pair has both.
    """
    usable = (video_mask.any(1) & ocr_mask.any(1)).to(video.dtype)
    video_open, ocr_open = attendable(video_mask), attendable(ocr_mask)
    losses = []
    if directions in ("both", "video"):
        losses.append(_cycle(video, ocr, video_open, ocr_open, temperature, normalise_index))
    if directions in ("both", "ocr"):
        losses.append(_cycle(ocr, video, ocr_open, video_open, temperature, normalise_index))
    per_pair = torch.stack(losses).mean(0)
    return (per_pair * usable).sum() / rank_average(usable.sum())


def _cycle(
    start: Tensor,
    other: Tensor,
    start_mask: Tensor,
    other_mask: Tensor,
    temperature: float,
    normalise_index: bool,
) -> Tensor:
    """Return the loss of start to other to start, [B]."""
    nearest = _soft(start, other, other_mask, temperature) @ other
    back = _soft(nearest, start, start_mask, temperature)
    length = start.shape[1]
    position = torch.arange(length, dtype=start.dtype, device=start.device)
    if normalise_index:
        position = position / max(length - 1, 1)
    distance = (back @ position - position).square() * start_mask
    return distance.sum(1) / start_mask.sum(1)


def _soft(query: Tensor, memory: Tensor, mask: Tensor, temperature: float) -> Tensor:
    cosine = F.normalize(query, dim=-1) @ F.normalize(memory, dim=-1).mT
    return (cosine / temperature).masked_fill(~mask[:, None], -torch.inf).softmax(-1)
