"""Every model of the registry learns from real SignVid files: a step lowers its batch's loss."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tiny import TINY_MODEL, TINY_RUN, TINY_SIGNVID
from tvr_bench import config
from tvr_bench.models.base import RetrievalModule
from tvr_bench.registry import build_model, dataset_class, list_models

STEPS, LR = 3, 1e-3


@pytest.fixture(autouse=True)
def _no_log_without_trainer() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RetrievalModule, "log", lambda *_, **__: None)
        yield


@pytest.fixture(scope="module")
def settings(shared_cache: Path) -> list[str]:
    return [*TINY_MODEL, *TINY_RUN, *TINY_SIGNVID, f"paths.cache={shared_cache}"]


@pytest.fixture(scope="module")
def batch(settings: list[str]) -> dict[str, Tensor]:
    """A batch of rendered, encoded and decoded videos with their captions, in whole groups."""
    data = dataset_class("signvid")(config.load(["data=signvid", *settings]))
    data.prepare(["train"])
    found: dict[str, Tensor] = next(iter(data.train_dataloader()))
    assert found["frames"].shape == (8, 3, 3, 32, 48) and found["frames"].float().std() > 10
    return found


@pytest.mark.parametrize("name", list_models())
def test_a_step_lowers_the_loss_of_its_batch(
    name: str, settings: list[str], batch: dict[str, Tensor]
) -> None:
    own: list[str] = ["model.heads=2"] if name == "tcard" else []
    cfg: Any = config.load([f"model={name}", "data=signvid", *settings, *own])
    torch.manual_seed(0)
    model = build_model(cfg)
    optimizer = torch.optim.AdamW(model.parameter_groups())
    for group in optimizer.param_groups:
        group["lr"] = LR
    losses = []
    for _ in range(STEPS + 1):
        optimizer.zero_grad()
        loss = model.training_step(batch, 0)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0]
