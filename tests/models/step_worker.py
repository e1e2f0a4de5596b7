"""One process of the training steps of all models: `step_worker.py FOLDER RANK WORLD`.

It does every step on its share of one batch, and writes the losses and the gradients that all
processes agree on. In double precision, so that only a wrong formula can make a difference.
"""

from __future__ import annotations

import copy
import functools
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from ranks import gradients, mean_over_ranks, process_group
from small import FRAMES, SMALL, WINDOWS, WORDS, pairs
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from tvr_bench.models.base import RetrievalModule
from tvr_bench.registry import create_model
from tvr_bench.strategies import shard

ITEMS, HEIGHT, WIDTH = 6, 32, 48
SETTINGS = SMALL | {"video.size": [HEIGHT, WIDTH], "backbone.motion": False}
MASKED = {"loss.mask_duplicates": True}
BICNET = {"model.width": 16, "model.heads": 2}
CRET = {"model.ccm.heads": 2, "model.gees.ramp": 0}
TCARD = {"model.heads": 2}
CASES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("meanpool", MASKED),
    ("bicnet", BICNET | MASKED),
    ("bicnet", BICNET | {"model.max_violation": True}),
    ("cret", CRET | MASKED),
    ("cret", CRET | {"model.gees.detach": True, "model.gees.form": "difference"}),
    ("eercf", {"model.pearson": 0.5} | MASKED),
    ("tcard", TCARD | MASKED | {"model.hsc_features": "conditioned", "model.loss": "both"}),
)
SHARDED = (3, 6)  # cases whose models are also shared out by FSDP


def build(number: int) -> RetrievalModule:
    """Return a model of a case, the same in every process."""
    return copy.deepcopy(_built(number))


@functools.cache
def _built(number: int) -> RetrievalModule:
    name, options = CASES[number]
    torch.manual_seed(0)
    model = create_model(name, **(SETTINGS | options)).double()
    model.log = lambda *_, **__: None  # type: ignore[assignment,method-assign]
    return model


def batch() -> dict[str, Tensor]:
    """The whole batch: two equal captions, missing frames, and scene text of half the clips."""
    generator = torch.Generator().manual_seed(0)
    made = pairs(ITEMS, FRAMES, (HEIGHT, WIDTH), generator) | {
        "ocr_ids": torch.randint(3, 300, (ITEMS, WINDOWS, WORDS), generator=generator),
        "ocr_mask": torch.ones(ITEMS, WINDOWS, WORDS).bool(),
    }
    made["text_ids"][4], made["text_mask"][4] = made["text_ids"][1], made["text_mask"][1]
    made["frame_mask"][1, 2:] = made["frame_mask"][5, 1:] = False
    made["ocr_mask"][0] = made["ocr_mask"][1] = made["ocr_mask"][3] = False
    made["ocr_mask"][4, 0] = False
    return made


def step(model: RetrievalModule, own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the loss of a training step and the gradients that it has."""
    loss = model.training_step(own, 0)
    loss.backward()
    return {"loss": loss.detach(), **gradients(model)}


def sharded_step(model: RetrievalModule, own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the same of a model of which every process holds a part."""
    shard(model, init_device_mesh("cpu", (dist.get_world_size(),)))
    parts = step(model, own)
    whole = {k: v.full_tensor() for k, v in parts.items() if isinstance(v, DTensor)}
    return whole | mean_over_ranks({k: v for k, v in parts.items() if k not in whole})


def steps(rank: int, world: int) -> dict[str, dict[str, Tensor]]:
    """Return the mean losses and gradients of all cases, as DDP and FSDP make them."""
    size = ITEMS // world
    own = {key: value[rank * size :][:size] for key, value in batch().items()}
    found = {f"ddp {i}": mean_over_ranks(step(build(i), own)) for i in range(len(CASES))}
    return found | {f"fsdp {i}": sharded_step(build(i), own) for i in SHARDED}


def main(folder: Path, rank: int, world: int) -> None:
    """Write what this process finds."""
    with process_group(folder, rank, world):
        torch.save(steps(rank, world), folder / f"{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
