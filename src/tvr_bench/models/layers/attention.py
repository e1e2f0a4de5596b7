"""Attention of one sequence to another, with the pieces that a cached form of it needs.

B batch, T queries, S memory tokens, H heads, E width of a head, D width, M videos.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tvr_bench.errors import UserError


class CrossAttention(nn.Module):
    """Multi-head attention of a query sequence to a memory, without dropout."""

    def __init__(self, width: int, heads: int, bias: bool = False, init: str = "identity") -> None:
        """Build the four projections; `init` is xavier or identity.

        Identity (as X-Pool starts) leaves the encoders' space as it is, so that a cosine with the
        text means something at the first step. Raises UserError where `heads` do not divide D.
        """
        super().__init__()
        if width % heads:
            raise UserError(
                f"model.heads={heads} does not divide the width {width}; choose a divisor"
            )
        self.heads = heads
        self.query, self.key, self.value, self.out = (
            nn.Linear(width, width, bias=bias) for _ in range(4)
        )
        for layer in (self.query, self.key, self.value, self.out):
            if init == "identity":
                nn.init.eye_(layer.weight)
            else:
                nn.init.xavier_uniform_(layer.weight)
            if bias:
                nn.init.zeros_(layer.bias)

    def forward(self, query: Tensor, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return [B, T, D] for queries [B or 1, T, D], memory [B, S, D] and mask bool [B, S]."""
        scores = self._split(self.query(query)) @ self._split(self.key(memory)).mT
        scores = scores / math.sqrt(query.shape[-1] / self.heads)
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, None], -torch.inf)
        mixed = scores.softmax(-1) @ self.values(memory)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def values(self, memory: Tensor) -> Tensor:
        """Return the values of every head, [B, H, S, E], for memory [B, S, D]."""
        return self._split(self.value(memory))

    def products(self, query: Tensor, memory: Tensor) -> Tensor:
        """Return query-key products before the softmax, [M, H, S, T]; [M, T, D] and [M, S, D]."""
        scale = 1 / math.sqrt(query.shape[-1] / self.heads)
        return self._split(self.key(memory)) @ self._split(self.query(query) * scale).mT

    def outputs(self, memory: Tensor) -> Tensor:
        """Return what each head and memory token adds to the output, [M, H*S, D]."""
        out = self.out.weight.unflatten(1, (self.heads, -1))  # [D, H, E]
        return torch.einsum("mhse,dhe->mhsd", self.values(memory), out).flatten(1, 2)

    def fold(self, query: Tensor) -> Tensor:
        """Return [H, D] whose dot product with a memory token is a constant query's [D] score."""
        heads = self.query(query).unflatten(-1, (self.heads, -1))  # [H, E]
        keys = self.key.weight.unflatten(0, (self.heads, -1))  # [H, E, D]
        scale = 1 / math.sqrt(query.shape[-1] / self.heads)
        return torch.einsum("he,hed->hd", heads * scale, keys)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
