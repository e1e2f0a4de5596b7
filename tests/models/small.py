"""Settings of the smallest models of the tests: what is tested is that they are right."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

FRAMES, WINDOWS, WORDS = 3, 2, 6
SMALL: dict[str, Any] = {
    "video.frames": FRAMES,
    "ocr.windows": WINDOWS,
    "text.words": WORDS,
    "text.vocab": 300,
    "backbone.weights": "none",
    "backbone.width": 16,
    "backbone.heads": 2,
    "backbone.layers": 1,
    "backbone.text_layers": 1,
}


def pairs(
    items: int, frames: int, size: tuple[int, int], generator: torch.Generator
) -> dict[str, Tensor]:
    """Texts of several lengths and clips of `frames` frames that are all there."""
    lengths = torch.arange(items) % (WORDS - 2) + 3
    return {
        "text_ids": torch.randint(3, 300, (items, WORDS), generator=generator),
        "text_mask": torch.arange(WORDS) < lengths[:, None],
        "frames": torch.randint(0, 256, (items, frames, 3, *size), generator=generator).byte(),
        "frame_mask": torch.ones(items, frames).bool(),
    }
