"""Exact resume: all that decides the next step is in a checkpoint, and nothing else is needed.

Checkpoints are written at the edge between two steps, when everything of the last one is done, its
validation and its log lines too. Batches are a pure function of (seed, epoch, batch), so a resumed
run starts at the very batch and reads none before it.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from rich.console import Console
from torch import Tensor

from tvr_bench import durable
from tvr_bench.datamodules.base import VideoTextDataModule
from tvr_bench.errors import UserError
from tvr_bench.files import room_for
from tvr_bench.guard import own_part
from tvr_bench.identity import check_identity
from tvr_bench.rows import RowLogger
from tvr_bench.signals import Stop, Stopped

KEY = "tvr_bench"  # of our part of a checkpoint
# what `eval.best_by` is logged as; a sum over both directions ranks as their mean does
MONITORS = {"R@1": "val/R@1_mean", "R@10": "val/R@10_mean", "RSum": "val/RSum"}


class Checkpoints(pl.Callback):
    """Writes `last.ckpt` and `best.ckpt`, and brings a run back to the edge of one of them.

    It must come before callbacks that log or draw random numbers at the start of a batch.
    """

    def __init__(
        self,
        folder: Path,
        monitor: str,
        every_s: float,
        identity: dict[str, Any] | None = None,
        stop: Stop | None = None,
        before_save: Callable[[pl.Trainer, pl.LightningModule], object] | None = None,
        wait_s: float = 600.0,
    ) -> None:
        """Take the largest time between two checkpoints, and the metric to be the largest.

        `identity` is kept in every checkpoint; `before_save` may raise what forbids one. A process
        waits at most `wait_s` seconds for the others to agree on one.
        """
        self.folder, self.monitor, self.every_s = folder, monitor, every_s
        self.identity, self.stop = identity or {}, stop or Stop()
        self.before_save, self.wait_s = before_save, wait_s
        self._hosts: Any = None  # the group of processes that agree, where there are several
        self.best: tuple[float, int] | None = None  # the metric and its step
        self._saved: int | None = None  # the step of the last checkpoint
        self._written = 0.0
        self._due = False
        self._loaded: dict[str, Any] | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """From here on a signal waits for the end of a step."""
        self.stop.install()  # Lightning has put its own handler in place
        self.stop.waiting = True
        self._written = time.monotonic()
        if trainer.world_size > 1 and self._hosts is None:
            wait = timedelta(seconds=self.wait_s)
            self._hosts = dist.new_group(backend="gloo", timeout=wait)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the signals back from Lightning."""
        self.stop.install()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Go on from the checkpoint that was loaded; write one where it is time to."""
        if self._loaded is not None:
            self._restore(trainer, self._loaded)
            self._loaded = None
        step = trainer.global_step
        old = time.monotonic() - self._written >= self.every_s
        due = step > 0 and (self._due or batch_idx == 0 or old)
        self._at_edge(trainer, pl_module, due)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the weights if they are the best so far; the edge after this gets a checkpoint."""
        if not _training(trainer) or self.monitor not in trainer.callback_metrics:
            return
        score = float(trainer.callback_metrics[self.monitor])
        if self.best is None or score > self.best[0]:
            self._check(trainer, pl_module)
            self.best = (score, trainer.global_step)
            trainer.save_checkpoint(self.folder / durable.BEST, weights_only=True)
        self._due = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the last checkpoint."""
        self._at_edge(trainer, pl_module, True)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """From here on a signal acts at once."""
        self.stop.waiting = False

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add all that Lightning does not keep."""
        metrics = {key: value.detach().cpu() for key, value in trainer.callback_metrics.items()}
        loop = trainer.fit_loop.epoch_loop
        checkpoint[KEY] = {
            "identity": self.identity,
            "random": _of_all_ranks(random_state(pl_module.device)),
            "logged": loop._batches_that_stepped,
            "validated": loop.val_loop.batch_progress.state_dict(),
            "metrics": metrics,
            "rows": [logger.rows for logger in _row_loggers(trainer)],
            "best": self.best,
        }
        # at an edge the batch that comes next is in hand already; it says nothing about the epoch
        checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"] = False

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take what `on_save_checkpoint` has added."""
        self._loaded = checkpoint[KEY]
        self._saved = checkpoint["global_step"]
        best = self._loaded["best"]
        self.best = None if best is None else (best[0], best[1])
        for logger, rows in zip(_row_loggers(trainer), self._loaded["rows"], strict=False):
            logger.keep(rows)

    def _restore(self, trainer: pl.Trainer, loaded: dict[str, Any]) -> None:
        """Undo what starting has moved since: random numbers, and Lightning's own counts."""
        states = loaded["random"]
        set_random_state(states[trainer.global_rank if len(states) == trainer.world_size else 0])
        loop = trainer.fit_loop.epoch_loop
        loop._batches_that_stepped = loaded["logged"]
        loop.val_loop.batch_progress.load_state_dict(loaded["validated"])
        loop.batch_progress.total.ready = loop.batch_progress.total.completed + 1
        for key, value in loaded["metrics"].items():
            trainer.callback_metrics.setdefault(key, value)

    def _at_edge(self, trainer: pl.Trainer, pl_module: pl.LightningModule, due: bool) -> None:
        number, due = self._agreed(due)
        if (due or number) and self._saved != trainer.global_step and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._check(trainer, pl_module)
            for logger in _row_loggers(trainer):
                logger.sync()
            trainer.save_checkpoint(self.folder / durable.LAST)
            self._saved, self._due = trainer.global_step, False
            self._written = time.monotonic()
        if number:
            self.stop.number = number
            raise Stopped(number)

    def _agreed(self, due: bool) -> tuple[int, bool]:
        """Return what all ranks do: the largest signal that came to any, and whether any is due.

        The hosts agree among themselves, so that no device is waited for.
        """
        if self._hosts is None:
            return self.stop.number, due
        wish = torch.tensor([self.stop.number, int(due)])
        dist.all_reduce(wish, dist.ReduceOp.MAX, group=self._hosts)
        signal, late = wish.tolist()
        return signal, bool(late)

    def _check(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Raise UserError where something that is not finite would be kept."""
        if self.before_save is not None:
            self.before_save(trainer, pl_module)
        if name := not_finite(pl_module, trainer.optimizers):
            raise UserError(
                f"{name} is not finite after step {trainer.global_step}, and was not saved; "
                "lower optim.lr, and repeat the command to go on from the last checkpoint"
            )


def start(
    trainer: pl.Trainer, data: VideoTextDataModule, folder: Path, *, force: bool
) -> Path | None:
    """Return the checkpoint to go on from, the newest that verifies; None where there is none.

    `data` is told the batch to begin with: Lightning makes its loader before it reads that. Says
    from which step, and where that checkpoint is not the last one. Raises UserError where all are
    damaged or, without `force`, where it belongs to another training, naming what differs.
    """
    first = trainer.is_global_zero
    if (path := durable.newest(folder)) is None:
        return None
    kept = next(c for c in trainer.callbacks if isinstance(c, Checkpoints))  # type: ignore[attr-defined]
    checkpoint = durable.peek(path)
    if not force:
        check_identity(path, checkpoint[KEY]["identity"], kept.identity)
    (data.start,) = checkpoint["loops"]["fit_loop"]["state_dict"]["combined_loader"]
    best = checkpoint[KEY]["best"]
    if first:
        durable.choose_best(folder, best and best[1])
    if first:
        _say(f"goes on from step {checkpoint['global_step']}, in epoch {checkpoint['epoch'] + 1}")
    if first and path.name != durable.LAST:
        _say(
            f"{folder / durable.LAST} is damaged; the run goes on from the checkpoint before it, "
            f"of step {checkpoint['global_step']}"
        )
    return path


@contextmanager
def said() -> Iterator[None]:
    """Say in one line what to do after a full disk and after the death of a loader's process."""
    again = "and repeat the command, which goes on from the last checkpoint"
    try:
        with room_for(None, again):
            yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UserError(
            "a process that loads batches was killed, as when memory runs out; lower "
            f"trainer.workers, {again}"
        ) from error


def _say(line: str) -> None:
    Console(file=sys.stderr, highlight=False, soft_wrap=True).print(line)


def not_finite(module: torch.nn.Module, optimizers: list[torch.optim.Optimizer]) -> str:
    """Return the name of the first tensor with a NaN or an infinity, or an empty string.

    A buffer may hold infinities: masks do.
    """
    good = {name: own_part(value).isfinite().all() for name, value in module.named_parameters()}
    good |= {name: ~tensor.isnan().any() for name, tensor in module.named_buffers()}
    for optimizer in optimizers:
        for i, state in enumerate(optimizer.state.values()):
            for key, tensor in state.items():
                if isinstance(tensor, Tensor) and key != "step":  # a count, endless in BertAdam
                    good[f"the optimiser's {key} {i}"] = own_part(tensor).isfinite().all()
    # on the device first, so that it is asked once and not once per tensor
    parts = {
        device: [g for g in good.values() if g.device == device]
        for device in {g.device for g in good.values()}
    }
    if all(bool(torch.stack(part).all()) for part in parts.values()):
        return ""
    return next(name for name, one in good.items() if not bool(one))


def random_state(device: torch.device) -> dict[str, Any]:
    """Return the state of Python's, NumPy's and torch's random numbers, also on `device`."""
    kind, keys, *rest = np.random.get_state()
    on_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return {
        "python": random.getstate(),
        "numpy": [kind, torch.from_numpy(np.asarray(keys, np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "device": on_device,
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Put the state of `random_state` back; on a GPU that of the current device."""
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["device"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["device"])


def _of_all_ranks(state: dict[str, Any]) -> list[dict[str, Any]]:
    if not (dist.is_available() and dist.is_initialized()):
        return [state]
    states: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(states, state)
    return states


def _training(trainer: pl.Trainer) -> bool:
    whole = not trainer.fast_dev_run and not trainer.sanity_checking  # type: ignore[attr-defined]
    return whole and trainer.state.fn == "fit"


def _row_loggers(trainer: pl.Trainer) -> list[RowLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, RowLogger)]
