"""Hooks that nothing listens to are passed over, and all others are called."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from tvr_bench.hooks import drop_idle_hooks


class _Listens(pl.Callback):
    def __init__(self) -> None:
        self.calls: list[str] = []

    def on_train_batch_end(self, *_: Any) -> None:
        self.calls.append("callback")


class _Model(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.layer(batch).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def on_after_backward(self) -> None:
        self.calls.append("model")


def test_a_training_calls_those_that_somebody_wrote() -> None:
    callback, idle, model = _Listens(), pl.Callback(), _Model()
    for one in (callback, idle, model):
        drop_idle_hooks(one)
    assert callback.on_before_backward is None and idle.on_train_batch_end is None
    assert model.on_before_zero_grad is None
    before = model.layer.weight.detach().clone()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=3,
        callbacks=[callback, idle],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    batches: Any = list(torch.randn(3, 4, 2))
    trainer.fit(model, DataLoader(batches, batch_size=None))
    assert callback.calls == ["callback"] * 3 and model.calls == ["model"] * 3
    assert trainer.global_step == 3 and not torch.equal(model.layer.weight, before)
