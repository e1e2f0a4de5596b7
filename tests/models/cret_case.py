"""A small CRET and a batch for its tests."""

from __future__ import annotations

from typing import Any

import torch
from small import SMALL, pairs
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
    made = pairs(ITEMS, FRAMES, (32, 32), torch.Generator().manual_seed(0))
    made["frame_mask"][1, 2:] = False
    made["frame_mask"][4, 1:] = False
    return made
