"""Batches whose encoding does not fit into memory: the same gradient, some items at a time.

A contrastive loss needs all items at once, for every other one is a negative; gradients that are
summed over small batches belong to another loss with fewer negatives. What takes the memory,
however, is the towers, and they know nothing of other items. So each micro-batch is encoded without
keeping anything but its features, the loss is made of the features of all, and the backward pass
encodes each micro-batch again, with the random state that it had (GradCache, Gao et al. 2021). It
costs one more forward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tvr_bench.errors import UserError
from tvr_bench.models.losses import Features, world_size

Batch = dict[str, Tensor]
Encode = Callable[[Batch], tuple[Features, Features]]


def in_micro_batches(encode: Encode, batch: Batch, size: int | None) -> tuple[Features, Features]:
    """Return the features of texts and videos that `encode` makes, `size` items at a time.

    None encodes all at once. `encode` must look at each item by itself.
    """
    items = item_count(batch)
    if size is None or size >= items:
        return encode(batch)
    parts = [
        checkpoint(
            encode,
            {key: value[first : first + size] for key, value in batch.items()},
            use_reentrant=False,
        )
        for first in range(0, items, size)
    ]
    text, video = zip(*parts, strict=True)
    return _joined(text), _joined(video)


def item_count(batch: Batch) -> int:
    """Return how many pairs a batch has."""
    return len(next(iter(batch.values())))


def _joined(parts: tuple[Features, ...]) -> Features:
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


class WithinMemory:
    """Repeats a step whose memory runs out with half the micro-batch, until it fits."""

    def __init__(self, size: int | None) -> None:
        """Take the items that are encoded at once; None for the whole batch."""
        self.size = size
        self.items = 0  # of the present batch

    def run(self, model: pl.LightningModule, step: Callable[[], Any]) -> Any:
        """Return what `step`, which makes loss and gradients, gives back.

        Buffers and random states are those of one step, however often it was tried. Raises
        UserError where there is nothing left to halve, and on several devices, whose others would
        wait for the one that repeats.
        """
        asked, before = self.size, _state(model)
        while True:
            try:
                found = step()
            except torch.OutOfMemoryError as error:
                self._halve(error)
            else:
                break
            # outside of `except`, where the failed step's tensors are still referred to
            if model.device.type == "cuda":
                torch.cuda.empty_cache()
            _restore(model, before)
        if self.size != asked:
            rank_zero_warn(
                f"out of memory: from here on {self.size} clips are encoded at a time; loss and "
                f"gradient are still those of the whole batch. trainer.micro_batch={self.size} "
                "starts so"
            )
        return found

    def _halve(self, error: torch.OutOfMemoryError) -> None:
        size = min(self.size or self.items, self.items)
        if size <= 1:
            raise UserError(
                "out of memory even with one clip encoded at a time; set "
                "backbone.checkpointing=true, or lower video.frames or trainer.batch_size"
            ) from error
        if world_size() > 1:
            raise UserError(
                f"out of memory with {size} clips encoded at a time on each device; set "
                f"trainer.micro_batch={(size + 1) // 2}, which leaves loss and gradient as they are"
            ) from error
        self.size = (size + 1) // 2


def _state(model: pl.LightningModule) -> tuple[list[Tensor], list[Tensor]]:
    """Return copies of the buffers and the random states."""
    random = [torch.get_rng_state()]
    if model.device.type == "cuda":
        random.append(torch.cuda.get_rng_state(model.device))
    return [buffer.clone() for buffer in model.buffers()], random


def _restore(model: pl.LightningModule, state: tuple[list[Tensor], list[Tensor]]) -> None:
    buffers, random = state
    for buffer, value in zip(model.buffers(), buffers, strict=True):
        buffer.copy_(value)
    torch.set_rng_state(random[0])
    if len(random) > 1:
        torch.cuda.set_rng_state(random[1], model.device)
