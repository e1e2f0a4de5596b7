"""How one text meets the tokens that a pair left of a video.

N texts, M videos, L words, T tokens, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TINY = 1e-12  # a zero vector (a video without scene text) has cosine 0, not NaN


def pair_cosine(text: Tensor, pooled: Tensor) -> Tensor:
    """Return [M, N], the cosine of text [N, D] with one vector per pair, pooled [M, N, D]."""
    product = torch.einsum("mnd,nd->mn", pooled, F.normalize(text, dim=-1, eps=TINY))
    return product / torch.linalg.vector_norm(pooled, dim=-1).clamp_min(TINY)


class TokenMatching(nn.Module):
    """Weighted token-wise interaction: each word finds its best token and each token its word."""

    def __init__(self, width: int) -> None:
        """Build the two linear maps that weigh words and tokens."""
        super().__init__()
        self.word_weight = nn.Linear(width, 1, bias=False)
        self.token_weight = nn.Linear(width, 1, bias=False)

    def forward(self, words: Tensor, word_mask: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return scores [M, N] in -1..1.

        words [N, L, D], word_mask bool [N, L], tokens [M, N, T, D], mask bool [M, T]; each row of
        a mask has at least one True.
        """
        cosine = torch.einsum(
            "nld,mntd->mnlt", F.normalize(words, dim=-1), F.normalize(tokens, dim=-1)
        )
        no_word = ~word_mask[None, :, :, None]
        no_token = ~mask[:, None, None, :]
        word_weight = self.word_weight(words).squeeze(-1)
        word_weight = word_weight.masked_fill(~word_mask, -torch.inf).softmax(-1)
        token_weight = self.token_weight(tokens).squeeze(-1)
        token_weight = token_weight.masked_fill(~mask[:, None], -torch.inf).softmax(-1)
        # -1 is the least cosine, so a masked slot is never the best one by accident
        best_token = cosine.masked_fill(no_token, -1).amax(3)
        best_word = cosine.masked_fill(no_word, -1).amax(2)
        by_word = (best_token * word_weight).sum(2)
        return (by_word + (best_word * token_weight).sum(2)) / 2
