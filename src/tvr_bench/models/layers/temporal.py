"""A transformer over the frames of a video, built of CLIP's text blocks.

B batch, F frames, D width. Attention is written out, so that its FLOPs are counted anywhere.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tvr_bench.models.layers.tiny import Attention


class QuickGELU(nn.Module):
    """CLIP's approximation of GELU."""

    def forward(self, x: Tensor) -> Tensor:
        """Return `x sigmoid(1.702 x)`."""
        return x * torch.sigmoid(1.702 * x)


class ClipBlock(nn.Module):
    """One residual block of CLIP's transformers, normalised before attention and MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), QuickGELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return tokens [B, F, D]; `mask` is bool [B, F], True for a token to attend to."""
        x = x + self.attention(self.norm1(x), mask)
        return x + self.mlp(self.norm2(x))


class TemporalTransformer(nn.Module):
    """Learned positions, then CLIP blocks over frames; there is no residual around the whole."""

    def __init__(self, width: int, layers: int, heads: int, positions: int) -> None:
        """Take D, the number of blocks, heads that divide D, and the most frames there can be."""
        super().__init__()
        assert width % heads == 0, f"{heads} heads do not divide a width of {width}"
        self.position = nn.Parameter(torch.empty(positions, width))
        made = [ClipBlock(width, heads) for _ in range(layers)]
        self.blocks = nn.ModuleList(made)
        _draw(self.position, made)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return frames [B, F, D] that have seen each other; `mask` is bool [B, F], True if valid.

        Padded frames are attended to by none; in a clip without a valid frame all are alike.
        """
        x = x + self.position[: x.shape[1]]
        for block in self.blocks:
            x = block(x, mask)
        return x

    @torch.no_grad()
    def copy_clip_text(self, clip: Any) -> None:
        """Start from the first blocks and positions of the text tower of a `CLIPModel`.

        Blocks and positions that the tower does not have keep their own first values, as all do
        where its width or its number of heads is another.
        """
        source = clip.text_model
        position = source.embeddings.position_embedding.weight
        heads = clip.config.text_config.num_attention_heads
        blocks = [block for block in self.blocks if isinstance(block, ClipBlock)]
        own = {block.attention.heads for block in blocks}
        if position.shape[1] != self.position.shape[1] or own - {heads}:
            return
        rows = min(len(position), len(self.position))
        self.position[:rows] = position[:rows]
        for block, layer in zip(blocks, source.encoder.layers, strict=False):
            attention = layer.self_attn
            parts = (attention.q_proj, attention.k_proj, attention.v_proj)
            block.attention.qkv.weight.copy_(torch.cat([part.weight for part in parts]))
            block.attention.qkv.bias.copy_(torch.cat([part.bias for part in parts]))
            block.attention.out.load_state_dict(attention.out_proj.state_dict())
            block.norm1.load_state_dict(layer.layer_norm1.state_dict())
            block.norm2.load_state_dict(layer.layer_norm2.state_dict())
            block.mlp[0].load_state_dict(layer.mlp.fc1.state_dict())
            block.mlp[2].load_state_dict(layer.mlp.fc2.state_dict())


def _draw(position: Tensor, blocks: list[ClipBlock]) -> None:
    """Draw first values as CLIP draws those of its text tower."""
    nn.init.normal_(position, std=0.01)
    into = position.shape[1] ** -0.5
    back = into * (2 * max(1, len(blocks))) ** -0.5  # so that the residual sum keeps its size
    for block in blocks:
        spreads = (
            (block.attention.qkv, into),
            (block.attention.out, back),
            (block.mlp[0], into * 2**-0.5),
            (block.mlp[2], back),
        )
        for linear, std in spreads:
            assert isinstance(linear, nn.Linear)
            nn.init.normal_(linear.weight, std=std)
            nn.init.zeros_(linear.bias)
