"""CRET: centres that align tokens across modalities, and a loss over the Gaussian of the frames.

Paper: "CRET: Cross-Modal Retrieval Transformer for Efficient Text-Video Retrieval", Ji et al.,
SIGIR 2022. No code was released and its printed equations were not to be had: figures, tables and
talks about it are what is known. Where they are silent, or we differ, one line each (what the paper
says; what this does; why):

- Encoders: CaiT-S/24 of ImageNet and BERT-base (`backbone=paper`); any backbone.
- Frames to the text's width: a linear layer where the towers' widths differ; other towers end in a
  joint space already.
- Patches to the text's width: a linear layer, its place unknown; after the maximum over frames
  (`patch_project`). Where it is square it starts as the identity, which keeps a joint space.
- Temporal encoder: three layers, positions unknown; learnt ones, with blocks normalised first.
- Frames: 4 in training and 8 in the test with `track=paper`. The first is said by a student's
  notebook alone; the second is inferred: Table 1's R@5 is that of 8 frames in Figure 5.
- Frames at test time: the paper tests with other numbers than it trains with (Figure 5). A frame
  is the middle of its share of the clip, so the learnt positions are interpolated at the middles of
  the new shares (`eval.frames`): no position is used that was never trained.
- Patches: elementwise maximum over the frames, as drawn; missing frames are left out of it.
- Tokens of a text: every word of the tower, begin and end included; whether CLS counts is unknown.
- CCM: "shared queries, shared weights"; depth, heads, number of centres, self-attention among them
  unknown (`ccm.*`). A standard decoder layer, normalised after each residual; dropout on what a
  part adds. It is 0 in the controlled track, where no model has any, and .1 in the paper's.
- Local similarity: exact form unknown; the mean cosine of centre with centre, or the cosine of
  their concatenation, plain or projected (`ccm.score`).
- GEES: the paper's printed bound is unknown; the term t'St/(2 tau^2) fits `gees.form=split`. The
  others are valid bounds too, but for naive_ce, which is there to be compared with and warns.
- Covariance: population (1/F) and full; 1/(F-1) with `gees.unbiased`. Its gradient flows, or with
  `gees.detach` only the text's does, as in ISDA.
- Ramp: unknown; the variance term rises from 0 over a share of the training, `gees.ramp`, as in
  ISDA. A number of steps would be too long for a small data set, which would then see NCE alone.
  The steps are counted in a buffer, so that a resumed run goes on with the same term.
- Normalisation unknown; text and every frame have length 1 (`normalise=frame`). With
  `normalise=mean` a clip's frames share one factor: still exactly Gaussian if they were, and the
  mean of the loss is the score's own cosine, where it else lacks the division by |mu|.
- Temperature: 1/20 in the paper's track (unknown); the shared learnt scale for both losses.
- Loss: GEES on the global and InfoNCE on the local branch, as drawn, with weight 1 each (unknown).
- Score: the sum of the two similarities, unknown weight 1 (`local_weight`).

N texts, M videos, B batch, F frames, P patches, L words, D width, E width of the local embedding.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.nn import functional as F

from tvr_bench.errors import UserError
from tvr_bench.models.base import Batch, RetrievalModule
from tvr_bench.models.layers.ccm import CentreCorrelation
from tvr_bench.models.layers.gees import FrameScores, frame_moments, gees
from tvr_bench.models.layers.masking import attendable, masked_mean
from tvr_bench.models.layers.temporal import TemporalTransformer
from tvr_bench.models.losses import Features
from tvr_bench.registry import register_model
from tvr_bench.schema import Config

GLOBAL, LOCAL = "global", "local"
_HEAD_WIDTH, _FEWEST_HEADS = 64, 4


@register_model("cret")
class Cret(RetrievalModule):
    """Text against the Gaussian of the frames, and words against patches at shared centres."""

    steps_done: Tensor

    def __init__(self, cfg: Config) -> None:
        """Build towers and branches; raises UserError for options that do not fit each other."""
        super().__init__(cfg)
        self.options: Any = cfg.model
        self.weights = _weights(cfg.model)
        width = self.backbone.dim
        # a tower may pad its features to the joint width
        self.image_dim = int(getattr(self.backbone, "image_dim", width))
        if GLOBAL in self.weights:
            self.frame_project = (
                nn.Identity() if self.image_dim == width else nn.Linear(self.image_dim, width)
            )
            self.temporal = _temporal(cfg, width)
        if LOCAL in self.weights:
            self.patch_project = _projection(self.image_dim, width)
            self.ccm = CentreCorrelation(width, cfg.model.ccm)
        self.register_buffer("steps_done", torch.zeros((), dtype=torch.int64))
        if cfg.model.loss == "gees" and cfg.model.gees.form == "naive_ce":
            rank_zero_warn(
                "model.gees.form=naive_ce bounds nothing and rewards a video for its variance; "
                "use it to compare with and model.gees.form=split to train"
            )

    def encode_text(self, batch: Batch) -> Features:
        """Return `text` [N, D] and `local` [N, E], unit vectors (those of the branches in use)."""
        pooled, words = self.backbone.encode_text(batch["text_ids"], batch["text_mask"])
        features = {}
        if GLOBAL in self.weights:
            features["text"] = F.normalize(self._full(pooled), dim=-1)
        if LOCAL in self.weights:
            features["local"] = self.ccm.embed(self._full(self.ccm.text(words, batch["text_mask"])))
        return features

    def encode_video(self, batch: Batch) -> Features:
        """Return `video` [M, D] and `local` [M, E], unit vectors (those of the branches in use).

        In training mode also `frames` [M, F, D] and `frame_mask`, which only the loss looks at.
        """
        frames, patches = self.backbone.encode_frames(batch["frames"])
        frames, patches = frames[..., : self.image_dim], patches[..., : self.image_dim]
        mask = attendable(batch["frame_mask"])
        features = self._gaussian(frames, mask) if GLOBAL in self.weights else {}
        if LOCAL in self.weights:
            features["local"] = self.ccm.embed(self._full(self._centres(patches, mask)))
        return features

    def similarity(self, text: Features, video: Features) -> Tensor:
        """Return the weighted sum of the branches for every pair, [N, M]."""
        parts = self.score_parts(text, video)
        return torch.stack([self.weights[name] * part for name, part in parts.items()]).sum(0)

    def score_parts(self, text: Features, video: Features) -> dict[str, Tensor]:
        """Return global and local, the similarities [N, M] of the branches in use."""
        sides = {GLOBAL: ("text", "video"), LOCAL: ("local", "local")}
        with torch.autocast(self.device.type, enabled=False):
            return {
                name: self._full(text[sides[name][0]]) @ self._full(video[sides[name][1]]).mT
                for name in self.weights
            }

    def recall_embedding(self, features: Features) -> Tensor:
        """Return unit vectors [n, D + E] whose dot product ranks exactly as `similarity` does.

        Both branches are dot products of unit vectors, so their weighted sum is that of the
        concatenation with the roots of the weights, up to one factor for all pairs.
        """
        total = sum(self.weights.values())
        names = {GLOBAL: "text" if "text" in features else "video", LOCAL: "local"}
        parts = [math.sqrt(w / total) * features[names[k]] for k, w in self.weights.items() if w]
        return self._full(torch.cat(parts, dim=-1))

    def training_features(self, text: Features, video: Features) -> tuple[Features, Features]:
        """Return what the losses look at: frames in the place of their mean."""
        return text, {name: value for name, value in video.items() if name != "video"}

    def training_scores(self, text: Features, video: Features) -> dict[str, Tensor]:
        """Return `global` [N, M, F], -inf for a missing frame, and `local` [N, M].

        With `gees.detach` the scores [N, M, F] of frames without gradient follow in `global`.
        """
        scores: dict[str, Tensor] = {}
        with torch.autocast(self.device.type, enabled=False):
            if GLOBAL in self.weights:
                assert "frames" in video, "encode_video keeps the frames in training mode only"
                scores[GLOBAL] = _frame_scores(text["text"], video["frames"], video["frame_mask"])
                if self._detaches:
                    fixed = video["frames"].detach()
                    spread = _frame_scores(text["text"], fixed, video["frame_mask"])
                    scores[GLOBAL] = torch.cat([scores[GLOBAL], spread], dim=-1)
            if LOCAL in self.weights:
                scores[LOCAL] = text["local"] @ video["local"].mT
        return scores

    def contrast(self, name: str, rows: Tensor, columns: Tensor, start: int) -> Tensor:
        """Return GEES of the global frame scores (InfoNCE of their means with loss=nce), or NCE."""
        if name != GLOBAL:
            return super().contrast(name, rows, columns, start)
        if self.options.loss == "nce":
            means = frame_moments(rows)[0], frame_moments(columns)[0]
            return super().contrast(name, *means, start)
        options = self.options.gees
        texts, videos = gees(
            self._samples(rows),
            self._samples(columns),
            start,
            form=options.form,
            scale=self.logit_scale,
            weight=self.variance_weight,
            limit=options.limit,
            unbiased=options.unbiased,
        )
        return (texts.mean() + videos.mean()) / 2

    @property
    def loss_weights(self) -> dict[str, float]:
        """Return `local_loss` as the weight of the local branch's InfoNCE."""
        return {LOCAL: self.options.local_loss}

    @property
    def variance_weight(self) -> Tensor:
        """The factor of the variance term at this step: `gees.weight` after the ramp."""
        options, steps, planned = self.options.gees, self.steps_done, self.planned_steps
        ramp = round(options.ramp * planned if options.ramp <= 1 else min(options.ramp, planned))
        risen = (steps / ramp).clamp(max=1) if ramp else torch.ones_like(steps)
        return options.weight * risen

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the sum of all losses of one batch of matched pairs, and count the step."""
        loss = super().training_step(batch, batch_idx)
        self.steps_done += 1
        return loss

    @property
    def _detaches(self) -> bool:
        return self.options.loss == "gees" and self.options.gees.detach

    def _samples(self, scores: Tensor) -> FrameScores:
        values, spread = scores.chunk(2, dim=-1) if self._detaches else (scores, scores)
        return FrameScores(values, spread)

    def _gaussian(self, frames: Tensor, mask: Tensor) -> Features:
        """Return the unit mean of a clip's frames and in training mode the frames themselves."""
        frames = self._full(self._in_time(self.frame_project(frames), mask))
        with torch.autocast(self.device.type, enabled=False):
            if self.options.normalise == "frame":
                frames = F.normalize(frames, dim=-1)
            mean = masked_mean(frames, mask)
            features = {"video": F.normalize(mean, dim=-1)}
            if self.training:
                if self.options.normalise == "mean":
                    frames = frames / mean.norm(dim=-1).clamp_min(1e-6)[:, None, None]
                features |= {"frames": frames, "frame_mask": mask}
        return features

    def _in_time(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Return the frames after the temporal encoder, its positions fitted to their number."""
        table, count = self.temporal.position, frames.shape[1]
        if count == len(table):
            return self.temporal(frames, mask)
        fitted = F.interpolate(table.mT[None], size=count, mode="linear", align_corners=False)[0].mT
        return torch.func.functional_call(self.temporal, {"position": fitted}, (frames, mask))

    def _centres(self, patches: Tensor, mask: Tensor) -> Tensor:
        """Return what the centres gather from the frame-wise maximum of patches [M, F, P, D]."""
        if self.options.patch_project == "before":
            patches = self.patch_project(patches)
        tokens = patches.masked_fill(~mask[:, :, None, None], -torch.inf).amax(1)
        if self.options.patch_project == "after":
            tokens = self.patch_project(tokens)
        return self.ccm.video(tokens, tokens.new_ones(tokens.shape[:2]).bool())

    def _full(self, x: Tensor) -> Tensor:
        """Return features in the precision of the weights: scores are made in fp32."""
        return x.to(self.log_scale.dtype)


def _weights(options: Any) -> dict[str, float]:
    """Return the branches in use with their weights in the score."""
    if options.branches != "both":
        return {options.branches: 1.0}
    return {GLOBAL: 1.0, LOCAL: float(options.local_weight)}


def _temporal(cfg: Config, width: int) -> TemporalTransformer:
    options = cfg.model.temporal
    heads = options.heads or max(_FEWEST_HEADS, width // _HEAD_WIDTH)
    if width % heads:
        raise UserError(
            f"model.temporal.heads={heads} does not divide the width {width}; choose a divisor"
        )
    return TemporalTransformer(width, options.layers, heads, cfg.video.frames)


def _projection(width: int, joint: int) -> nn.Linear:
    """Return a linear layer to the joint width that starts as the identity where it can."""
    layer = nn.Linear(width, joint)
    if width == joint:
        nn.init.eye_(layer.weight)
        nn.init.zeros_(layer.bias)
    return layer


def _frame_scores(text: Tensor, frames: Tensor, mask: Tensor) -> Tensor:
    """Return text [N, D] times frame [M, F, D] for all, [N, M, F], -inf where none is."""
    scores = (text @ frames.flatten(0, 1).mT).unflatten(1, mask.shape)
    return scores.masked_fill(~mask, -torch.inf)
