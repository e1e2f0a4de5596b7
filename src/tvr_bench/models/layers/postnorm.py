"""The transformer layer of COOT and BiC-Net: normalised after each residual, in their own way.

B batch, T tokens, D width. Attention is written out for short sequences, where it beats the fused
kernels on a CPU (bf16, 35 tokens, backward included: 33 ms against 181), and fused for long ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tvr_bench.errors import UserError

_EPS = 1e-6  # of the release's norm, added to the standard deviation
_LONG = 128  # tokens from which the fused kernel is at least as fast on a CPU


@dataclass(frozen=True)
class LayerSpec:
    """What the layers share: D, heads that divide it, hidden width of the MLP in widths, dropout.

    Raises UserError for heads that do not divide the width.
    """

    width: int
    heads: int
    mlp: int = 2
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise UserError(
                f"model.heads={self.heads} does not divide the width {self.width}; choose a divisor"
            )


class UnbiasedNorm(nn.Module):
    """`gain (x - mean) / (std + 1e-6) + bias` with the unbiased standard deviation.

    It is the fused kernel's result times a factor per token. The factor's own gradient, a share of
    1e-6 / std of the whole, is left out: with it the norm takes three times as long.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.ratio = (width / (width - 1)) ** 0.5  # unbiased over biased standard deviation

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised tokens; a constant one becomes the bias."""
        tiny = 1e-30  # of the variance: without it a constant token would be 0 / 0
        unit, _, inverse = torch.native_layer_norm(x, x.shape[-1:], None, None, tiny)
        factor = (1 / (self.ratio + _EPS * inverse)).to(unit.dtype)
        return torch.addcmul(self.bias.to(unit), unit * factor, self.gain.to(unit))


class SelfAttention(nn.Module):
    """Multi-head attention of a sequence to itself, dropout on its weights."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()
        self.heads, self.dropout = spec.heads, spec.dropout
        self.qkv = nn.Linear(spec.width, 3 * spec.width)
        self.out = nn.Linear(spec.width, spec.width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return [B, T, D]; `mask` is bool [B, T], True for a token to attend to.

        A sequence without such a token attends to all alike.
        """
        split = (*x.shape[:2], self.heads, -1)
        q, k, v = (part.view(split).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        dropout = self.dropout if self.training else 0.0
        if x.is_cuda or x.shape[1] > _LONG:
            bias = None if mask is None else _additive(mask, q.dtype)
            mixed = F.scaled_dot_product_attention(q, k, v, bias, dropout)
        else:
            logits = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
            if mask is not None:
                logits = logits + _additive(mask, logits.dtype)
            weights = logits.softmax(-1)
            mixed = (F.dropout(weights, dropout) if dropout else weights) @ v
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return [B, 1, 1, T], finite so that a row without any open token stays a number."""
    zeros = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return zeros.masked_fill(~mask, torch.finfo(dtype).min / 2)[:, None, None]


class PostNormLayer(nn.Module):
    """`y = LN(x + attention(x))`, then `LN(y + MLP(y))`, [B, T, D] to [B, T, D]."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()
        hidden = spec.mlp * spec.width
        self.attention = SelfAttention(spec)
        self.norm1, self.norm2 = UnbiasedNorm(spec.width), UnbiasedNorm(spec.width)
        self.dropout = nn.Dropout(spec.dropout)
        self.mlp = nn.Sequential(
            nn.Linear(spec.width, hidden),
            nn.Dropout(spec.dropout),
            nn.GELU(),
            nn.Linear(hidden, spec.width),
            nn.Dropout(spec.dropout),
        )

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the tokens after attention and MLP; `mask` as in `SelfAttention`."""
        x = self.dropout(self.norm1(x + self.attention(x, mask)))
        out: Tensor = self.norm2(x + self.mlp(x))
        return out


def positions(length: int, like: Tensor) -> Tensor:
    """Return the release's position encoding [T, D] of the first `length` positions.

    `sin(p / 10000^(2d/D))` for even d and the cosine for odd d: unlike the usual table, the
    exponent counts every d, and a sine and the cosine beside it have different wave lengths.
    """
    width = like.shape[-1]
    d = torch.arange(width, device=like.device, dtype=torch.float32)  # its precision there
    p = torch.arange(length, device=like.device, dtype=torch.float32)
    angle = p[:, None] / 10000 ** (2 * d / width)
    return torch.where(d % 2 == 0, angle.sin(), angle.cos()).to(like.dtype)


@torch.no_grad()
def small_start(module: nn.Module, std: float = 0.01) -> None:
    """Draw every weight and bias from a normal cut at two `std`; gains of the norms stay 1."""
    for name, parameter in module.named_parameters():
        if not name.endswith("gain"):
            nn.init.trunc_normal_(parameter, std=std, a=-2 * std, b=2 * std)
