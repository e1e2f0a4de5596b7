"""What T-CARD's scores cost: the cached form never makes the tokens of every pair.

N texts, M videos, F frames, W windows, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from models.largest import Largest
from tvr_bench.evaluation.efficiency import count_flops
from tvr_bench.models.tcard import TCard
from tvr_bench.registry import create_model

N, M, FRAMES, D = 24, 20, 6, 64
SMALL: dict[str, Any] = {
    "video.size": "[32,48]",
    "video.frames": FRAMES,
    "ocr.windows": FRAMES,
    "text.words": 6,
    "text.vocab": 300,
    "backbone.weights": "none",
    "backbone.width": D,
    "backbone.heads": 2,
    "backbone.layers": 1,
    "backbone.text_layers": 1,
    "model.coattention_gain": 1.0,
}


def _model(path: str) -> TCard:
    torch.manual_seed(0)
    model = create_model("tcard", **SMALL, **{"model.fast_path": path})
    assert isinstance(model, TCard) and model.head.fast == (path == "auto")
    return model.eval()


def _features() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    masks = torch.rand(2, M, FRAMES, generator=generator) > 0.3
    tokens = torch.randn(2, M, FRAMES, D, generator=generator)
    video = {"frames": tokens[0], "frame_mask": masks[0], "ocr": tokens[1], "ocr_mask": masks[1]}
    return {"text": torch.randn(N, D, generator=generator)}, video


def test_both_forms_rank_alike_and_one_of_them_makes_no_tokens_of_pairs() -> None:
    sides, seen, scores, work = _features(), [], [], []
    for path in ("auto", "direct"):
        model = _model(path)
        with torch.no_grad(), Largest() as largest:
            scores.append(model.similarity(*sides))
        seen.append(largest.elements)
        with torch.no_grad():
            work.append(count_flops(lambda model=model: model.similarity(*sides)))
    assert (scores[0] - scores[1]).abs().max() < 1e-6
    for dim in (0, 1):
        orders = [one.argsort(dim=dim, descending=True) for one in scores]
        assert torch.equal(*orders)
    assert seen[0] < N * M * FRAMES * D <= seen[1]
    assert 2 * work[0] < work[1]
