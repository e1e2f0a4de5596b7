"""Small towers that train in minutes on a CPU, from scratch or from stills.

B batch, F frames, P patches, L words, D width. Attention is written out: at these lengths it beats
the fused kernels on a CPU, backward most of all, and counts its own FLOPs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tvr_bench.errors import UserError
from tvr_bench.models.layers.masking import on_host
from tvr_bench.schema import BackboneConfig

_ALIKE = 48  # texts encoded at once, at the length of their longest, on a CPU


class Attention(nn.Module):
    """Multi-head self-attention, [B, L, D] to [B, L, D]; masked keys get no weight."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the attended tokens; `mask` is bool [B, L], True for a real token."""
        b, length, width = x.shape
        split = (b, length, self.heads, width // self.heads)
        q, k, v = (part.view(split).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        logits = q @ k.transpose(-1, -2) * split[-1] ** -0.5
        if mask is not None:
            logits = logits.masked_fill(~mask[:, None, None, :], -1e4)  # finite in half precision
        mixed = logits.softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).reshape(b, length, width))


class Block(nn.Module):
    """A pre-norm transformer block, [B, L, D] to [B, L, D]."""

    def __init__(self, cfg: BackboneConfig) -> None:
        super().__init__()
        width = cfg.width
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, cfg.heads)
        self.mlp = nn.Sequential(
            nn.Linear(width, cfg.mlp * width), nn.GELU(), nn.Linear(cfg.mlp * width, width)
        )
        self.dropout = nn.Dropout(cfg.dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the tokens after attention and MLP, each with its residual."""
        x = x + self.dropout(self.attention(self.norm1(x), mask))
        return x + self.dropout(self.mlp(self.norm2(x)))


class PatchEmbedding(nn.Module):
    """Frames to patch embeddings, uint8 [B, F, 3, H, W] to [B, F, P, D].

    With `motion` a patch is seen beside its difference to the frame before, `x A + (x - y) B`;
    computed as `x (A + B) - y B`, so that no difference of pixels is kept for the backward pass.
    """

    def __init__(self, width: int, patch: int, motion: bool) -> None:
        super().__init__()
        self.patch = patch
        self.still = nn.Linear(3 * patch**2, width)
        self.motion = nn.Linear(3 * patch**2, width, bias=False) if motion else None

    def forward(self, frames: Tensor) -> Tensor:
        """Return the embeddings; the first frame has no difference."""
        x = patchify(frames, self.patch)
        autocast = torch.is_autocast_enabled(x.device.type)
        dtype = torch.get_autocast_dtype(x.device.type) if autocast else self.still.weight.dtype
        x = x.to(dtype).sub_(127.5).mul_(1 / 64)  # about zero mean and unit variance
        if self.motion is None:
            still: Tensor = self.still(x)
            return still
        before = torch.cat([x[:, :1], x[:, :-1]], dim=1)
        both = F.linear(x, self.still.weight + self.motion.weight, self.still.bias)
        return both - self.motion(before)


def patchify(frames: Tensor, side: int) -> Tensor:
    """Return the pixels of each patch, [B, F, P, 3 * side * side], of frames [B, F, 3, H, W]."""
    b, f, c, height, width = frames.shape
    grid = frames.view(b, f, c, height // side, side, width // side, side)
    return grid.permute(0, 1, 3, 5, 2, 4, 6).reshape(b, f, -1, c * side * side)


class TinyImage(nn.Module):
    """A small ViT with frame differences as input and a spatial read-out.

    The read-out (patches to `grid` channels, flattened, linear, added to the class token) keeps
    where things are, which a class token learns only from far more data.
    """

    def __init__(self, cfg: BackboneConfig, size: tuple[int, int]) -> None:
        super().__init__()
        height, width = size
        if height % cfg.patch or width % cfg.patch:
            raise UserError(
                f"video.size={height}x{width} is no multiple of backbone.patch={cfg.patch}; "
                "change one of them"
            )
        patches = (height // cfg.patch) * (width // cfg.patch)
        self.embed = PatchEmbedding(cfg.width, cfg.patch, cfg.motion)
        self.cls = nn.Parameter(torch.zeros(1, 1, cfg.width))
        self.position = nn.Parameter(0.02 * torch.randn(1, patches + 1, cfg.width))
        self.blocks = nn.ModuleList(Block(cfg) for _ in range(cfg.layers))
        self.norm = nn.LayerNorm(cfg.width)
        self.project = nn.Linear(cfg.width, cfg.width, bias=False)
        self.reduce = nn.Linear(cfg.width, cfg.grid) if cfg.grid else None
        self.read = nn.Linear(cfg.grid * patches, cfg.width) if cfg.grid else None

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Return frame [B, F, D] and patch [B, F, P, D] features of uint8 [B, F, 3, H, W]."""
        b, f = frames.shape[:2]
        x = self.embed(frames).flatten(0, 1)
        cls = (self.cls + self.position[:, :1]).to(x).expand(len(x), -1, -1)
        x = torch.cat([cls, x + self.position[:, 1:].to(x)], dim=1)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        cls, patches = x[:, 0], x[:, 1:]
        frame = self.project(cls)
        if self.reduce is not None and self.read is not None:
            frame = frame + self.read(F.gelu(self.reduce(patches)).flatten(1))
        patches = self.project(patches)
        return frame.view(b, f, -1), patches.view(b, f, patches.shape[1], -1)


class TinyText(nn.Module):
    """A small text transformer; the pooled feature is that of the end-of-text token."""

    def __init__(self, cfg: BackboneConfig, vocab: int, words: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab, cfg.width)
        nn.init.normal_(self.embed.weight, std=0.02)
        self.position = nn.Parameter(0.01 * torch.randn(1, words, cfg.width))
        self.blocks = nn.ModuleList(Block(cfg) for _ in range(cfg.text_layers))
        self.norm = nn.LayerNorm(cfg.width)
        self.project = nn.Linear(cfg.width, cfg.width, bias=False)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the pooled [B, D] and word [B, L, D] features of token ids [B, L]."""
        words = self._sorted_words(ids, mask) if on_host(mask) else self._words(ids, mask)
        end = (mask.sum(1) - 1).clamp_min(0)
        pooled = words[torch.arange(len(ids), device=ids.device), end]
        weights = mask[..., None] / mask.sum(1).clamp_min(1)[:, None, None]
        return pooled + (words * weights.to(words)).sum(1), words

    def _sorted_words(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return word features, made of texts of about one length at a time: little is padding."""
        lengths = mask.sum(1)
        order = lengths.argsort()
        parts = []
        for rows in order.tensor_split(max(1, len(ids) // _ALIKE)):
            longest = max(1, int(lengths[rows].max()))
            words = self._words(ids[rows, :longest], mask[rows, :longest])
            parts.append(F.pad(words, (0, 0, 0, ids.shape[1] - longest)))
        return torch.cat(parts)[order.argsort()]

    def _words(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.embed(ids) + self.position[:, : ids.shape[1]]
        for block in self.blocks:
            x = block(x, mask)
        words: Tensor = self.project(self.norm(x))
        return words


class TinyBackbone(nn.Module):
    """Both tiny towers behind the interface that every backbone has."""

    image_parts = ("image",)

    def __init__(self, cfg: BackboneConfig, size: tuple[int, int], vocab: int, words: int) -> None:
        super().__init__()
        if cfg.width % cfg.heads:
            raise UserError(
                f"backbone.width={cfg.width} is no multiple of backbone.heads={cfg.heads}; "
                "change one of them"
            )
        self.dim = cfg.width
        self.image = TinyImage(cfg, size)
        self.text = TinyText(cfg, vocab, words)

    def encode_text(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return pooled [B, D] and word [B, L, D] features."""
        pooled: tuple[Tensor, Tensor] = self.text(ids, mask)
        return pooled

    def encode_frames(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Return frame [B, F, D] and patch [B, F, P, D] features of uint8 [B, F, 3, H, W]."""
        features: tuple[Tensor, Tensor] = self.image(frames)
        return features

    @torch.no_grad()
    def scale_features(self, image: float, text: float) -> None:
        """Multiply the features of frames and patches, and those of texts; no cosine changes."""
        self.image.project.weight.mul_(image)
        if self.image.read is not None:
            self.image.read.weight.mul_(image)
            self.image.read.bias.mul_(image)
        self.text.project.weight.mul_(text)
