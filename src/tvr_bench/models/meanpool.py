"""Mean pooling, the floor under every other model: it sees frames, but neither order nor text.

M videos, N texts, F frames, D width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from tvr_bench.models.base import Batch, RetrievalModule
from tvr_bench.models.layers.masking import masked_mean
from tvr_bench.models.losses import Features
from tvr_bench.registry import register_model


@register_model("meanpool")
class MeanPool(RetrievalModule):
    """The mean of the frame features against the text feature, by cosine."""

    looks_at_patches = False

    def encode_text(self, batch: Batch) -> Features:
        """Return `text` [N, D], unit vectors."""
        pooled, _ = self.backbone.encode_text(batch["text_ids"], batch["text_mask"])
        return {"text": F.normalize(pooled.to(self.log_scale.dtype), dim=-1)}

    def encode_video(self, batch: Batch) -> Features:
        """Return `video` [M, D], unit vectors: the mean of the valid frames, then its norm."""
        frames, _ = self.backbone.encode_frames(batch["frames"])
        mean = masked_mean(frames.to(self.log_scale.dtype), batch["frame_mask"])
        return {"video": F.normalize(mean, dim=-1)}

    def similarity(self, text: Features, video: Features) -> Tensor:
        """Return cosines [N, M]."""
        return text["text"] @ video["video"].mT

    def score_vectors(self, features: Features) -> Tensor:
        """Return the unit vectors [n, D] themselves: their dot product is the score."""
        return features["text"] if "text" in features else features["video"]

    def recall_embedding(self, features: Features) -> Tensor:
        """Return the same vectors [n, D]: the first of two stages finds what the score finds."""
        return self.score_vectors(features)
