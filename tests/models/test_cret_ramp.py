"""The ramp of CRET's variance term: a share of the training, however long that is."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
from cret_case import batch, build
from torch.utils.data import DataLoader

from tvr_bench.models.cret import Cret


class _Weights(pl.Callback):
    """The factor of the variance term in each step."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, Cret)
        self.seen.append(pl_module.variance_weight.item())


def _fit(model: Cret, steps: int) -> list[float]:
    weights, batches = _Weights(), [batch()] * steps
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        callbacks=[weights],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    return weights.seen


@pytest.mark.filterwarnings("ignore::Warning")
@pytest.mark.parametrize("steps", [4, 10])
def test_the_variance_term_has_its_full_weight_before_training_ends(steps: int) -> None:
    weights = _fit(build(**{"model.gees.ramp": 0.5, "model.gees.weight": 0.8}), steps)
    rise = steps // 2
    assert weights == pytest.approx([0.8 * min(1, step / rise) for step in range(steps)])
    assert weights[rise:] == pytest.approx([0.8] * rise)


@pytest.mark.filterwarnings("ignore::Warning")
@pytest.mark.parametrize(("ramp", "rise"), [(2, 2), (200, 4)])
def test_a_ramp_in_steps_ends_with_the_training_at_the_latest(ramp: int, rise: int) -> None:
    weights = _fit(build(**{"model.gees.ramp": ramp}), 4)
    assert weights == pytest.approx([min(1, step / rise) for step in range(4)])


@pytest.mark.filterwarnings("ignore::Warning")
def test_without_a_ramp_the_weight_is_full_from_the_start() -> None:
    assert _fit(build(**{"model.gees.ramp": 0}), 2) == [1, 1]
    assert build(**{"model.gees.ramp": 0.5}).variance_weight == 1, "no training, no ramp"


def test_a_resumed_run_goes_on_with_the_same_term() -> None:
    def begin() -> Cret:
        model = build(**{"model.gees.ramp": 0.5, "model.gees.weight": 0.8})
        model.planned_steps = 8
        return model

    model, losses = begin(), []
    for _ in range(6):
        losses.append(model.training_step(batch(), 0).item())
        if len(losses) == 3:
            saved = {key: value.clone() for key, value in model.state_dict().items()}
    assert losses[:5] == sorted(losses[:5]) and losses[0] < losses[4] == losses[5]
    resumed = begin()
    resumed.load_state_dict(saved)
    assert [resumed.training_step(batch(), 0).item() for _ in range(3)] == losses[3:]
