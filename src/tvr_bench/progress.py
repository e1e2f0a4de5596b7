"""Training progress as plain lines, where no terminal can show a moving bar."""

from __future__ import annotations

import sys
import time
from typing import Any, cast

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar
from rich.console import Console

from tvr_bench.resume import MONITORS

_EVERY_S = 20.0


def terminal() -> bool:
    """Return whether a person can see a moving bar."""
    return Console(file=sys.stderr).is_terminal


class Bar(RichProgressBar):
    """Lightning's bar, which asks the device for the loss on logged steps alone."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: dict[str, Any] = {}

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """Return what stands beside the bar."""
        if not trainer.training or trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._kept = super().get_metrics(trainer, pl_module)
        return self._kept


class LogLineProgress(pl.Callback):
    """One line every 20 seconds: step, rate, loss, time left; and one per validation."""

    def __init__(self) -> None:
        self.console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
        self.start = self.last = 0.0
        self.first = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self.start = self.last = time.perf_counter()
        self.first = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *_: Any
    ) -> None:
        """Print a line if the last one is old."""
        now = time.perf_counter()
        if now - self.last >= _EVERY_S:
            self.last = now
            self._print(trainer, now, outputs)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print what the checkpoint is chosen by."""
        metrics, name = trainer.callback_metrics, cast(Any, pl_module).cfg.eval.best_by
        if trainer.is_global_zero and not trainer.sanity_checking and MONITORS[name] in metrics:
            score = float(metrics[MONITORS[name]])
            self.console.print(
                f"  epoch {trainer.current_epoch + 1}: val {name} {score:.1f} (both ways)"
            )

    def _print(self, trainer: pl.Trainer, now: float, outputs: Any) -> None:
        if not trainer.is_global_zero:
            return
        done, total = trainer.global_step, int(trainer.estimated_stepping_batches)
        rate = (done - self.first) / (now - self.start)
        loss = float(outputs["loss"]) if isinstance(outputs, dict) else float("nan")
        self.console.print(
            f"train: step {done}/{total}, {rate:.2f} steps/s, loss {loss:.3f}, "
            f"{now - self.start:.0f} s, {(total - done) / rate if rate else 0:.0f} s left"
        )
