"""Padding and missing tokens. M items, T tokens, D width."""

from __future__ import annotations

import torch
from torch import Tensor


def masked_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of the valid tokens, [M, D], zero where none is; [M, T, D], bool [M, T]."""
    return (mean_weights(mask, tokens.dtype)[:, None] @ tokens).squeeze(1)


def mean_weights(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return [M, T] that sums to one over the valid tokens, or to zero where none is."""
    weights = mask.to(dtype)
    return weights / weights.sum(1, keepdim=True).clamp_min(1)


def on_host(x: Tensor) -> bool:
    """Return whether the values can be looked at without waiting for a device."""
    return x.device.type == "cpu"


def attendable(mask: Tensor) -> Tensor:
    """Return `mask` [M, T] with every slot open where a row has no valid token at all.

    A softmax needs something to attend to; what stands in such slots must be zero.
    """
    return mask | ~mask.any(1, keepdim=True)
