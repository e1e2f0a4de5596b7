"""EERCF: coarse-to-fine text-video retrieval with a parameter-free text-gated interaction block.

Paper: "Towards Efficient and Effective Text-to-Video Retrieval with Coarse-to-Fine Visual
Representation Learning", Tian et al., AAAI 2024. The text of the paper was not at hand; the
equations follow the authors' released code, which the tests hold this file to. Where we differ,
one line each (what they do; what this does; why):

- Padded frames: the code lets them into the gates and weights, as black images; here they get no
  weight (`mask_frames`), so a score does not depend on what stands behind the mask.
- Weights of the fused score: the code trains with .4 .4 .04 .2 (video, frame, patch, frame TIB) and
  reranks with .5 .8 .2 .2; here the trained ones (`rerank`): the loss is on what is searched with.
- The code adds 100 to a recalled video's score; here the stages are the evaluation's business.
- First stage: the product of t M with g; here its cosine. A text's ranking is the same, and a
  video's is free of the length of t M.
- Features are kept once per video, the temporal transformer's too, which the code runs again for
  every pair of blocks; frame TIB is scored by its quadratic form, so that nothing is per pair but
  products of the text with the tokens. The numbers are the same.
- Pearson constraint: no eps in the code; 1e-6 here, for a dimension that is constant in a batch.
- Gradients over ranks: the code's gather passes back the local part alone, 1/ranks of the
  gradient; here the gradient is that of one process with the whole batch.
- Optimiser: BertAdam, without bias correction and with a clip per tensor; the same with
  `track=paper`, AdamW in the controlled track, as for all.
- Epoch: the best on the test split; the best on the validation split, or the last where all clips
  train.
- First values of the temporal transformer: CLIP's text blocks; with towers that are not CLIP's,
  values drawn as CLIP draws them.
- Scene text: the paper has none, so captions read from the video are not used.

N texts, M videos, F frames, P patches, J = F * P, D width. Scores are products of unit vectors,
before the logit scale.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tvr_bench.errors import UserError
from tvr_bench.models.base import Batch, RetrievalModule
from tvr_bench.models.layers import fused, tib
from tvr_bench.models.layers.levels import (
    FRAME,
    PATCH,
    TIB_FRAME,
    TIB_PATCH,
    VIDEO,
    pearson_weights,
    scoring_weights,
    trained_weights,
)
from tvr_bench.models.layers.masking import attendable, masked_mean
from tvr_bench.models.layers.pearson import pearson_constraint
from tvr_bench.models.layers.temporal import TemporalTransformer
from tvr_bench.models.losses import Features
from tvr_bench.registry import register_model
from tvr_bench.schema import Config

_HEAD_WIDTH = 64  # of CLIP's transformers


@register_model("eercf")
class Eercf(RetrievalModule):
    """Text against video, frames and patches; the finer the level, the more the text decides."""

    fixed_frames = True

    def __init__(self, cfg: Config) -> None:
        """Build the model; raises UserError for a configuration that cannot be built."""
        super().__init__(cfg)
        self.options: Any = cfg.model
        width, frames = self.backbone.dim, cfg.video.frames
        self.weak, self.strong = trained_weights(self.options)
        self.pearson = pearson_weights(self.options)
        self.scoring = scoring_weights(self.options, self.weak, self.strong)
        self.parts = fused.Parts.of(self.options)
        # what no loss trains stays the identity and is no parameter
        self.recall_map = nn.Parameter(torch.eye(width))
        self.frame_map = nn.Parameter(torch.eye(frames), requires_grad=FRAME in self.weak)
        self.temporal = _temporal(self.options, width, frames)
        if self.temporal is not None and hasattr(self.network, "clip"):
            self.temporal.copy_clip_text(self.network.clip)

    def encode_text(self, batch: Batch) -> Features:
        """Return `text` [N, D], unit vectors, and `query` [N, D], t M of the coarse score."""
        pooled, _ = self.backbone.encode_text(batch["text_ids"], batch["text_mask"])
        with torch.autocast(pooled.device.type, enabled=False):
            text = F.normalize(pooled.to(self.log_scale.dtype), dim=-1)
            return {"text": text, "query": text @ self.recall_map}

    def encode_video(self, batch: Batch) -> Features:
        """Return `video` [M, D] and what the finer parts read, each token a unit vector.

        `frames` [M, F, D] as the tower gives them, `temporal` [M, F, D] as the temporal transformer
        does, with `gram` [M, F, F]; `patches` [M, J, D]; `closed` bool [M, F], the frames that get
        no weight.
        """
        frames, patches = self.backbone.encode_frames(batch["frames"])
        mask = batch["frame_mask"]
        mixed = frames if self.temporal is None else frames + self.temporal(frames, mask)
        with torch.autocast(frames.device.type, enabled=False):
            return self._video_features(frames, patches, mixed, mask)

    def _video_features(
        self, frames: Tensor, patches: Tensor, mixed: Tensor, mask: Tensor
    ) -> Features:
        parts = self.weak.keys() | self.strong.keys() | self.scoring.keys() | self.pearson.keys()
        dtype = self.log_scale.dtype
        temporal = F.normalize(mixed.to(dtype), dim=-1)
        features = {"video": F.normalize(masked_mean(temporal, mask), dim=-1)}
        if parts == {VIDEO}:
            return features
        valid = mask if self.options.mask_frames else torch.ones_like(mask)
        features["closed"] = ~attendable(valid)
        hidden = ~valid[..., None]
        if parts & {FRAME, TIB_FRAME}:
            features["frames"] = F.normalize(frames.to(dtype), dim=-1).masked_fill(hidden, 0)
        if TIB_FRAME in parts:
            temporal = temporal.masked_fill(hidden, 0)
            features |= {"temporal": temporal, "gram": temporal @ temporal.mT}
        if parts & {PATCH, TIB_PATCH}:
            unit = F.normalize(patches.to(dtype), dim=-1).masked_fill(hidden[..., None], 0)
            # by far the most memory, so in the precision that they came in
            features["patches"] = unit.to(patches.dtype).flatten(1, 2)
        return features

    def similarity(self, text: Features, video: Features) -> Tensor:
        """Return the fused score of every pair, [N, M]: the weighted sum of its parts."""
        return fused.weighted(self.scoring, self.score_parts(text, video))

    def score_parts(self, text: Features, video: Features) -> dict[str, Tensor]:
        """Return the parts of the fused score that have a weight, each [N, M]."""
        with _exactly(text):
            pairs = self._full(text), self._full(video)
            return self.parts.scores(self.frame_map, *pairs, self.scoring)

    def recall_embedding(self, features: Features) -> Tensor:
        """Return unit vectors [n, D] of the coarse level: t M of texts, g of videos.

        With `eval.parity=eercf` those of texts keep their length.
        """
        features = self._full(features)
        if "query" in features and self.cfg.eval.parity == "eercf":
            return features["query"]
        return F.normalize(features["query"], dim=-1) if "query" in features else features["video"]

    def rerank(self, text: Features, video: Features) -> Tensor:
        """Return the fused score of text i with video i, [N]; one video stands for all texts."""
        products = tib.aligned_products
        if len(video["video"]) == 1:
            products = tib.products_of_one
            video = {name: tensor[0] for name, tensor in video.items()}
        with _exactly(text):
            pairs = self._full(text), self._full(video)
            parts = self.parts.scores(self.frame_map, *pairs, self.scoring, products)
            return fused.weighted(self.scoring, parts)

    def training_features(self, text: Features, video: Features) -> tuple[Features, Features]:
        """Return text and video, with each video's TIB outputs under its own text, [B, D]."""
        own = self.pearson.keys() & {TIB_FRAME, TIB_PATCH}
        if self.options.tib_train == "own":
            own |= self.strong.keys()
        with _exactly(text):
            query = self._full(text)["text"]
            return text, video | self.parts.adapted(query, self._full(video), own)

    def training_scores(self, text: Features, video: Features) -> dict[str, Tensor]:
        """Return `weak` and `strong` [N, M]: without and with the interaction block."""
        text, video = self._full(text), self._full(video)
        own = self.options.tib_train == "own"
        with _exactly(text):
            wanted = self.weak if own else self.weak | self.strong
            parts = self.parts.scores(self.frame_map, text, video, wanted)
            if own:
                parts |= {part: text["text"] @ video[part].mT for part in self.strong}
            scores = {"weak": fused.weighted(self.weak, parts)}
            return scores | ({"strong": fused.weighted(self.strong, parts)} if self.strong else {})

    @property
    def loss_weights(self) -> dict[str, float]:
        """Return the weights of the two contrastive losses."""
        return {"weak": self.options.weak, "strong": self.options.strong}

    def batch_losses(self, text: Features, video: Features) -> dict[str, Tensor]:
        """Return `pearson`, the weighted constraint between texts and each level of videos."""
        if not self.pearson:
            return {}
        options = self.options
        with _exactly(text):
            text, video = self._full(text), self._full(video)
            terms = [
                weight
                * pearson_constraint(
                    text["text"], video[part], options.pearson_diagonal, options.pearson_off
                )
                for part, weight in self.pearson.items()
            ]
            return {"pearson": options.pearson * torch.stack(terms).sum()}

    def _full(self, features: Features) -> Features:
        """Return the features in the precision of the weights: scores are made in fp32."""
        dtype = self.log_scale.dtype
        kept = (dtype, torch.bool)
        return {k: v if v.dtype in kept else v.to(dtype) for k, v in features.items()}


def _exactly(features: Features) -> torch.autocast:
    return torch.autocast(features["text"].device.type, enabled=False)


def _temporal(options: Any, width: int, frames: int) -> TemporalTransformer | None:
    if not options.layers:
        return None
    fitting = (h for h in range(max(1, width // _HEAD_WIDTH), 0, -1) if width % h == 0)
    heads = options.heads or next(fitting)
    if width % heads:
        raise UserError(f"model.heads={heads} does not divide the width {width}; choose a divisor")
    return TemporalTransformer(width, options.layers, heads, frames)
