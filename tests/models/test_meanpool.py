"""Mean pooling: unit vectors, masks, and no sense of order."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tvr_bench.registry import create_model

SMALL: dict[str, Any] = {
    "video.size": "[32,32]",
    "video.frames": 4,
    "text.words": 6,
    "text.vocab": 300,
    "backbone.weights": "none",
    "backbone.width": 16,
    "backbone.layers": 1,
    "backbone.text_layers": 1,
    "backbone.motion": False,
}


def _batch(items: int = 3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "text_ids": torch.randint(1, 300, (items, 6), generator=generator),
        "text_mask": torch.ones(items, 6).bool(),
        "frames": torch.randint(0, 256, (items, 4, 3, 32, 32), generator=generator).byte(),
        "frame_mask": torch.ones(items, 4).bool(),
    }


def test_score_is_the_cosine_of_text_and_mean_frame() -> None:
    torch.manual_seed(0)
    model = create_model("meanpool", **SMALL)
    batch = _batch()
    batch["frame_mask"][1, 2:] = False
    text, video = model.encode_text(batch), model.encode_video(batch)
    frames = model.backbone.encode_frames(batch["frames"])[0]
    pooled = model.backbone.encode_text(batch["text_ids"], batch["text_mask"])[0]
    means = torch.stack([frames[0].mean(0), frames[1, :2].mean(0), frames[2].mean(0)])
    expected = torch.nn.functional.cosine_similarity(pooled[:, None], means[None], dim=-1)
    assert torch.allclose(model.similarity(text, video), expected, atol=1e-6)
    dots = model.recall_embedding(text) @ model.recall_embedding(video).T
    assert torch.allclose(dots, expected, atol=1e-6)


def test_the_order_of_frames_is_lost() -> None:
    torch.manual_seed(0)
    model = create_model("meanpool", **SMALL)
    batch = _batch()
    backward = {**batch, "frames": batch["frames"].flip(1)}
    one, other = model.encode_video(batch)["video"], model.encode_video(backward)["video"]
    assert torch.allclose(one, other, atol=1e-6)
