"""T-CARD: scene-text aware retrieval by temporal calibrating and distilling.

Paper: "Temporal Calibrating and Distilling for Scene-Text Aware Text-Video Retrieval", Zhao et
al., AAAI 2026 (called T-CARD before publication). No code was released; Figure 2, Algorithm 1 and
Tables A1 to A5 are what the paper's page shows. Where it is silent, or we differ, one line each
(what the paper says; what this does; why):

- Encoders: CLIP ViT-B/32, and an OCR encoder not further described; any backbone, whose text tower
  also reads the window captions (`ocr_encoder`): text and captions are one language.
- Text-condition: only a temperature, 5; DiCoSA's `softmax(t.v/tau)` on un-normalised features,
  times the number of tokens; with cosines tau >= .5 would do nothing, and the factor keeps scale.
- Text-condition is applied to every (text, video) pair in training and in testing alike; a video
  conditioned on its own text at test time would leak the answer.
- Co-attention: bidirectional, form unknown; one layer each way, `LN(X + MHA(X, Y))` without bias;
  a norm before the attention would cancel the condition's weights.
- Without scene text the attention adds nothing, so this last norm cancels the weights of V~ too:
  such a video is then scored unconditioned (`coattention_norm=none` keeps the weights).
- Attention projections: first values unspecified; the identity, as in X-Pool (`attention_init`):
  tokens start in the space where the text's cosine means something; small trials learnt faster.
- HSC: nearest neighbours and back, |start - end|^2; soft neighbours (TCC, COOT) at temperature .1
  and positions in 0..1, both directions; the hard form has no gradient.
- HSC acts after the condition in the figure; on the encoders' own features (`hsc_features`): the
  same pair, no text in between, and one matrix per video instead of one per pair.
- CTCD: line 17 of Algorithm 1 exchanges the clues against Figure 2; the figure (`ctcd_wiring`). As
  only the clues' outputs are used, the two differ by the names of two learnt vectors and no more.
- CTCD: one cross-attention box in the figure; one MHCA for both streams (`ctcd_shared`).
- CTCD: first values of clues and type embeddings unspecified; normal with spread 1, that of the
  tokens (`clue_std`). With the usual .02 every head starts with uniform attention, where nothing
  pulls it to a position, and small trials did not learn the order of frames.
- Matching: unspecified; cosine of the text with the mean token, or word by token (`match=wti`).
- Score: the mean of the three matchings, as the caption says. A video without scene text has
  text-OCR 0, and its slots are zeros that may be attended to; the mean still divides by three, so
  it ranks as one whose text neither fits nor contradicts the query.
- Without OCR at all (`ocr.enabled=false`) every video is such a video and text-OCR, which would be
  the constant 0, is left out of score and loss.
- Co-attention: first values unspecified; it starts at nothing (`coattention_gain` 0).
- Loss: unspecified. With `track=paper` one InfoNCE on the score (`loss=joint`) beside lambda L_hsc.
  Towers from scratch get one on each matching too (`loss=both`), which trains a weak matching that
  the mean alone would let the strong one excuse, and one on the plain frames (`frame_loss`): scene
  text is learned so much faster than sight that the image tower starves without it.
- Weights of the matchings: equal. With the tiny pretrained towers the hybrid counts three times and
  clues start with spread 2, or order is not learned in the steps that all models share.
- Schedule: unknown but for batch and GPU; that of DiCoSA, whose text-condition this is.

N texts, M videos, F frames, W windows, L words, D width.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tvr_bench.models.base import Batch, RetrievalModule
from tvr_bench.models.layers.calibrating import cycle_consistency
from tvr_bench.models.layers.masking import attendable, masked_mean
from tvr_bench.models.layers.pairwise import PairwiseHead
from tvr_bench.models.layers.windows import encode_windows
from tvr_bench.models.losses import Features
from tvr_bench.registry import register_model
from tvr_bench.schema import Config


@register_model("tcard")
class TCard(RetrievalModule):
    """Frames and window captions, calibrated and distilled under every text."""

    reads_text = True
    looks_at_patches = False
    fixed_frames = True

    def __init__(self, cfg: Config) -> None:
        """Build backbone and head; raises UserError for a configuration that cannot be built."""
        super().__init__(cfg)
        self.options: Any = cfg.model
        self.reads = bool(cfg.ocr.enabled)
        self.head = PairwiseHead(
            cfg.model, self.backbone.dim, cfg.video.frames, cfg.ocr.windows, self.reads
        )
        if self.reads and cfg.model.ocr_encoder == "untied":
            # inside the backbone, so that it trains at the backbone's rate
            self.network.add_module("ocr", _text_copy(self.network))

    def encode_text(self, batch: Batch) -> Features:
        """Return `text` [N, D]; with match=wti also `words` [N, L, D] and `word_mask`."""
        pooled, words = self.backbone.encode_text(batch["text_ids"], batch["text_mask"])
        if self.options.match == "wti":
            return {"text": pooled, "words": words, "word_mask": batch["text_mask"]}
        return {"text": pooled}

    def encode_video(self, batch: Batch) -> Features:
        """Return `frames` [M, F, D] and unless OCR is off `ocr` [M, W, D], each with its mask."""
        frames, _ = self.backbone.encode_frames(batch["frames"])
        features = {"frames": frames, "frame_mask": batch["frame_mask"]}
        if self.reads:
            mask = batch["ocr_mask"]
            tower: Any = getattr(self.network, "ocr", self.network)
            read = encode_windows(tower, batch["ocr_ids"], mask, frames.device)
            features |= {"ocr": read, "ocr_mask": mask.any(-1).to(frames.device)}
        return features

    def similarity(self, text: Features, video: Features) -> Tensor:
        """Return the mean of the matchings for every pair, [N, M]."""
        return self.head.average(self.score_parts(text, video))

    def score_parts(self, text: Features, video: Features) -> dict[str, Tensor]:
        """Return text-video, text-ocr and text-hybrid, each [N, M] (those that have a weight)."""
        with torch.autocast(text["text"].device.type, enabled=False):
            parts: dict[str, Tensor] = self.head(self._full(text), self._full(video))
        return parts

    def training_scores(self, text: Features, video: Features) -> dict[str, Tensor]:
        """Return what gets an InfoNCE each: the score, its parts, or all of them (`loss`)."""
        parts = self.score_parts(text, video)
        score = {"score": self.head.average(parts)}
        named = {"joint": score, "branch": parts or score, "both": score | parts}[self.options.loss]
        if self.options.frame_loss:
            named |= {"frames": self._frame_scores(self._full(text), self._full(video))}
        return named

    @property
    def loss_weights(self) -> dict[str, float]:
        """Return the weights of the InfoNCE of the hybrid matching and of the plain frames."""
        return {"text-hybrid": self.options.hybrid_loss, "frames": self.options.frame_loss}

    def _frame_scores(self, text: Features, video: Features) -> Tensor:
        """Return the cosine of each text with the mean plain frame, [N, M]."""
        mean = masked_mean(video["frames"], video["frame_mask"])
        return F.normalize(text["text"], dim=-1) @ F.normalize(mean, dim=-1).mT

    def auxiliary_losses(self, text: Features, video: Features) -> dict[str, Tensor]:
        """Return `hsc`, the weighted cycle loss of matched pairs; none without OCR or weight."""
        if not self.reads or not self.options.hsc_weight:
            return {}
        with torch.autocast(text["text"].device.type, enabled=False):
            return {
                "hsc": self.options.hsc_weight * self._cycle(self._full(text), self._full(video))
            }

    def recall_embedding(self, features: Features) -> Tensor:
        """Return unit vectors [n, D] for a first stage: the text, or mean frame plus mean OCR."""
        features = self._full(features)
        if "text" in features:
            return F.normalize(features["text"], dim=-1)
        streams = [k for k in ("frames", "ocr") if k in features]
        masks = {"frames": "frame_mask", "ocr": "ocr_mask"}
        means = [masked_mean(features[k], features[masks[k]]) for k in streams]
        return F.normalize(torch.stack([F.normalize(m, dim=-1) for m in means]).sum(0), dim=-1)

    def _cycle(self, text: Features, video: Features) -> Tensor:
        frames, ocr = video["frames"], video["ocr"]
        condition = self.head.condition
        if self.options.hsc_features == "conditioned" and condition is not None:
            t = text["text"]
            frames = (
                frames * condition.matched(t, frames, attendable(video["frame_mask"]))[..., None]
            )
            ocr = ocr * condition.matched(t, ocr, attendable(video["ocr_mask"]))[..., None]
        return cycle_consistency(
            frames,
            ocr,
            video["frame_mask"],
            video["ocr_mask"],
            self.options.hsc_temperature,
            self.options.hsc_index == "norm",
            self.options.hsc_directions,
        )

    def _full(self, features: Features) -> Features:
        """Return the features in the head's precision: scores are made in fp32."""
        dtype = self.log_scale.dtype
        return {k: v.to(dtype) if v.is_floating_point() else v for k, v in features.items()}


def _text_copy(backbone: nn.Module) -> nn.Module:
    """Return a copy of a backbone without its image tower."""
    twin: Any = copy.deepcopy(backbone)
    for path in twin.image_parts:
        owner, _, name = path.rpartition(".")
        delattr(twin.get_submodule(owner), name)
    return twin
