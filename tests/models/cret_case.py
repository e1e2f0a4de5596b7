"""A small CRET and a batch for its tests."""

from __future__ import annotations

from typing import Any

import torch
from small import SMALL, WORDS
from torch import Tensor

from tvr_bench.models.cret import Cret
from tvr_bench.registry import create_model

ITEMS, FRAMES = 6, 4
SETTINGS = SMALL | {
    "video.size": "[32,32]",
    "video.frames": FRAMES,
    "backbone.motion": False,
    "model.ccm.heads": 2,
    "model.gees.ramp": 0,
}


def build(**options: Any) -> Cret:
    """Return a small model, always the same."""
    torch.manual_seed(0)
    model = create_model("cret", **(SETTINGS | options))
    assert isinstance(model, Cret)
    model.log = lambda *_, **__: None  # type: ignore[method-assign]
    return model


def batch() -> dict[str, Tensor]:
    """The whole batch: texts of several lengths, clips with missing frames."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.arange(ITEMS) % (WORDS - 2) + 3
    made = {
        "text_ids": torch.randint(3, 300, (ITEMS, WORDS), generator=generator),
        "text_mask": torch.arange(WORDS) < lengths[:, None],
        "frames": torch.randint(0, 256, (ITEMS, FRAMES, 3, 32, 32), generator=generator).byte(),
        "frame_mask": torch.ones(ITEMS, FRAMES).bool(),
    }
    made["frame_mask"][1, 2:] = False
    made["frame_mask"][4, 1:] = False
    return made
