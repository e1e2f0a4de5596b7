"""Text-condition: how much each token of a video matters to one text.

T-CARD, section "Text-Condition" of Figure 2 and Table A5; the weights are those of DiCoSA.
N texts, M videos, T tokens (frames or windows), D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TextCondition(nn.Module):
    """Weights `softmax_i(t . v_i / tau)` over a video's valid tokens, times their number."""

    def __init__(self, tau: float, rescale: bool = True, features: str = "raw") -> None:
        """Keep the temperature; `features` unit takes cosines, `rescale` the factor N."""
        super().__init__()
        self.tau, self.rescale, self.features = tau, rescale, features

    def forward(self, text: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return the factor of every token for every pair, [M, T, N].

        text [N, D], tokens [M, T, D], mask bool [M, T] with at least one True per video.
        """
        text, tokens = self._prepare(text), self._prepare(tokens)
        return self._weights((tokens.flatten(0, 1) @ text.mT).unflatten(0, mask.shape), mask)

    def matched(self, text: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return the factors of text row i on video row i, [N, T]; tokens [N, T, D]."""
        text, tokens = self._prepare(text), self._prepare(tokens)
        return self._weights(tokens @ text[:, :, None], mask).squeeze(-1)

    def _prepare(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1) if self.features == "unit" else x

    def _weights(self, scores: Tensor, mask: Tensor) -> Tensor:
        scores = (scores / self.tau).masked_fill(~mask[..., None], -torch.inf)
        weights = scores.softmax(1)
        return weights * mask.sum(1)[:, None, None] if self.rescale else weights
