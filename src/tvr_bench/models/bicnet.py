"""BiC-Net: regions of all frames and whole frames, each matched with the text in its own space.

Paper: "BiC-Net: Learning Efficient Spatio-Temporal Relation for Text-Video Retrieval", Han et al.,
ACM TOMM 2024, arXiv 2110.15609 (version 1: "VSR-Net"). The released code has no licence; this is
written from its mathematics, and equal to it in float64 (`srt.temporal=official_intra_frame`). The
paper's body was not at hand, so "the release" stands for it. Where we differ, one line each (what
the release says; what this does; why):

- Inputs: bottom-up regions, IRv2 and I3D frames and BERT words, from files; those, with
  `backbone=paper`. Else any towers end to end: patches as regions, pooled frames as the global
  stream, the text tower's words; no region detector is needed then.
- Temporal block: attends to the regions of the same frame once more, so that frames never meet
  before the pooling; to `all_objects` of the video, as a comment of its history has it.
- Positions: of the region inside its frame only, so that the region branch cannot tell the order of
  frames; the same (`srt.frame_positions` adds those of the frames).
- Mask of the regions: that of the batch's first video; none, as every frame has all its regions.
  Missing frames are left out of temporal attention and pooling.
- Attention pooling: each has one more parameter that nothing reads; left out.
- Residuals: each of the three can be left out (`srt.residual`), with its norm.
- Layers: 4, dropout .1 and first values of .01 (`track=paper`); one layer, no dropout and the usual
  first values end to end, where towers come first and a layer costs as much as they do.
- Loss: a hinge, its sum over all pairs of a batch (`model.loss=hinge`); the same, also where
  several ranks share the batch. It is made for frozen features: with towers from scratch its
  gradient has a norm of thousands, which `optim.clip=1` shortens in every step. `infonce` is for
  these: InfoNCE in each space.
- With the tiny pretrained towers (`pretrained:` of the YAML) positions of frames are on, regions
  are averaged to 3 x 4 and the loss is InfoNCE, each chosen on validation (`benchmarks/tuning.md`).
- Validation: the test split, one random caption per video; the validation split and all captions.
  The release's schedule and its choice of the epoch follow that score, R@10 of both directions;
  here they follow the same of the validation split (`eval.best_by`).
- Last batch of an epoch: kept though it is smaller; left out, as in every training here.
- Loss and score: half of each space (`weight_global`); the same.

N texts, M videos, B batch, b of it on this rank, F frames, R regions, P patches, L words, D width.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tvr_bench.models.base import Batch, RetrievalModule
from tvr_bench.models.layers.atnpool import build_pool
from tvr_bench.models.layers.features import FeatureBackbone
from tvr_bench.models.layers.postnorm import (
    LayerSpec,
    PostNormLayer,
    UnbiasedNorm,
    positions,
    small_start,
)
from tvr_bench.models.layers.srt import ResidualTransformer
from tvr_bench.models.losses import Features
from tvr_bench.registry import register_model
from tvr_bench.schema import Config

_HEAD_WIDTH = 64  # of the release: 16 heads for 1024
_FEWEST_HEADS = 4
GLOBAL, REGION = "global", "region"


@register_model("bicnet")
class BicNet(RetrievalModule):
    """A global and a region space; one text vector is compared with the video in both."""

    def __init__(self, cfg: Config) -> None:
        """Build backbone and branches; raises UserError for heads that do not divide the width."""
        super().__init__(cfg)
        self.options: Any = cfg.model
        self.from_files = isinstance(self.network, FeatureBackbone)
        if cfg.model.loss == "hinge":
            self.log_scale.requires_grad_(False)  # a hinge has a margin and no scale
        dim = self.backbone.dim
        own: Any = self.network
        dims = (own.region_dim, own.global_dim) if self.from_files else (dim, dim)
        width = cfg.model.width or dim
        heads = cfg.model.heads or max(_FEWEST_HEADS, width // _HEAD_WIDTH)
        spec = LayerSpec(width, heads, cfg.model.mlp, cfg.model.dropout)
        self.weights = _weights(cfg.model)
        self.text = TextBranch(spec, cfg.model, dim)
        if REGION in self.weights:
            self.regions = RegionBranch(spec, cfg.model, dims[0])
        if GLOBAL in self.weights:
            self.frames = GlobalBranch(spec, cfg.model, dims[1])
        if cfg.model.init == "paper":
            for name, child in self.named_children():
                if name != "network":
                    small_start(child, cfg.model.init_std)

    def encode_text(self, batch: Batch) -> Features:
        """Return `text` [N, D], unit vectors."""
        if self.from_files:
            words, mask = batch["text_features"], batch["text_features_mask"]
        else:
            mask = batch["text_mask"]
            words = self.backbone.encode_text(batch["text_ids"], mask)[1]
        return {"text": self._unit(self.text(words, mask))}

    def encode_video(self, batch: Batch) -> Features:
        """Return `global` and `region` [M, D], unit vectors; with one branch only its own."""
        whole, regions = self._streams(batch)
        mask, features = batch["frame_mask"], {}
        if GLOBAL in self.weights:
            features[GLOBAL] = self._unit(self.frames(whole, mask))
        if REGION in self.weights:
            features[REGION] = self._unit(self.regions(regions, mask))
        return features

    def similarity(self, text: Features, video: Features) -> Tensor:
        """Return the weighted mean of the cosines in both spaces, [N, M]."""
        parts = self.score_parts(text, video)
        return torch.stack([weight * parts[name] for name, weight in self.weights.items()]).sum(0)

    def score_parts(self, text: Features, video: Features) -> dict[str, Tensor]:
        """Return the cosines in each space, [N, M]."""
        with torch.autocast(text["text"].device.type, enabled=False):
            return {name: text["text"] @ video[name].mT for name in self.weights}

    def training_scores(self, text: Features, video: Features) -> dict[str, Tensor]:
        """Return the cosines in each space: each gets a loss."""
        return self.score_parts(text, video)

    @property
    def loss_weights(self) -> dict[str, float]:
        """Return the weight of each space, as in the score."""
        return self.weights

    def contrast(self, name: str, rows: Tensor, columns: Tensor, start: int) -> Tensor:
        """Return the loss of one space, hinge or InfoNCE; arguments: `losses.paired_losses`."""
        options = self.options
        if options.loss == "infonce":
            return super().contrast(name, rows, columns, start)
        return hinge(rows, columns, start, options.margin, options.max_violation)

    def recall_embedding(self, features: Features) -> Tensor:
        """Return unit vectors [n, D or 2D] whose dot product ranks as the score does, exactly.

        Both spaces side by side; a video's are weighted, which gives all the same length.
        """
        if "text" in features:
            vectors = [features["text"]] * len(self.weights)
        else:
            vectors = [weight * features[name] for name, weight in self.weights.items()]
        return F.normalize(torch.cat(vectors, -1), dim=-1)

    def _streams(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return whole frames [M, F, D] and regions [M, F, R, D]."""
        if self.from_files:
            return batch["global"], batch["region"]
        frames, patches = self.backbone.encode_frames(batch["frames"])
        height, width = self.cfg.video.size
        rows, columns = self.options.grid
        return frames, grid_regions(patches, height / width, rows, columns)

    def _unit(self, vectors: Tensor) -> Tensor:
        return F.normalize(vectors.to(self.log_scale.dtype), dim=-1)


class TextBranch(nn.Module):
    """Words projected, normalised and pooled, without a transformer."""

    def __init__(self, spec: LayerSpec, options: Any, dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(dim, spec.width)
        self.norm_in, self.norm_out = UnbiasedNorm(spec.width), UnbiasedNorm(spec.width)
        self.pool = build_pool(options.pooling, spec.width, spec.dropout)

    def forward(self, words: Tensor, mask: Tensor) -> Tensor:
        """Return [N, D] of words [N, L, dim] and bool [N, L]."""
        vector: Tensor = self.norm_out(self.pool(self.norm_in(self.project(words)), mask))
        return vector


class GlobalBranch(nn.Module):
    """Whole frames with their positions through a transformer, pooled."""

    def __init__(self, spec: LayerSpec, options: Any, dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(dim, spec.width)
        self.norm_in, self.norm_out = UnbiasedNorm(spec.width), UnbiasedNorm(spec.width)
        self.dropout = nn.Dropout(spec.dropout)
        self.layers = nn.ModuleList(PostNormLayer(spec) for _ in range(options.layers))
        self.residual = UnbiasedNorm(spec.width) if options.extra_residual else None
        self.pool = build_pool(options.pooling, spec.width, spec.dropout)

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Return [M, D] of frames [M, F, dim] and bool [M, F]."""
        x = self.norm_in(self.project(frames))
        x = self.dropout(x + positions(x.shape[1], x))
        for layer in self.layers:
            seen = layer(x, mask)
            x = seen if self.residual is None else self.residual(seen + x)
        vector: Tensor = self.norm_out(self.pool(x, mask))
        return vector


class RegionBranch(nn.Module):
    """Regions with their positions through the SRT, averaged in each frame, frames pooled."""

    def __init__(self, spec: LayerSpec, options: Any, dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(dim, spec.width)
        self.norm_in, self.norm_out = UnbiasedNorm(spec.width), UnbiasedNorm(spec.width)
        self.dropout = nn.Dropout(spec.dropout)
        srt = options.srt
        self.srt = ResidualTransformer(spec, options.layers, srt.temporal, srt.residual)
        self.frame_positions = bool(srt.frame_positions)
        self.pool = build_pool(options.pooling, spec.width, spec.dropout)

    def forward(self, regions: Tensor, mask: Tensor) -> Tensor:
        """Return [M, D] of regions [M, F, R, dim] and bool [M, F]."""
        vector: Tensor = self.norm_out(self.pool(self.per_frame(regions, mask), mask))
        return vector

    def per_frame(self, regions: Tensor, mask: Tensor) -> Tensor:
        """Return what the pooling sees of each frame, [M, F, D]."""
        x = self.norm_in(self.project(regions))
        x = x + positions(x.shape[2], x)
        if self.frame_positions:
            x = x + positions(x.shape[1], x)[:, None]
        seen: Tensor = self.srt(self.dropout(x), mask)
        return seen.mean(2)


def hinge(
    rows: Tensor, columns: Tensor, start: int, margin: float, max_violation: bool = False
) -> Tensor:
    """Return the sum over all pairs that are no match of how far they come within the margin.

    `rows` and `columns` [b, B] as in `losses.paired_losses`. With `max_violation` only the worst
    negative of each row counts. A rank holds b / B of the sum and returns it times B / b, so that
    the mean over ranks is the whole sum.
    """
    own = torch.arange(len(rows), device=rows.device)
    total = rows.new_zeros((), dtype=torch.promote_types(rows.dtype, torch.float32))
    for scores in (rows, columns):
        scores = scores.to(total.dtype)
        violation = (margin + scores - scores[own, start + own][:, None]).clamp_min(0)
        violation = violation.index_put((own, start + own), violation.new_zeros(()))
        total = total + (violation.amax(1) if max_violation else violation).sum()
    return total * (rows.shape[1] / rows.shape[0])


def grid_regions(patches: Tensor, shape: float, rows: int, columns: int) -> Tensor:
    """Return [M, F, R, D]: patches [M, F, P, D], averaged to at most `rows` x `columns` regions.

    `shape` is the picture's height over its width, which tells how the P patches lie.
    """
    count = patches.shape[2]
    high = round(math.sqrt(count * shape))
    wide = count // high
    assert high * wide == count, f"{count} patches do not fill a picture of shape {shape}"
    size = (min(rows, high), min(columns, wide))
    if size == (high, wide):
        return patches
    # a product, since the pooling's own gradient is not deterministic on a GPU
    single = torch.eye(count, device=patches.device).view(count, 1, high, wide)
    shares = F.adaptive_avg_pool2d(single, size).flatten(1).mT
    return shares.to(patches.dtype) @ patches


def _weights(options: Any) -> dict[str, float]:
    """Return the weights of the spaces in score and loss, those that are left out not in it."""
    share = float(options.weight_global)
    both = {GLOBAL: share, REGION: 1 - share}
    return both if options.branches == "both" else {options.branches: 1.0}
