"""One process of a distributed loss, started by the tests: `loss_worker.py FOLDER RANK WORLD`.

It holds its share of a batch, and writes the loss and the gradients that all processes agree on.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from ranks import gradients, mean_over_ranks, process_group
from tiled_case import found_by
from torch import Tensor, nn

from tvr_bench.models.losses import Features, gather, paired_losses, symmetric_info_nce

ITEMS, WIDTH, FRAMES = 6, 5, 3


class Pairwise(nn.Module):
    """Scores that are no dot product: every pair is looked at by itself, masked frames excepted."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.a = nn.Parameter(torch.randn(WIDTH, WIDTH, generator=generator))
        self.b = nn.Parameter(torch.randn(WIDTH, WIDTH, generator=generator))
        self.w = nn.Parameter(torch.randn(WIDTH, generator=generator))
        self.log_scale = nn.Parameter(torch.tensor(1.5))

    def encode(self, batch: Features) -> tuple[Features, Features]:
        text = {"text": batch["text"] @ self.a}
        video = {"frames": batch["frames"] @ self.b, "mask": batch["mask"]}
        return text, video

    def scores(self, text: Features, video: Features) -> dict[str, Tensor]:
        pairs = torch.tanh(text["text"][:, None, None] + video["frames"][None]) @ self.w
        weights = video["mask"].to(pairs.dtype)
        mean = (pairs * weights).sum(-1) / weights.sum(-1)
        return {"score": mean, "best": pairs.masked_fill(~video["mask"], -9.0).amax(-1)}

    def contrast(self, name: str, rows: Tensor, columns: Tensor, start: int) -> Tensor:
        scale = self.log_scale.exp()
        return symmetric_info_nce(scale * rows, scale * columns, start)

    def losses(self, batch: Features) -> dict[str, Tensor]:
        own = self.encode(batch)
        whole = gather(own[0]), gather(own[1])
        losses = paired_losses(self.scores, self.contrast, own, whole)
        return losses | {"spread": self.spread(*whole)}

    def spread(self, text: Features, video: Features) -> Tensor:
        """A statistic of the whole batch: one rank's share would give another value."""
        frames = video["frames"].mean(1)
        return (text["text"] - frames).std(0).sum() * self.log_scale


def batch() -> Features:
    """The whole batch; clips differ in their number of frames."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.rand(ITEMS, FRAMES, generator=generator) > 0.4
    mask[:, 0] = True
    return {
        "text": torch.randn(ITEMS, WIDTH, generator=generator),
        "frames": torch.randn(ITEMS, FRAMES, WIDTH, generator=generator),
        "mask": mask,
        "index": torch.arange(ITEMS),
    }


def share(whole: Features, rank: int, world: int) -> Features:
    """The items of one rank: a slice, as the plan of an epoch cuts a batch."""
    size = ITEMS // world
    return {key: value[rank * size : (rank + 1) * size] for key, value in whole.items()}


def main(folder: Path, rank: int, world: int) -> None:
    """Write the mean loss and the mean gradients of all ranks, as DDP makes them."""
    with process_group(folder, rank, world):
        model, own = Pairwise(), share(batch(), rank, world)
        gathered = gather(own)
        losses = model.losses(own)
        torch.stack(list(losses.values())).sum().backward()
        found = {f"loss {name}": loss.detach() for name, loss in losses.items()}
        found |= {f"grad {name}": gradient for name, gradient in gradients(model).items()}
        torch.save(mean_over_ranks(found) | gathered, folder / f"{rank}.pt")
        torch.save(found_by(rank, world), folder / f"{rank}-tiled.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
