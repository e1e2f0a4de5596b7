"""One process of CRET's distributed loss, started by the tests: `cret_worker.py FOLDER RANK WORLD`.

It holds its share of a batch, and writes the loss and the gradients that all processes agree on.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from ranks import gradients, mean_over_ranks, process_group
from small import SMALL, WORDS
from torch import Tensor

from tvr_bench.models.cret import Cret
from tvr_bench.registry import create_model

ITEMS, FRAMES = 6, 4
SETTINGS = SMALL | {
    "video.size": "[32,32]",
    "video.frames": FRAMES,
    "backbone.motion": False,
    "model.ccm.heads": 2,
    "model.gees.ramp": 0,
}


def build(**options: Any) -> Cret:
    """Return a small model, the same in every process."""
    torch.manual_seed(0)
    model = create_model("cret", **(SETTINGS | options))
    assert isinstance(model, Cret)
    model.log = lambda *_, **__: None  # type: ignore[method-assign]
    return model


def batch() -> dict[str, Tensor]:
    """The whole batch: texts of several lengths, clips with missing frames."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.arange(ITEMS) % (WORDS - 2) + 3
    made = {
        "text_ids": torch.randint(3, 300, (ITEMS, WORDS), generator=generator),
        "text_mask": torch.arange(WORDS) < lengths[:, None],
        "frames": torch.randint(0, 256, (ITEMS, FRAMES, 3, 32, 32), generator=generator).byte(),
        "frame_mask": torch.ones(ITEMS, FRAMES).bool(),
    }
    made["frame_mask"][1, 2:] = False
    made["frame_mask"][4, 1:] = False
    return made


def main(folder: Path, rank: int, world: int) -> None:
    """Write the mean loss and the mean gradients of all ranks, as DDP makes them."""
    with process_group(folder, rank, world):
        model, size = build(), ITEMS // world
        own = {key: value[rank * size : (rank + 1) * size] for key, value in batch().items()}
        loss = model.training_step(own, 0)
        loss.backward()
        found = {"loss": loss.detach(), **gradients(model)}
        torch.save(mean_over_ranks(found), folder / f"{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
