"""Which towers a configuration asks for."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from tvr_bench.errors import UserError
from tvr_bench.models.layers.clip import ClipBackbone
from tvr_bench.models.layers.tiny import TinyBackbone
from tvr_bench.schema import Config


class Backbone(Protocol):
    """Towers of image and text with one joint width; every `nn.Module` here follows it."""

    dim: int

    def encode_text(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return pooled [B, D] and word [B, L, D] features."""
        ...

    def encode_frames(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Return frame [B, F, D] and patch [B, F, P, D] features of uint8 [B, F, 3, H, W]."""
        ...


def build_backbone(cfg: Config) -> nn.Module:
    """Return the backbone that `cfg.backbone` names, frozen where it says so."""
    size = (cfg.video.size[0], cfg.video.size[1])
    backbone: nn.Module
    if cfg.backbone.name == "tiny":
        backbone = TinyBackbone(cfg.backbone, size, cfg.text.vocab, cfg.text.words)
    else:
        backbone = ClipBackbone(cfg.backbone.name, cfg.backbone.weights, size)
        if cfg.text.words > backbone.words:
            raise UserError(
                f"text.words={cfg.text.words} is more than the {backbone.words} that "
                f"{cfg.backbone.name} can read; lower it"
            )
    if cfg.backbone.frozen:
        backbone.requires_grad_(False)
    return backbone
