"""Context-guided temporal clue distilling, CTCD (T-CARD, Algorithm 1).

P pairs, M videos, N texts, F frames, W windows, T tokens of a stream, H heads, D width.

Only the clue's output token is used, and a query's output does not depend on the other queries:
`MHCA(Q=[C'; V'], K=V=O')[0] = MHCA(Q=C', K=V=O')`. So the clue alone is computed, which is exact.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tvr_bench.errors import UserError
from tvr_bench.models.layers.attention import CrossAttention
from tvr_bench.models.layers.factored import FactoredTokens, StreamCache
from tvr_bench.models.layers.masking import masked_mean, mean_weights


class ClueDistilling(nn.Module):
    """Learnable clues that read the context of each stream; their mean is the hybrid clue."""

    def __init__(
        self,
        width: int,
        heads: int,
        frames: int,
        windows: int,
        wiring: str = "figure",
        shared: bool = True,
        bias: bool = False,
        init: str = "identity",
        std: float = 1.0,
    ) -> None:
        """Build clues, type embeddings and one MHCA (`shared`) or one for each stream.

        `wiring` figure lets the video's clue read the scene text and the text's clue the frames;
        printed is line 17 of Algorithm 1 as printed, which exchanges the two clues.
        """
        super().__init__()
        self.wiring = wiring
        self.clue_video = nn.Parameter(std * torch.randn(width))
        self.clue_ocr = nn.Parameter(std * torch.randn(width))
        self.type_clue = nn.Parameter(std * torch.randn(width))
        self.type_video = nn.Parameter(std * torch.randn(frames, width))
        self.type_ocr = nn.Parameter(std * torch.randn(windows, width))
        self.read_ocr = CrossAttention(width, heads, bias, init)
        self.read_video = None if shared else CrossAttention(width, heads, bias, init)

    def forward(self, video: Tensor, ocr: Tensor, video_mask: Tensor, ocr_mask: Tensor) -> Tensor:
        """Return the hybrid clue C, [P, D], of V~ [P, F, D] and O~ [P, W, D]."""
        to_ocr, to_video = self._queries()
        ocr = ocr + self._types(self.type_ocr, ocr.shape[1], "ocr.windows")
        video = video + self._types(self.type_video, video.shape[1], "video.frames")
        from_ocr = self.read_ocr(to_ocr[None, None], ocr, ocr_mask)
        from_video = self._video_attention(to_video[None, None], video, video_mask)
        return (from_ocr + from_video).squeeze(1) / 2

    def factored(
        self,
        video: FactoredTokens,
        ocr: FactoredTokens,
        video_mask: Tensor,
        ocr_mask: Tensor,
    ) -> Tensor:
        """Return the same clues for every pair, [M, N, D], of tokens kept as coefficients."""
        to_ocr, to_video = self._queries()
        video_type = self._types(self.type_video, video.base.shape[1], "video.frames")
        ocr_type = self._types(self.type_ocr, ocr.base.shape[1], "ocr.windows")
        from_ocr = _read(self.read_ocr, to_ocr, ocr, ocr_type, ocr_mask)
        from_video = _read(self._video_attention, to_video, video, video_type, video_mask)
        if self.read_video is None:
            return self.read_ocr.out((from_ocr + from_video) / 2)
        return (self.read_ocr.out(from_ocr) + self.read_video.out(from_video)) / 2

    @property
    def _video_attention(self) -> CrossAttention:
        return self.read_ocr if self.read_video is None else self.read_video

    def _queries(self) -> tuple[Tensor, Tensor]:
        video, ocr = self.clue_video + self.type_clue, self.clue_ocr + self.type_clue
        return (video, ocr) if self.wiring == "figure" else (ocr, video)

    @staticmethod
    def _types(types: Tensor, length: int, key: str) -> Tensor:
        if length > len(types):
            raise UserError(
                f"a clip has {length} tokens but the model was built for {key}={len(types)}; "
                f"set {key}={length} and train again"
            )
        return types[:length]


class PlainDistilling(nn.Module):
    """The first row of the paper's Table A4: cross-attention in the place of CTCD."""

    def __init__(
        self,
        width: int,
        heads: int,
        shared: bool = True,
        bias: bool = False,
        init: str = "identity",
    ) -> None:
        """Build one cross-attention (`shared`) or one for each stream."""
        super().__init__()
        self.read_ocr = CrossAttention(width, heads, bias, init)
        self.read_video = None if shared else CrossAttention(width, heads, bias, init)

    def forward(self, video: Tensor, ocr: Tensor, video_mask: Tensor, ocr_mask: Tensor) -> Tensor:
        """Return the mean of both attended streams' mean tokens, [P, D]."""
        from_ocr = masked_mean(self.read_ocr(video, ocr, ocr_mask), video_mask)
        from_video = masked_mean(self._video_attention(ocr, video, video_mask), ocr_mask)
        return (from_ocr + from_video) / 2

    def factored(
        self,
        video: FactoredTokens,
        ocr: FactoredTokens,
        video_mask: Tensor,
        ocr_mask: Tensor,
    ) -> Tensor:
        """Return the same for every pair, [M, N, D]; valid for tokens without co-attention."""
        from_ocr = _attend(self.read_ocr, video, ocr, video_mask, ocr_mask)
        from_video = _attend(self._video_attention, ocr, video, ocr_mask, video_mask)
        return (from_ocr + from_video) / 2

    @property
    def _video_attention(self) -> CrossAttention:
        return self.read_ocr if self.read_video is None else self.read_video


def _attend(
    attention: CrossAttention,
    own: FactoredTokens,
    other: FactoredTokens,
    own_mask: Tensor,
    other_mask: Tensor,
) -> Tensor:
    """Return the mean over own tokens of what they read from the other stream, [M, N, D]."""
    assert own.cross is None and other.cross is None
    cache = StreamCache.build(attention, None, own.base, other.base, other_mask)
    tokens = cache.condition(own.own, other.own)
    assert tokens.cross is not None
    mean = mean_weights(own_mask, own.base.dtype)
    return (tokens.cross * mean[:, None, :, None]).sum(2).mT @ cache.side


def _read(
    attention: CrossAttention,
    query: Tensor,
    tokens: FactoredTokens,
    types: Tensor,
    mask: Tensor,
) -> Tensor:
    """Return what a clue [D] reads, [M, N, D], before the output projection."""
    keys, basis = attention.fold(query), tokens.basis  # [H, D], [M, T+K, D]
    constant = types if tokens.offset is None else types + tokens.offset  # [T, D]
    logits = tokens.project(basis @ keys.mT) + (keys @ constant.mT)[..., None]
    weights = logits.masked_fill(~mask[:, None, :, None], -torch.inf).softmax(2)
    read = tokens.read(weights, attention.values(basis))
    read = read + weights.mT @ attention.values(constant[None])  # [M, H, N, E]
    return read.transpose(1, 2).flatten(2)
