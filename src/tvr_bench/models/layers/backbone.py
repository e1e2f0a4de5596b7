"""Which towers a configuration asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, cast

from torch import Tensor, nn

from tvr_bench.errors import UserError
from tvr_bench.models.layers import pretrained, tower_files, towers
from tvr_bench.models.layers.blocks import keep_no_activations
from tvr_bench.models.layers.cait_bert import CaitBertBackbone
from tvr_bench.models.layers.clip import ClipBackbone
from tvr_bench.models.layers.features import FeatureBackbone
from tvr_bench.models.layers.tiny import TinyBackbone
from tvr_bench.schema import Config


class Backbone(Protocol):
    """Towers of image and text with one joint width; every `nn.Module` here follows it."""

    dim: int
    image_parts: tuple[str, ...]  # names of the submodules that see pixels and nothing else

    def encode_text(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return pooled [B, D] and word [B, L, D] features."""
        ...

    def encode_frames(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Return frame [B, F, D] and patch [B, F, P, D] features of uint8 [B, F, 3, H, W]."""
        ...


class EncodedBackbone:
    """A backbone whose image tower has done its work: frames [B, F, T, D] come as its features.

    Pixels it encodes as ever.
    """

    def __init__(self, backbone: Backbone) -> None:
        """Take the backbone that made the features."""
        self._backbone = backbone

    def __getattr__(self, name: str) -> Any:
        """Return whatever else the backbone has."""
        return getattr(self._backbone, name)

    def encode_frames(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Return frame [B, F, D] and patch [B, F, P, D] features; P is 0 where none were kept."""
        if not frames.is_floating_point():
            return self._backbone.encode_frames(frames)
        return frames[:, :, 0], frames[:, :, 1:]


def build_backbone(cfg: Config) -> nn.Module:
    """Return the backbone that `cfg.backbone` names, frozen where it says so."""
    backbone = _BUILDERS[cfg.backbone.name](cfg)
    most = getattr(backbone, "words", None)  # of towers with a table of positions
    if most is not None and cfg.text.words > most:
        raise UserError(
            f"text.words={cfg.text.words} is more than the {most} that {cfg.backbone.name} can "
            "read; lower it"
        )
    freeze(backbone, cfg.backbone.frozen)
    if cfg.backbone.checkpointing:
        keep_no_activations(backbone)
    return backbone


def freeze(backbone: nn.Module, which: str) -> None:
    """Let `which` towers of a backbone, none, image or all, learn nothing and drop nothing out.

    So a frozen tower makes the same of a clip in training, in a test, and for the cache.
    """
    if which == "none":
        return
    for part in image_parts(backbone) if which == "image" else [backbone]:
        part.requires_grad_(False).eval()


def image_parts(backbone: nn.Module) -> list[nn.Module]:
    """Return the modules of a backbone that see pixels and nothing else."""
    return [backbone.get_submodule(name) for name in cast(Backbone, backbone).image_parts]


def _size(cfg: Config) -> tuple[int, int]:
    return cfg.video.size[0], cfg.video.size[1]


def _tiny(cfg: Config) -> nn.Module:
    network = TinyBackbone(cfg.backbone, _size(cfg), cfg.text.vocab, cfg.text.words)
    if tower_files.folder_of(cfg.backbone) is not None and not towers.are_filled():
        pretrained.load(network, cfg)
    return network


def _clip(cfg: Config) -> nn.Module:
    own = cfg.backbone
    return ClipBackbone(own.name, own.weights, _size(cfg), own.activation)


def _cait_bert(cfg: Config) -> nn.Module:
    return CaitBertBackbone(cfg.backbone.weights, _size(cfg))


def _features(cfg: Config) -> nn.Module:
    return FeatureBackbone(cfg.features)


_BUILDERS: dict[str, Callable[[Config], nn.Module]] = {
    "tiny": _tiny,
    "clip_vit_b32": _clip,
    "clip_vit_b16": _clip,
    "cait_bert": _cait_bert,
    "features": _features,
}
