"""Small models and a batch of matched pairs for tests of the training step."""

from __future__ import annotations

from typing import Any

import torch
from small import FRAMES, SMALL, WINDOWS, WORDS
from torch import Tensor

from tvr_bench.models.base import RetrievalModule
from tvr_bench.registry import create_model

ITEMS, SIDE = 7, 32
SETTINGS = SMALL | {"video.size": [SIDE, SIDE], "trainer.precision": "32"}
DROPOUT: dict[str, dict[str, Any]] = {
    "bicnet": {"model.dropout": 0.2},
    "cret": {"model.ccm.dropout": 0.2},
}


def build(name: str, *, dropout: bool = False, **options: Any) -> RetrievalModule:
    """Return a small model in double precision, the same one each time, that logs nothing."""
    own: dict[str, Any] = {}
    if dropout:
        own = {"backbone.dropout": 0.2, **DROPOUT.get(name, {})}
    torch.manual_seed(0)
    model = create_model(name, **(SETTINGS | own | options))
    model.log = lambda *_, **__: None  # type: ignore[method-assign]
    return model.double()


def batch(items: int = ITEMS, seed: int = 0) -> dict[str, Tensor]:
    """Texts of several lengths, one of them twice; clips with missing frames and windows."""
    generator = torch.Generator().manual_seed(seed)

    def tokens(*shape: int) -> Tensor:
        return torch.randint(3, 300, (*shape, WORDS), generator=generator)

    lengths = torch.randint(3, WORDS + 1, (items, WINDOWS, 1), generator=generator)
    made = {
        "text_ids": tokens(items),
        "text_mask": torch.arange(WORDS) < torch.arange(items)[:, None] % (WORDS - 2) + 3,
        "frames": torch.randint(0, 256, (items, FRAMES, 3, SIDE, SIDE), generator=generator).byte(),
        "frame_mask": torch.ones(items, FRAMES).bool(),
        "ocr_ids": tokens(items, WINDOWS),
        "ocr_mask": torch.arange(WORDS) < lengths,
        "text_index": torch.arange(items),
        "video_index": torch.arange(items),
    }
    made["frame_mask"][1, 2:] = False
    made["ocr_mask"][0] = False
    made["text_ids"][2] = made["text_ids"][0]
    made["text_mask"][2] = made["text_mask"][0]
    return made


def gradients(model: RetrievalModule, seed: int = 1, **options: Any) -> dict[str, Tensor]:
    """Return loss and gradients of one step on `batch(**options)`, its random numbers seeded."""
    torch.manual_seed(seed)
    model.zero_grad()
    loss = model.training_step(batch(**options), 0)
    loss.backward()
    return {"loss": loss.detach()} | taken(model)


def taken(model: RetrievalModule) -> dict[str, Tensor]:
    """Return copies of the gradients that the model has."""
    return {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Hold every tensor to another one, to 1e-9 of the largest of its values."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        size = max(1e-3, value.abs().max().item())
        assert torch.allclose(found[name], value, rtol=0, atol=1e-9 * size), name
    assert max(value.abs().max() for value in expected.values()) > 1e-2
