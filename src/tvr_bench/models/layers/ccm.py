"""CCM, the Centre Cross-correlation Module: tokens of either modality, gathered at learnt centres.

CRET: the same centre queries are put to the tokens of a text and to those of a video, through the
same decoder, so that centre k of the one answers to centre k of the other. The modalities never see
each other, which is why every embedding can be computed beforehand.

B batch, L tokens, K centres, D width, E width of the embedding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tvr_bench.errors import UserError
from tvr_bench.models.layers.attention import CrossAttention
from tvr_bench.models.layers.masking import attendable


class CentreLayer(nn.Module):
    """A transformer decoder's layer, each part with its residual and the norm after it."""

    def __init__(self, width: int, options: Any) -> None:
        """Take D and the keys `heads`, `mlp`, `dropout` and `self_attention`."""
        super().__init__()
        heads = options.heads
        self.look_around = self.norm1 = None
        if options.self_attention:
            self.look_around = CrossAttention(width, heads, bias=True, init="xavier")
            self.norm1 = nn.LayerNorm(width)
        self.look_at_tokens = CrossAttention(width, heads, bias=True, init="xavier")
        hidden = options.mlp * width
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.norm2, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(options.dropout)

    def forward(self, centres: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return [B, K, D] for centres [B or 1, K, D], tokens [B, L, D] and mask bool [B, L]."""
        if self.look_around is not None and self.norm1 is not None:
            centres = self.norm1(centres + self.dropout(self.look_around(centres, centres)))
        centres = self.norm2(centres + self.dropout(self.look_at_tokens(centres, tokens, mask)))
        return self.norm3(centres + self.dropout(self.mlp(centres)))


class CentreDecoder(nn.Module):
    """Layers one after the other and, with `score` projected, "concatenate and project"."""

    def __init__(self, width: int, options: Any) -> None:
        """Take D and the keys `layers`, `score`, `centres`, `width` and those of a layer."""
        super().__init__()
        self.layers = nn.ModuleList(CentreLayer(width, options) for _ in range(options.layers))
        self.project = None
        if options.score == "projected":
            self.project = nn.Linear(options.centres * width, options.width or width)

    def forward(self, centres: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return [B, K, D], or [B, 1, E] if projected, for centres [1, K, D], tokens [B, L, D].

        What no token enters is computed once for the whole batch.
        """
        for layer in self.layers:
            centres = layer(centres, tokens, mask)
        return centres if self.project is None else self.project(centres.flatten(1))[:, None]


class CentreCorrelation(nn.Module):
    """Centres and decoders, shared by the modalities or one for each; `options`: `model.ccm.*`."""

    def __init__(self, width: int, options: Any) -> None:
        """Build for tokens of width D; raises UserError where the heads do not divide it."""
        super().__init__()
        if width % options.heads:
            raise UserError(
                f"model.ccm.heads={options.heads} does not divide the width {width}; "
                "choose a divisor"
            )
        self.by_centre = options.score == "aligned"
        self.queries = nn.ParameterList(
            nn.init.normal_(torch.empty(options.centres, width), std=options.std)
            for _ in range(1 if options.share_queries else 2)
        )
        self.decoders = nn.ModuleList(
            CentreDecoder(width, options) for _ in range(1 if options.share_weights else 2)
        )

    def text(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return what each centre gathers from the words, [B, K, D]; [B, L, D], bool [B, L]."""
        return self._gather(0, tokens, mask)

    def video(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return what each centre gathers from the patches, [B, K, D]; arguments as for `text`."""
        return self._gather(-1, tokens, mask)

    def embed(self, aligned: Tensor) -> Tensor:
        """Return unit vectors [B, E] whose dot product is the local similarity.

        That is the mean cosine of centre with centre (`score` aligned), or the cosine of all
        centres concatenated (flat) and projected (projected).
        """
        if self.by_centre:
            return F.normalize(aligned, dim=-1).flatten(1) * aligned.shape[1] ** -0.5
        return F.normalize(aligned.flatten(1), dim=-1)

    def _gather(self, side: int, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return [B, K, D] of the first or last centres and decoder, which may be the same."""
        # a copy: torch's counter of FLOPs cannot enter a module whose argument is a parameter
        centres = self.queries[side].clone()[None]
        return self.decoders[side](centres, tokens, attendable(mask))
