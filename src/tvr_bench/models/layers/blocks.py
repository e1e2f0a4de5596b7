"""What is done to every transformer block of the towers alike: recomputed, or compiled.

A block's `forward` is replaced, so that the names of the weights stay what they are.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from tvr_bench.errors import UserError

# of the lists of blocks in our towers, and in those of timm and transformers
_LISTS = ("blocks", "blocks_token_only", "layers", "layer")


def tower_blocks(network: nn.Module) -> list[nn.Module]:
    """Return the transformer blocks of both towers, in their order."""
    return [
        block
        for name, blocks in network.named_modules()
        if name.rpartition(".")[2] in _LISTS and isinstance(blocks, (nn.ModuleList, nn.Sequential))
        for block in blocks
    ]


def keep_no_activations(network: nn.Module) -> None:
    """Let every block keep its input alone, and compute the rest again in the backward pass."""
    for block in tower_blocks(network):
        again: Any = partial(checkpoint, block.forward, use_reentrant=False)
        block.forward = again


@contextmanager
def compiled(network: nn.Module) -> Iterator[None]:
    """Compile every block as long as the context lasts; UserError where there is no compiler."""
    _check_compiler(next(network.parameters()).device.type)
    plain = [(block, block.forward) for block in tower_blocks(network)]
    try:
        for block, forward in plain:
            fast: Callable[..., Any] = torch.compile(forward)
            block.forward = fast
        yield
    finally:
        for block, forward in plain:
            block.forward = forward


def _check_compiler(device: str) -> None:
    names = ("g++", "clang++") if device == "cpu" else ("gcc", "clang", "cc")
    named = os.environ.get("CXX" if device == "cpu" else "CC")
    if not any(shutil.which(name) for name in (named, *names) if name):
        raise UserError(
            f"trainer.compile=true needs a compiler ({' or '.join(names)}) and there is none; "
            "install one or set trainer.compile=false"
        )
