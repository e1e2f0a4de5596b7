"""Training progress as plain lines, where no terminal can show a moving bar."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from typing import Any, cast

import pytorch_lightning as pl
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from tvr_bench.resume import MONITORS

_EVERY_S = 20.0


def terminal() -> bool:
    """Return whether a person can see a moving bar."""
    return Console(file=sys.stderr).is_terminal


class Bar(pl.Callback):
    """One bar for the whole training, and a short one for the test.

    Beside it stand steps, rate, loss and the last validation. The loss is asked of the device on
    logged steps alone.
    """

    def __init__(self, console: Console | None = None) -> None:
        """Take the terminal to draw on; None is that of stderr."""
        self.console = console or Console(file=sys.stderr)
        self._progress: Progress | None = None
        self._start = 0.0
        self._first = 0
        self._loss = self._score = ""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin at the step that the run goes on from."""
        self._start, self._first = time.perf_counter(), trainer.global_step
        self._open(trainer, "train", int(trainer.estimated_stepping_batches), self._first)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *_: Any
    ) -> None:
        """Move on."""
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if isinstance(outputs, dict) and (not self._loss or trainer.global_step % every == 0):
            self._loss = f"loss {float(outputs['loss']):.3f}"
        self._update(trainer, "train")

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say what is done meanwhile."""
        self._update(trainer, "validate")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show what the checkpoint is chosen by."""
        name = cast(Any, pl_module).cfg.eval.best_by
        if MONITORS[name] in trainer.callback_metrics:
            self._score = f"val {name} {float(trainer.callback_metrics[MONITORS[name]]):.1f}"
        self._update(trainer, "train")

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin the bar of the test."""
        self._loss = self._score = ""
        self._open(trainer, "test", int(sum(cast(Any, trainer).num_test_batches)), 0)

    def on_test_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Move on."""
        if self._progress is not None:
            self._progress.advance(self._progress.task_ids[0])

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the bar as it is."""
        self._close()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave the bar as it is, after an error too."""
        self._close()

    def _open(self, trainer: pl.Trainer, what: str, total: int, done: int) -> None:
        if not trainer.is_global_zero:
            return
        self._progress = Progress(
            TextColumn("{task.description:<8}"),
            BarColumn(bar_width=None),
            TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[text]}"),
            console=self.console,
            expand=True,
            refresh_per_second=4,
        )
        self._progress.add_task(what, total=total, completed=done, text="")
        self._progress.start()

    def _update(self, trainer: pl.Trainer, what: str) -> None:
        if self._progress is None:
            return
        done, total = trainer.global_step, int(trainer.estimated_stepping_batches)
        seconds = time.perf_counter() - self._start
        rate = (done - self._first) / seconds if seconds else 0.0
        left = f"{timedelta(seconds=round((total - done) / rate))} left" if rate else ""
        parts = (f"{rate:.1f}/s", self._loss, self._score, left)
        text = "  ".join(part for part in parts if part)
        self._progress.update(
            self._progress.task_ids[0], completed=done, description=what, text=text
        )

    def _close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


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
