"""A tiled loss in one process, and the share of it that one of several processes holds."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from tvr_bench.models.losses import gather, tiled_loss
from tvr_bench.models.tiled import Vectors

ITEMS, WIDTH, TILE = 12, 5, 3
Leaves = tuple[Tensor, Tensor, Tensor]


def inputs() -> tuple[Leaves, Tensor]:
    """The whole batch: text and video vectors, the scale, and tokens with repeats."""
    generator = torch.Generator().manual_seed(2)
    vectors = torch.randn(2, ITEMS, WIDTH, generator=generator).double()
    text, video = (F.normalize(x, dim=-1).requires_grad_() for x in vectors)
    ids = torch.randint(0, 3, (ITEMS, 2), generator=generator)
    return (text, video, torch.tensor(9.0).double().requires_grad_()), ids


def losses(leaves: Leaves, ids: Tensor) -> dict[str, Tensor]:
    """The loss of this rank's share, without and with duplicates left out."""
    own = {"text": leaves[0], "video": leaves[1]}
    whole = Vectors(**gather(own))
    args = (Vectors(**own), whole, leaves[2], TILE)
    return {"plain": tiled_loss(*args), "masked": tiled_loss(*args, ids)}


def found_by(rank: int, world: int) -> dict[str, list[Tensor]]:
    """The mean loss, the gradients of all items, and the mean gradient of the scale."""
    (text, video, scale), ids = inputs()
    part = slice(rank * ITEMS // world, (rank + 1) * ITEMS // world)
    share = text.detach()[part].requires_grad_(), video.detach()[part].requires_grad_()
    leaves = (*share, scale)
    found = {}
    for name, loss in losses(leaves, ids[part]).items():
        to_text, to_video, to_scale = torch.autograd.grad(loss, leaves)
        rows = [torch.zeros_like(text), torch.zeros_like(video)]
        rows[0][part], rows[1][part] = to_text, to_video
        found[name] = [loss.detach(), *rows, to_scale]
        for value in found[name]:
            if world > 1:
                dist.all_reduce(value)
                value /= world
    return found
