"""The parameter-free text-gated interaction block (TIB), for frames and for patches alike.

A text weighs a video's tokens by its products with them; the block's output is their weighted sum,
which the text is compared with. N texts, M videos, T tokens, D width; `...` is [N] where every pair
is scored and nothing where row i of the texts meets row i of the videos. A single video may come
without the dimension M, which spares a search many small steps; then it is nowhere in the result.
Tokens are unit vectors or zero, texts unit vectors. No tensor [N, M, T, D] is ever formed.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_CLOSED = -1e9  # an exponent that leaves no weight
_SHORT = 64  # tokens up to which a softmax on CPU is several times faster along the first dimension
_TINY = 1e-12  # a squared norm below which a sum of tokens counts as zero


def pair_products(text: Tensor, tokens: Tensor) -> Tensor:
    """Return dot products [N, M, T] of texts [N, D] with tokens [M, T, D]."""
    return (text @ tokens.flatten(0, 1).mT).unflatten(1, tokens.shape[:2])


def aligned_products(text: Tensor, tokens: Tensor) -> Tensor:
    """Return dot products [M, T] of text i with the tokens of video i."""
    return (tokens @ text[:, :, None]).squeeze(2)


def products_of_one(text: Tensor, tokens: Tensor) -> Tensor:
    """Return dot products [N, T] of texts [N, D] with the tokens [T, D] of one video."""
    return text @ tokens.mT


def text_gate(products: Tensor, tau: float, closed: Tensor | None = None) -> Tensor:
    """Return the weights of the tokens, softmax(products / tau) over the last dimension.

    `closed` is bool [M, T]: tokens that get no weight. The mask and the temperature are one pass
    over the pairs.
    """
    if closed is None:
        scaled = products / tau
    else:
        scaled = torch.add(closed.to(products.dtype) * _CLOSED, products, alpha=1 / tau)
    if scaled.shape[-1] > _SHORT:
        return scaled.softmax(-1)
    return scaled.movedim(-1, 0).softmax(0).movedim(0, -1).contiguous()


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
    if gram.ndim == 2:
        turned = weights @ gram
    elif weights.ndim == 2:
        turned = (weights[:, None] @ gram)[:, 0]
    else:
        turned = (weights.transpose(0, 1) @ gram).transpose(0, 1)
    square = torch.linalg.vecdot(turned, weights)
    return weighted_sum(weights, products) / square.clamp_min(_TINY).sqrt()


def gated_cosine_of_sum(weights: Tensor, products: Tensor, tokens: Tensor) -> Tensor:
    """Return the same as `gated_cosine` by the sum itself: cheaper where T is larger than D."""
    one = tokens.ndim == 2
    mixed = weights @ tokens if one else torch.einsum("...mt,mtd->...md", weights, tokens)
    square = torch.linalg.vecdot(mixed, mixed)
    return weighted_sum(weights, products) / square.clamp_min(_TINY).sqrt()
