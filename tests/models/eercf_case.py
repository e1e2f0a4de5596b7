"""A small EERCF behind given features, and its losses, for the tests of it.

N texts, M videos, F frames, P patches, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tvr_bench.models.eercf import Eercf
from tvr_bench.models.losses import paired_losses
from tvr_bench.registry import create_model

N, M, FRAMES, P, D = 5, 6, 4, 6, 16
SMALL: dict[str, Any] = {
    "video.size": "[32,48]",
    "video.frames": FRAMES,
    "ocr.enabled": False,
    "text.words": 6,
    "text.vocab": 300,
    "backbone.weights": "none",
    "backbone.width": D,
    "backbone.heads": 2,
    "backbone.layers": 1,
    "backbone.text_layers": 1,
}
EVERY = {"rerank": "custom", "rerank_weights": "[1,1,1,1,1]"}  # all five parts in the score
Features = dict[str, Tensor]


class Given(nn.Module):
    """Towers whose features are those of the batch itself."""

    dim = D

    def encode_text(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return [N, D] that stand for token ids, as they are."""
        return ids, ids[:, None]

    def encode_frames(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Return frame [M, F, D] and patch [M, F, P, D] of [M, F, 1 + P, D]."""
        return frames[:, :, 0], frames[:, :, 1:]


def make_model(**options: Any) -> Eercf:
    """Return a model behind given features whose learnt maps are not the identity."""
    torch.manual_seed(0)
    model = create_model("eercf", **(SMALL | options))
    assert isinstance(model, Eercf)
    model.network = Given()
    with torch.no_grad():
        for matrix in (model.recall_map, model.frame_map):
            matrix.add_(0.2 * torch.randn_like(matrix))
    return model


def make_batch(texts: int = M) -> dict[str, Tensor]:
    """Raw features; video 1 has two padded frames that are not zero."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(M, FRAMES).bool()
    mask[1, 2:] = False
    return {
        "text_ids": torch.randn(texts, D, generator=generator),
        "text_mask": torch.ones(texts, 1).bool(),
        "frames": torch.randn(M, FRAMES, 1 + P, D, generator=generator),
        "frame_mask": mask,
    }


def encode(model: Eercf, batch: dict[str, Tensor]) -> tuple[Features, Features]:
    """Return the features of the texts and of the videos of a batch."""
    return model.encode_text(batch), model.encode_video(batch)


def all_losses(model: Eercf, text: Features, video: Features) -> dict[str, Tensor]:
    """Return the weighted losses of one training step, by name."""
    own = model.training_features(text, video)
    losses = paired_losses(model.training_scores, model.contrast, own, own)
    weighted = {name: model.loss_weights[name] * loss for name, loss in losses.items()}
    return weighted | model.batch_losses(*own)


def total_loss(model: Eercf, text: Features, video: Features) -> Tensor:
    """Return the loss of one training step."""
    return torch.stack(list(all_losses(model, text, video).values())).sum()


def take(features: Features, rows: Any) -> Features:
    """Return some items of the features."""
    return {key: value[rows] for key, value in features.items()}
