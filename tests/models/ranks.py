"""What the processes of a distributed test share: their group, and the mean of what each found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist
from torch import Tensor, nn


@contextmanager
def process_group(folder: Path, rank: int, world: int) -> Iterator[None]:
    """Be one of `world` gloo processes that meet in `folder`."""
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'sync'}",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=600),
    )
    try:
        yield
    finally:
        dist.destroy_process_group()


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """Return the gradient of every parameter that is trained; each must have one."""
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            found[name] = parameter.grad
    return found


def mean_over_ranks(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the same on every rank: the mean of what each has, as DDP makes it of gradients."""
    for value in found.values():
        dist.all_reduce(value)
        value /= dist.get_world_size()
    return found
