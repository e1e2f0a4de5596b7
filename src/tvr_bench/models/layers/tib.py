"""The parameter-free text-gated interaction block (TIB), for frames and for patches alike.

A text weighs a video's tokens by its products with them; the block's output is their weighted sum,
which the text is compared with. N texts, M videos, T tokens, D width; `...` is [N] where every pair
is scored and nothing where row i of the texts meets row i of the videos. Tokens are unit vectors or
zero, texts unit vectors. No tensor [N, M, T, D] is ever formed.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_CLOSED = -1e9  # a product that leaves no weight, yet 0 when it is multiplied by that weight
_TINY = 1e-12  # a squared norm below which a sum of tokens counts as zero


def pair_products(text: Tensor, tokens: Tensor, closed: Tensor | None = None) -> Tensor:
    """Return dot products [N, M, T] of texts [N, D] with tokens [M, T, D], -1e9 where closed.

    `closed` is bool [M, T]. The mask is part of the matrix product, not one more pass over pairs.
    """
    flat = tokens.flatten(0, 1).mT
    if closed is None:
        return (text @ flat).unflatten(1, tokens.shape[:2])
    bias = text.new_zeros(closed.shape).masked_fill(closed, _CLOSED).flatten()
    return torch.addmm(bias, text, flat).unflatten(1, tokens.shape[:2])


def aligned_products(text: Tensor, tokens: Tensor, closed: Tensor | None = None) -> Tensor:
    """Return dot products [M, T] of text i with the tokens of video i, -1e9 where closed."""
    products = (tokens @ text[:, :, None]).squeeze(2)
    return products if closed is None else products.masked_fill(closed, _CLOSED)


def text_gate(products: Tensor, tau: float, closed: Tensor | None = None) -> Tensor:
    """Return the weights of the tokens, softmax(products / tau) over the last dimension.

    `closed` is bool [M, T]: tokens that get no weight.
    """
    if closed is not None:
        products = products.masked_fill(closed, _CLOSED)
    return (products / tau).softmax(-1)


def weighted_sum(weights: Tensor, products: Tensor) -> Tensor:
    """Return the sum over tokens of weights times products, [..., M]; both [..., M, T]."""
    return torch.linalg.vecdot(weights, products)


def gated_tokens(weights: Tensor, tokens: Tensor) -> Tensor:
    """Return the weighted sum of the tokens as a unit vector, [..., M, D].

    `weights` [..., M, T], `tokens` [M, T, D].
    """
    return F.normalize(torch.einsum("...mt,mtd->...md", weights, tokens), dim=-1)


def gated_cosine(weights: Tensor, products: Tensor, gram: Tensor) -> Tensor:
    """Return the cosine [..., M] of the text with the weighted sum of the tokens, exactly.

    The norm of the sum is a quadratic form: |sum_t w_t x_t|^2 = w' G w with the Gram matrix
    G [M, T, T] of the tokens. `weights` and `products` are [..., M, T].
    """
    square = torch.linalg.vecdot(torch.einsum("...ms,mst->...mt", weights, gram), weights)
    return weighted_sum(weights, products) / square.clamp_min(_TINY).sqrt()


def gated_cosine_of_sum(weights: Tensor, products: Tensor, tokens: Tensor) -> Tensor:
    """Return the same as `gated_cosine` by the sum itself: cheaper where T is larger than D."""
    mixed = torch.einsum("...mt,mtd->...md", weights, tokens)
    square = torch.linalg.vecdot(mixed, mixed)
    return weighted_sum(weights, products) / square.clamp_min(_TINY).sqrt()
