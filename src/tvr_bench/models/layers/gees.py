"""GEES: the contrastive loss expected over a Gaussian of every video's frames, bounded above.

CRET takes the frame features of video j for samples of a Gaussian N(mu_j, Sigma_j) and trains on
all of it at once. With the scores S_ijm = t_i . f_jm / tau of text i and frame m,
`E exp(t_i . v_j / tau) = exp(m_ij + q_ij)` where m_ij = mean_m S_ijm and
q_ij = t_i' Sigma_j t_i / (2 tau^2) = var_m S_ijm / 2: no matrix over the width is ever made.
Jensen's `E log X <= log E X` then bounds the expected InfoNCE of one item in several ways:

form        text i to videos (all v_j random)        video i to texts (only v_i random)
split       log sum_j exp(m_ij + q_ij) - m_ii        the same of S_ji
difference  log(1 + sum_j exp(m_ij - m_ii            split
            + q_ij + q_ii)), j other than i
isda_v2t    split                                    log sum_j E exp((t_j - t_i) . v_i / tau)
min         the smaller of split and difference      the smaller of split and isda_v2t
naive_ce    cross-entropy of m + q: split minus q_ii, which is no bound (pays for variance)

b own items, B items of all ranks, F frames. A score is -inf where a frame is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class FrameScores(NamedTuple):
    """Scores of own items with all others, frame by frame.

    `values` [b, B, F] have the mean of the loss; `spread` [b, B, F] have its variance: the same
    scores, or those of features without gradient.
    """

    values: Tensor
    spread: Tensor

    def relative(self, target: Tensor) -> FrameScores:
        """Return the scores less those of each item's own match, frame by frame."""
        return FrameScores(_relative(self.values, target), _relative(self.spread, target))


Moments = Callable[[FrameScores], tuple[Tensor, Tensor]]
Bound = Callable[[FrameScores, Tensor, Moments], Tensor]


def frame_moments(scores: Tensor, unbiased: bool = False) -> tuple[Tensor, Tensor]:
    """Return mean and half the variance over the valid frames, each [b, B], of [b, B, F].

    The variance is divided by the number of frames, or by one less (`unbiased`); it is 0 for a
    single frame.
    """
    valid = scores != -torch.inf
    frames = valid.sum(-1).clamp_min(1)
    mean = scores.masked_fill(~valid, 0).sum(-1) / frames
    # the mask comes before the square: an infinite deviation would have a NaN gradient
    deviation = (scores.masked_fill(~valid, 0) - mean[..., None]).masked_fill(~valid, 0)
    freedom = (frames - 1).clamp_min(1) if unbiased else frames
    return mean, deviation.square().sum(-1) / (2 * freedom)


def gees(
    rows: FrameScores,
    columns: FrameScores,
    start: int = 0,
    *,
    form: str = "split",
    scale: Tensor | float = 1.0,
    weight: Tensor | float = 1.0,
    limit: float | None = None,
    unbiased: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return the loss of every own text and of every own video, each [b].

    `rows` are scores of own texts with all videos, `columns` those of own videos with all texts;
    the match of own item i stands at column start + i of both. The scores are multiplied by
    `scale` (1 / tau), the variance terms also by `weight`, after which they are at most `limit`.
    """
    target = torch.arange(start, start + len(rows.values), device=rows.values.device)

    def moments(scores: FrameScores) -> tuple[Tensor, Tensor]:
        mean, half = frame_moments(scores.values)[0], frame_moments(scores.spread, unbiased)[1]
        extra = weight * scale**2 * half
        return scale * mean, extra if limit is None else extra.clamp_max(limit)

    by_text, by_video = _FORMS[form]
    return (
        _tightest([bound(rows, target, moments) for bound in by_text]),
        _tightest([bound(columns, target, moments) for bound in by_video]),
    )


def _split(scores: FrameScores, target: Tensor, moments: Moments) -> Tensor:
    mean, extra = moments(scores)
    return (mean + extra).logsumexp(1) - _at(mean, target)


def _difference(scores: FrameScores, target: Tensor, moments: Moments) -> Tensor:
    mean, extra = moments(scores)
    own = _at(extra, target) - _at(mean, target)
    logits = mean + extra + own[:, None]
    return logits.scatter(1, target[:, None], 0.0).logsumexp(1)  # the match itself counts 1


def _isda(scores: FrameScores, target: Tensor, moments: Moments) -> Tensor:
    mean, extra = moments(scores.relative(target))
    return (mean + extra).logsumexp(1)


def _naive_ce(scores: FrameScores, target: Tensor, moments: Moments) -> Tensor:
    mean, extra = moments(scores)
    return F.cross_entropy(mean + extra, target, reduction="none")


_FORMS: dict[str, tuple[tuple[Bound, ...], tuple[Bound, ...]]] = {
    "split": ((_split,), (_split,)),
    "difference": ((_difference,), (_split,)),
    "min": ((_split, _difference), (_split, _isda)),
    "isda_v2t": ((_split,), (_isda,)),
    "naive_ce": ((_naive_ce,), (_naive_ce,)),
}


def _at(matrix: Tensor, target: Tensor) -> Tensor:
    return matrix.gather(1, target[:, None])[:, 0]


def _relative(scores: Tensor, target: Tensor) -> Tensor:
    valid = scores != -torch.inf
    filled = scores.masked_fill(~valid, 0)
    own = filled[torch.arange(len(target), device=target.device), target]
    return (filled - own[:, None]).masked_fill(~valid, -torch.inf)


def _tightest(bounds: list[Tensor]) -> Tensor:
    return torch.stack(bounds).amin(0)
