"""The contrastive loss in tiles against the full matrix, and BertAdam against a loop over tensors.

Run: `.venv/bin/python benchmarks/loss.py [--small]`. The peer of the loss is `F.cross_entropy` of
the whole matrix of scores, both ways; each side makes the loss and its gradients. Both are compared
with double precision first, and the script stops where ours is further from it than single
precision explains. The rows at 1,024 and 2,048 have no goal: there is little to win, and
`loss.tile` leaves a batch of up to 1,024 alone. The peer of BertAdam is CLIP4Clip's update as it is
described, tensor by tensor: clip, two moments, decay.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from harness import Row, arguments, duel, peak_mb, save
from torch import Tensor
from torch.nn import functional as F

from tvr_bench.models.optim import BertAdam
from tvr_bench.models.tiled import Vectors, tiled_info_nce

WIDTH, TILE, SCALE = 512, 1024, 14.28
Found = tuple[Tensor, ...]
RATE, BETAS, DECAY = 1e-4, (0.9, 0.98), 0.2


def main() -> int:
    options = arguments(__doc__)
    rows = []
    for items in (512, 2048) if options.small else (1024, 2048, 8192):
        rows.append(loss_row(items, options.repeats))
    rows.append(bert_adam_row(options.repeats))
    save("loss", rows, options)
    return 0


def loss_row(items: int, repeats: int) -> Row:
    """Return the row of one batch size; stops where the outputs disagree."""
    agreement = compared(items)
    print(f"{items}: {agreement}", flush=True)
    found = duel(step("full", items), step("tiled", items), repeats)
    memory = tuple(peak_mb("loss:step", kind, items) for kind in ("full", "tiled"))
    large = items >= 8192
    return Row(
        id=f"loss {items}",
        what=f"InfoNCE and gradients, {items:,} x {items:,}, D = {WIDTH}",
        peer="F.cross_entropy of the full matrix",
        agreement=agreement,
        duel=found,
        goal=1.3 if large else None,
        memory_mb=(memory[0], memory[1]),
        at_most={"of the peer's memory": (memory[1] / memory[0], 0.2)} if large else {},
        note="" if large else "nothing is claimed at this size",
    )


def inputs(items: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Return unit vectors of texts and their videos, and the scale, each to be trained."""
    generator = torch.Generator().manual_seed(0)
    text = F.normalize(torch.randn(items, WIDTH, generator=generator), dim=-1)
    video = F.normalize(text + 0.05 * torch.randn(items, WIDTH, generator=generator), dim=-1)
    return [x.to(dtype).requires_grad_() for x in (text, video, torch.tensor(SCALE))]


def step(kind: str, items: int) -> Callable[[], Found]:
    """Return a call that makes the loss and its gradients on inputs that are there already."""
    leaves = inputs(items)
    loss = {"full": full, "tiled": tiled}[kind]

    def call() -> Found:
        value = loss(*leaves)
        return value.detach(), *torch.autograd.grad(value, leaves)

    return call


def full(text: Tensor, video: Tensor, scale: Tensor) -> Tensor:
    scores, target = scale * text @ video.mT, torch.arange(len(text))
    return (F.cross_entropy(scores, target) + F.cross_entropy(scores.mT, target)) / 2


def tiled(text: Tensor, video: Tensor, scale: Tensor) -> Tensor:
    pairs = Vectors(text, video)
    return tiled_info_nce(pairs, pairs, scale, tile=TILE)


def compared(items: int) -> str:
    """Return how far both are from double precision; stops where ours is too far."""
    leaves = inputs(items, torch.float64)
    value = tiled(*leaves)
    exact = value.detach(), *torch.autograd.grad(value, leaves)
    ours, peer = step("tiled", items)(), step("full", items)()
    apart = max((a - b).abs().max().item() for a, b in zip(ours, peer, strict=True))
    errors = [
        max(
            ((one - true).norm() / true.norm()).item()
            for one, true in zip(found, exact, strict=True)
        )
        for found in (ours, peer)
    ]
    text = (
        f"loss and gradient differ by at most {apart:.0e}; from double precision ours by "
        f"{errors[0]:.1e} of its norm, the peer by {errors[1]:.1e}"
    )
    if apart > 1e-6 or errors[0] > 2 * errors[1] + 1e-7:
        raise SystemExit(f"{items}: {text}")
    return text


def bert_adam_row(repeats: int) -> Row:
    """Return the row of the update; stops where the weights disagree."""
    ours, peer = Ours(), Loop()
    for _ in range(5):
        ours.step()
        peer.step()
    apart = max((a - b).abs().max().item() for a, b in zip(ours.weights, peer.weights, strict=True))
    moved = max((a - b).abs().max().item() for a, b in zip(ours.weights, weights(), strict=True))
    agreement = f"weights after 5 steps equal to {apart:.0e}, having moved by {moved:.0e}"
    print(f"bert_adam: {agreement}", flush=True)
    if apart > 1e-2 * moved:
        raise SystemExit(f"bert_adam: {agreement}")
    count = sum(w.numel() for w in ours.weights)
    return Row(
        id="bert_adam",
        what=f"one update of {len(ours.weights)} tensors, {count / 1e6:.0f}M weights",
        peer="loop over tensors",
        agreement=agreement,
        duel=duel(peer.step, ours.step, repeats),
        goal=3.0,
    )


def weights() -> list[Tensor]:
    """Return 400 tensors with 13M values."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(180, 180)] * 396 + [(180,)] * 4
    return [torch.randn(shape, generator=generator) for shape in shapes]


def grads() -> list[Tensor]:
    """Return gradients, half of which are long enough to be clipped."""
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(w.shape, generator=generator) * (0.1 if i % 2 else 1e-3)
        for i, w in enumerate(weights())
    ]


class Ours:
    """`optim.name=bert_adam`."""

    def __init__(self) -> None:
        self.weights = [w.requires_grad_() for w in weights()]
        group = {"params": self.weights, "weight_decay": DECAY}
        self.optimizer = BertAdam([group], lr=RATE, betas=BETAS, fused=True)
        for weight, grad in zip(self.weights, grads(), strict=True):
            weight.grad = grad

    def step(self) -> None:
        self.optimizer.step()


class Loop:
    """The same update, one tensor after the other."""

    def __init__(self) -> None:
        self.weights, self.grads = weights(), grads()
        self.first = [torch.zeros_like(w) for w in self.weights]
        self.second = [torch.zeros_like(w) for w in self.weights]

    def step(self) -> None:
        for w, g, m, v in zip(self.weights, self.grads, self.first, self.second, strict=True):
            g.mul_((1 / (g.norm() + 1e-6)).clamp(max=1))
            m.mul_(BETAS[0]).add_(g, alpha=1 - BETAS[0])
            v.mul_(BETAS[1]).addcmul_(g, g, value=1 - BETAS[1])
            update = m / (v.sqrt() + 1e-6)
            update += DECAY * w
            w.sub_(RATE * update)


if __name__ == "__main__":
    sys.exit(main())
