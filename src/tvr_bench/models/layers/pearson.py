"""EERCF's Pearson constraint: a feature's dimensions agree across two views of a batch.

B matched pairs, D width.
"""

from __future__ import annotations

from torch import Tensor

_EPS = 1e-6  # a dimension that is constant over the batch has correlation 0, not NaN


def pearson_constraint(text: Tensor, video: Tensor, diagonal: float, off: float = 0.0) -> Tensor:
    """Return `diagonal` * sum_d (c_dd - 1)^2 + `off` * sum_(d != e) c_de^2, a scalar.

    c_de is the correlation over the batch of dimension d of `text` [B, D] with dimension e of
    `video` [B, D], the spread by B - 1 and the mean by B as in the released code, so that c_dd is
    at most (B-1)/B. The D x D matrix of correlations is never formed.
    """
    a, b = _standardised(text), _standardised(video)
    items = len(a)
    own = (a * b).sum(0) / items
    loss = diagonal * (own - 1).square().sum()
    if off:
        # sum of all c_de^2 = |A'B|^2 = <AA', BB'>, of B x B matrices
        every = ((a @ a.mT) * (b @ b.mT)).sum() / items**2
        loss = loss + off * (every - own.square().sum())
    return loss


def _standardised(x: Tensor) -> Tensor:
    centred = x - x.mean(0)
    variance = centred.square().sum(0) / max(1, len(x) - 1)
    return centred / (variance + _EPS**2).sqrt()
