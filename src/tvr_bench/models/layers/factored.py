"""Pairwise tokens that are never formed: coefficients per pair over vectors per video.

Text-condition multiplies a video's tokens by scalars. A co-attention without bias and without
pre-norm then leaves tokens that are sums of fixed vectors of the video (its tokens, and what each
head adds for each token of the other stream) with coefficients that depend on the text. Everything
that T-CARD computes from them is linear in the tokens, except the norm of the layer norm, which
their Gram matrix gives. So no [N, M, T, D] tensor is needed and the result is exact.

N texts, M videos, T tokens of this stream, S of the other, H heads, K = H*S, Q mixtures, D width.
The text is the last dimension, which keeps the many small products over T and S contiguous.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tvr_bench.models.layers.attention import CrossAttention
from tvr_bench.models.layers.matching import TINY


@dataclass(frozen=True)
class FactoredTokens:
    """Token i of a pair: `scale_i (own_i base_i + sum_k cross_ki side_k) + offset`."""

    own: Tensor  # [M, T, N]
    base: Tensor  # [M, T, D]
    cross: Tensor | None = None  # [M, K, T, N]
    side: Tensor | None = None  # [M, K, D]
    scale: Tensor | None = None  # [M, T, N]
    offset: Tensor | None = None  # [D]

    @property
    def basis(self) -> Tensor:
        """Return the vectors that the tokens are sums of, [M, T+K, D]."""
        return self.base if self.side is None else torch.cat([self.base, self.side], 1)

    def cosine(self, text: Tensor, weights: Tensor) -> Tensor:
        """Return the cosine of text [N, D] with the weighted sum over tokens, [M, N].

        `weights` [M, T] are those that no text changes. The sum is not formed: product and norm are
        those of its coefficients, with the basis' products with the text and with itself.
        """
        scaled = weights[..., None] if self.scale is None else weights[..., None] * self.scale
        parts, basis = [scaled * self.own], self.basis
        if self.cross is not None:
            parts.append((self.cross * scaled[:, None]).sum(2))
        if self.offset is not None:
            parts.append(weights.sum(1)[:, None, None].expand(-1, 1, len(text)))
            basis = torch.cat([basis, self.offset.expand(len(basis), 1, -1)], 1)
        shares = torch.cat(parts, 1)  # [M, T+K+1, N]
        product = (basis @ F.normalize(text, dim=-1, eps=TINY).mT * shares).sum(1)
        square = (basis @ basis.mT @ shares * shares).sum(1)
        return product / square.clamp_min(TINY**2).sqrt()

    def read(self, weights: Tensor, values: Tensor) -> Tensor:
        """Return weighted sums of linear images of the tokens, [M, Q, N, E], less the offset.

        `weights` are [M, Q, T, N], `values` the images of the basis, [M, Q, T+K, E].
        """
        if self.scale is not None:
            weights = weights * self.scale[:, None]
        length = self.base.shape[1]
        result = (weights * self.own[:, None]).mT @ values[:, :, :length]
        if self.cross is None:
            return result
        cross = torch.einsum("mktn,mqtn->mqnk", self.cross, weights)
        return result + cross @ values[:, :, length:]

    def project(self, functional: Tensor) -> Tensor:
        """Return the dot products of tokens and fixed vectors, [M, Q, T, N], less the offset.

        `functional` are the dot products of the basis with these vectors, [M, T+K, Q].
        """
        length = self.base.shape[1]
        result = functional[:, :length].mT[..., None] * self.own[:, None]
        if self.cross is not None:
            cross = functional[:, length:].mT @ self.cross.flatten(2)
            result = result + cross.unflatten(2, self.own.shape[1:])
        return result if self.scale is None else result * self.scale[:, None]

    def tokens(self) -> Tensor:
        """Return the tokens themselves, [M, N, T, D]: for what is not linear in them."""
        result = self.own.permute(0, 2, 1)[..., None] * self.base[:, None]
        if self.cross is not None and self.side is not None:
            result = result + torch.einsum("mktn,mkd->mntd", self.cross, self.side)
        if self.scale is not None:
            result = result * self.scale.permute(0, 2, 1)[..., None]
        return result if self.offset is None else result + self.offset


@dataclass(frozen=True)
class StreamCache:
    """What one stream of a video keeps for every text: products, outputs and Grams."""

    base: Tensor  # [M, T, D], with the norm's weight
    side: Tensor  # [M, K, D], with the norm's weight
    products: Tensor  # [M, H, S, T]
    closed: Tensor  # [M, 1, S, 1, 1]: 0, or -inf for a slot that nothing attends to
    norm: nn.LayerNorm | None
    own_gram: Tensor  # [M, T, 1]
    cross_gram: Tensor  # [M, K, T, 1]
    side_gram: Tensor  # [M, K, K]

    @classmethod
    def build(
        cls,
        attention: CrossAttention,
        norm: nn.LayerNorm | None,
        own: Tensor,
        other: Tensor,
        other_mask: Tensor,
    ) -> StreamCache:
        """Return the cache of own [M, T, D] that attends to other [M, S, D], mask [M, S]."""
        products, side, base = attention.products(own, other), attention.outputs(other), own
        if norm is not None:
            base, side = (x - x.mean(-1, keepdim=True) for x in (base, side))
        width = base.shape[-1]
        grams = (
            base.square().sum(-1, keepdim=True) / width,
            (side @ base.mT)[..., None] / width,
            side @ side.mT / width,
        )
        if norm is not None:
            base, side = base * norm.weight, side * norm.weight
        closed = torch.zeros_like(other_mask, dtype=own.dtype)
        closed = closed.masked_fill(~other_mask, -torch.inf)[:, None, :, None, None]
        return cls(base, side, products, closed, norm, *grams)

    def condition(self, own: Tensor, other: Tensor) -> FactoredTokens:
        """Return the tokens after co-attention; factors own [M, T, N] and other [M, S, N]."""
        factors = other[:, :, None] * own[:, None]  # [M, S, T, N]
        logits = torch.addcmul(self.closed, self.products[..., None], factors[:, None])
        cross = logits.softmax(2) * other[:, None, :, None]
        cross = cross.flatten(1, 2)
        if self.norm is None:
            return FactoredTokens(own, self.base, cross, self.side)
        scale = (self._variance(own, cross) + self.norm.eps).rsqrt()
        return FactoredTokens(own, self.base, cross, self.side, scale, self.norm.bias)

    def _variance(self, own: Tensor, cross: Tensor) -> Tensor:
        """Return the variance over D of the tokens before the norm, [M, T, N]."""
        half = (self.side_gram @ cross.flatten(2)).unflatten(2, own.shape[1:])
        mixed = (cross * (half + 2 * own[:, None] * self.cross_gram)).sum(1)
        # rounding may leave a zero vector just below zero
        return (own.square() * self.own_gram + mixed).clamp_min(0)
