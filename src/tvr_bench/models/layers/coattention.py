"""One direction of the video-OCR co-attention (T-CARD, Figure 2).

P pairs, M videos, N texts, T tokens of this stream, S of the other, D width.
"""

from __future__ import annotations

from torch import Tensor, nn

from tvr_bench.models.layers.attention import CrossAttention
from tvr_bench.models.layers.factored import StreamCache


class CoAttention(nn.Module):
    """A stream that looks at the other one: `LN(X + MHA(q=X, kv=Y))`.

    `norm` post is that form; pre is `X + MHA(LN(X), LN(Y))`, which cancels the text-condition's
    weights inside the attention; none leaves the norm out.
    """

    def __init__(
        self, width: int, heads: int, norm: str = "post", bias: bool = False, init: str = "identity"
    ) -> None:
        super().__init__()
        self.attention = CrossAttention(width, heads, bias, init)
        self.norm = nn.LayerNorm(width) if norm != "none" else None
        self.other_norm = nn.LayerNorm(width) if norm == "pre" else None
        self.cacheable = norm != "pre" and not bias

    def forward(self, own: Tensor, other: Tensor, other_mask: Tensor) -> Tensor:
        """Return [P, T, D] for own [P, T, D], other [P, S, D] and its mask, bool [P, S]."""
        if self.norm is not None and self.other_norm is not None:
            return own + self.attention(self.norm(own), self.other_norm(other), other_mask)
        mixed = own + self.attention(own, other, other_mask)
        return mixed if self.norm is None else self.norm(mixed)

    def cache(self, own: Tensor, other: Tensor, other_mask: Tensor) -> StreamCache:
        """Return what the exact fast path keeps per video; own [M, T, D], other [M, S, D].

        Valid where `cacheable`: a bias or a pre-norm does not scale with the tokens.
        """
        assert self.cacheable
        return StreamCache.build(self.attention, self.norm, own, other, other_mask)
