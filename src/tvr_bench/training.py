"""A Lightning Trainer from a configuration."""

from __future__ import annotations

import os
import time
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import (
    Callback,
    LearningRateMonitor,
    ModelCheckpoint,
    RichProgressBar,
)
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger

from tvr_bench.errors import UserError
from tvr_bench.progress import LogLineProgress, terminal
from tvr_bench.schema import Config

MONITOR = "val/R@1_mean"  # mean of both directions; the checkpoint is chosen on validation


def precision(cfg: Config) -> str:
    """Return Lightning's name of the precision; `auto` is bf16 where the hardware has it."""
    names = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}
    if cfg.trainer.precision != "auto":
        return names[cfg.trainer.precision]
    on_gpu = torch.cuda.is_available() and cfg.trainer.accelerator != "cpu"
    fast = torch.cuda.is_bf16_supported() if on_gpu else torch.cpu._is_avx512_bf16_supported()
    return names["bf16" if fast else "32"]


def seed(cfg: Config) -> None:
    """Fix every random number and the number of threads, which orders floating-point sums."""
    threads = cfg.trainer.threads or max(1, len(os.sched_getaffinity(0)) // _processes(cfg))
    torch.set_num_threads(threads)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)


def build_trainer(cfg: Config, run_dir: Path, callbacks: list[Callback]) -> pl.Trainer:
    """Return the trainer of a run; its checkpoints and logs go to `run_dir`."""
    _quiet()
    trainer = cfg.trainer
    every = {"val_check_interval": cfg.eval.every, "check_val_every_n_epoch": 1}
    if cfg.eval.every >= 1:
        every = {"val_check_interval": 1.0, "check_val_every_n_epoch": int(cfg.eval.every)}
    return pl.Trainer(
        accelerator=trainer.accelerator,
        devices=trainer.devices,
        strategy="ddp_find_unused_parameters_true" if trainer.devices > 1 else "auto",
        precision=precision(cfg),  # type: ignore[arg-type]
        max_epochs=trainer.epochs if trainer.steps is None else -1,
        max_steps=trainer.steps or -1,
        gradient_clip_val=cfg.optim.clip or None,
        use_distributed_sampler=False,  # the datamodule shares out; Lightning's sampler pads
        deterministic="warn" if trainer.deterministic else False,
        log_every_n_steps=trainer.log_every,
        callbacks=[*callbacks, *_checkpoints(cfg, run_dir), *_progress(cfg)],
        logger=_loggers(cfg, run_dir),
        fast_dev_run=trainer.smoke,
        enable_progress_bar=terminal(),  # else Lightning adds its own beside the plain lines
        num_sanity_val_steps=0,
        enable_model_summary=False,
        default_root_dir=run_dir,
        **every,  # type: ignore[arg-type]
    )


def local_rank() -> int:
    """Return which process of this machine this is, 0 for the one that a person started."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def build_tester(cfg: Config, callbacks: list[Callback]) -> pl.Trainer:
    """Return a trainer that only tests, on one device, and writes nothing."""
    _quiet()
    return pl.Trainer(
        accelerator=cfg.trainer.accelerator,
        devices=1,
        precision=precision(cfg),  # type: ignore[arg-type]
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _processes(cfg: Config) -> int:
    return cfg.trainer.devices if cfg.trainer.accelerator != "gpu" else 1


def check_devices(cfg: Config) -> None:
    """Raise UserError where more devices are asked for than there are."""
    wanted, found = cfg.trainer.devices, torch.cuda.device_count()
    if cfg.trainer.accelerator == "gpu" and found < wanted:
        raise UserError(
            f"trainer.devices={wanted} GPUs asked for and {found} found; lower it or set "
            "trainer.accelerator=cpu"
        )
    if cfg.trainer.accelerator == "auto" and 0 < found < wanted:
        raise UserError(f"trainer.devices={wanted} asked for and {found} GPUs found; lower it")


def _checkpoints(cfg: Config, run_dir: Path) -> list[Callback]:
    folder = run_dir / "checkpoints"
    best = ModelCheckpoint(
        folder,
        filename="best",
        monitor=MONITOR,
        mode="max",
        save_on_train_epoch_end=False,
        enable_version_counter=False,
    )
    # Lightning's own `save_last` writes only where the best one has improved
    last = ModelCheckpoint(
        folder, filename="last", save_on_train_epoch_end=True, enable_version_counter=False
    )
    rates = [LearningRateMonitor("step")] if cfg.log.csv or cfg.log.tensorboard else []
    return [TrainClock(), ValidateAtEnd(), best, last, *rates]


class TrainClock(Callback):
    """Counts the seconds of training, over all the processes in which a run was resumed.

    What was done after the last checkpoint, and has to be done again, counts once.
    """

    def __init__(self) -> None:
        self._before = self._start = self._end = 0.0

    @property
    def seconds(self) -> float:
        """Seconds of training up to now, or to its end."""
        return self._before + (self._end or time.perf_counter()) - self._start

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start; what earlier processes took is loaded by now."""
        self._start, self._end = time.perf_counter(), 0.0

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop."""
        self._end = time.perf_counter()

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._before = float(state_dict["seconds"])


def seconds(trainer: pl.Trainer) -> float:
    """Return the seconds that a trainer of `build_trainer` has trained, resumed runs included."""
    return next(c for c in trainer.callbacks if isinstance(c, TrainClock)).seconds  # type: ignore[attr-defined]


class ValidateAtEnd(Callback):
    """Validates after the very last step, wherever in an epoch it falls.

    Without it the final weights could not be chosen, nor any of a run shorter than `eval.every`.
    """

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Make Lightning validate now if training is over."""
        if trainer.global_step >= trainer.estimated_stepping_batches:
            trainer.check_val_every_n_epoch = 1
            trainer.should_stop = True


def _progress(cfg: Config) -> list[Callback]:
    return [RichProgressBar() if terminal() else LogLineProgress()]


def _loggers(cfg: Config, run_dir: Path) -> list[Logger]:
    loggers: list[Logger] = []
    if cfg.log.csv:
        loggers.append(CSVLogger(run_dir, name="", version="csv"))
    if cfg.log.tensorboard:
        loggers.append(TensorBoardLogger(run_dir, name="", version="tensorboard"))
    return loggers


def _quiet() -> None:
    import logging

    # Lightning's advice about workers and its device banner say nothing about this run
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    for pattern in (".*does not have many workers.*", ".*smaller than the logging interval.*"):
        warnings.filterwarnings("ignore", pattern)
    warnings.filterwarnings("ignore", ".*Checkpoint directory.*")
    warnings.filterwarnings("ignore", ".*LeafSpec.*")  # torch's own change of names


def best_or_last(trainer: pl.Trainer, selection: str) -> dict[str, Any] | None:
    """Return the state dict that `selection` names; None keeps the weights as they are."""
    callback = trainer.checkpoint_callback
    if selection == "last" or not isinstance(callback, ModelCheckpoint):
        return None
    if not callback.best_model_path:
        return None
    loaded = torch.load(callback.best_model_path, map_location="cpu", weights_only=True)
    state: dict[str, Any] = loaded["state_dict"]
    return state
