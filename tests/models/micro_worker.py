"""One process of a distributed step in micro-batches: `micro_worker.py FOLDER RANK WORLD`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from ranks import process_group
from step_case import batch, build, taken
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tvr_bench.models.base import RetrievalModule

ITEMS = 6
NAMES = ("cret", "tcard")  # a buffer that counts steps, and windows that are encoded once


class Step(nn.Module):
    """A training step as the forward pass that DDP waits for."""

    def __init__(self, model: RetrievalModule) -> None:
        super().__init__()
        self.model = model

    def forward(self, given: dict[str, Tensor]) -> Tensor:
        return self.model.training_step(given, 0)


def main(folder: Path, rank: int, world: int) -> None:
    """Write each model's gradients, as DDP leaves them."""
    share = slice(rank * ITEMS // world, (rank + 1) * ITEMS // world)
    own = {key: value[share] for key, value in batch(ITEMS).items()}
    options: dict[str, Any] = {"loss.mask_duplicates": True, "trainer.micro_batch": 2}
    with process_group(folder, rank, world):
        for name in NAMES:
            model = build(name, **options)
            step = DistributedDataParallel(Step(model), find_unused_parameters=True)
            step(own).backward()
            torch.save(taken(model), folder / f"{name}-{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
