"""Pooling of a sequence of tokens to one vector. B batch, T tokens, D width, H heads."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tvr_bench.models.layers.masking import attendable, masked_mean

_HEADS = 2


class AttentionPool(nn.Module):
    """COOT's attention pooling: every channel has weights of its own over the tokens.

    Each head makes D / H channels of weights, `softmax_t(GELU(X W1 + b1) W2 + b2)`; the output is
    the sum of the tokens times the heads' weights side by side.
    """

    def __init__(self, width: int, dropout: float = 0.0, heads: int = _HEADS) -> None:
        """Take D, which `heads` must divide."""
        super().__init__()
        assert width % heads == 0, f"{heads} heads do not divide a width of {width}"
        self.weight1 = nn.Parameter(torch.empty(heads, width, width))
        self.bias1 = nn.Parameter(torch.zeros(heads, width))
        self.weight2 = nn.Parameter(torch.empty(heads, width, width // heads))
        self.bias2 = nn.Parameter(torch.zeros(heads, width // heads))
        for weight in (self.weight1, self.weight2):
            for head in weight:
                nn.init.xavier_uniform_(head)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return [B, D] of tokens [B, T, D]; `mask` is bool [B, T], True for a valid token.

        A sequence without a valid token is pooled as if all were.
        """
        hidden = torch.einsum("btd,hde->bhte", x, self.weight1) + self.bias1[:, None]
        hidden = F.gelu(self.dropout(hidden))
        logits = torch.einsum("bhte,hef->bthf", hidden, self.weight2) + self.bias2
        logits = self.dropout(logits.flatten(2))
        closed = ~attendable(mask)[..., None]
        weights = logits.masked_fill(closed, -torch.inf).softmax(1)
        return (x * self.dropout(weights)).sum(1)


class MeanPool(nn.Module):
    """The mean of the valid tokens."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return [B, D] of tokens [B, T, D] and bool [B, T]."""
        return masked_mean(x, attendable(mask))


class MaxPool(nn.Module):
    """The largest value of each channel over the valid tokens."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return [B, D] of tokens [B, T, D] and bool [B, T]."""
        return x.masked_fill(~attendable(mask)[..., None], -torch.inf).amax(1)


def build_pool(kind: str, width: int, dropout: float = 0.0) -> nn.Module:
    """Return the pooling that `kind` names: attention, mean or max."""
    if kind == "attention":
        return AttentionPool(width, dropout)
    return {"mean": MeanPool, "max": MaxPool}[kind]()
