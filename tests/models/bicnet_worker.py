"""One process of BiC-Net's loss, started by the tests: `bicnet_worker.py FOLDER RANK WORLD`.

It holds its share of a batch, and writes the loss and the gradients that all processes agree on.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from ranks import gradients, mean_over_ranks, process_group
from torch import Tensor

from tvr_bench.models.base import RetrievalModule
from tvr_bench.registry import create_model

ITEMS = 6
OPTIONS = (
    {"model.srt.residual": "none", "model.extra_residual": True, "model.pooling": "mean"},
    {"model.srt.residual": 1, "model.srt.temporal": "per_region_time", "model.grid": [1, 2]},
    {"model.srt.residual": 2, "model.srt.frame_positions": True, "model.pooling": "max"},
    {"model.srt.residual": 3, "model.max_violation": True, "model.width": 8, "model.dropout": 0.1},
    {"model.branches": "global", "model.layers": 2},
    {"model.branches": "region", "model.init": "paper"},
)


def scores(seed: int) -> Tensor:
    """Return cosines of all pairs, some within the margin and some not."""
    generator = torch.Generator().manual_seed(seed)
    return 0.4 * torch.randn(ITEMS, ITEMS, generator=generator, dtype=torch.float64).clamp(-2, 2)


def build() -> RetrievalModule:
    """Return the same small model everywhere."""
    torch.manual_seed(0)
    sizes = {"features.region_dim": 6, "features.global_dim": 5, "features.text_dim": 4}
    settings = {"backbone.name": "features", "model.width": 8, "model.heads": 2, **sizes}
    return create_model("bicnet", **settings).double()


def batch() -> dict[str, Tensor]:
    """Return the whole batch."""
    generator = torch.Generator().manual_seed(1)
    made = {
        "text_features": torch.randn(ITEMS, 5, 4, generator=generator).double(),
        "region": torch.randn(ITEMS, 3, 2, 6, generator=generator).double(),
        "global": torch.randn(ITEMS, 3, 5, generator=generator).double(),
    }
    made["text_features_mask"] = torch.arange(5) < torch.arange(ITEMS)[:, None] % 4 + 2
    made["frame_mask"] = torch.ones(ITEMS, 3).bool()
    return made


def step(model: RetrievalModule, own: dict[str, Tensor]) -> Tensor:
    """Return the loss of a training step, its gradients in the parameters."""
    model.log = lambda *_, **__: None  # type: ignore[assignment,method-assign]
    loss = model.training_step(own, 0)
    loss.backward()
    return loss.detach()


def main(folder: Path, rank: int, world: int) -> None:
    """Write the mean loss and the mean gradients of all ranks, as DDP makes them."""
    size = ITEMS // world
    with process_group(folder, rank, world):
        model = build()
        loss = step(model, {k: v[rank * size :][:size] for k, v in batch().items()})
        torch.save(mean_over_ranks({"loss": loss, **gradients(model)}), folder / f"{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
