"""A Lightning Trainer from a configuration."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.callbacks import Callback, LearningRateMonitor
from pytorch_lightning.loggers import Logger, TensorBoardLogger

from tvr_bench import devices, durable
from tvr_bench.compiling import CompiledTowers
from tvr_bench.guard import NonFiniteGuard
from tvr_bench.hooks import drop_idle_hooks
from tvr_bench.progress import Bar, LogLineProgress, terminal
from tvr_bench.resume import MONITORS, Checkpoints
from tvr_bench.rows import RowLogger
from tvr_bench.schema import Config
from tvr_bench.signals import Stop


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
    torch.set_num_threads(devices.threads(cfg))
    devices.share_threads(cfg)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)


def build_trainer(
    cfg: Config,
    run_dir: Path,
    callbacks: list[Callback],
    *,
    identity: dict[str, Any] | None = None,
    stop: Stop | None = None,
) -> pl.Trainer:
    """Return the trainer of a run; its checkpoints and logs go to `run_dir`.

    `identity` is what a resumed run must share with this one; a signal that `stop` notes ends
    training after its step.
    """
    _quiet()
    devices.settle()
    trainer = cfg.trainer
    strategy = devices.strategy(cfg)
    alone = [LightningEnvironment()] if strategy == "auto" else []  # else Lightning looks for one
    every = {"val_check_interval": cfg.eval.every, "check_val_every_n_epoch": 1}
    if cfg.eval.every >= 1:
        every = {"val_check_interval": 1.0, "check_val_every_n_epoch": int(cfg.eval.every)}
    made = pl.Trainer(
        accelerator=trainer.accelerator,
        devices=trainer.devices,
        num_nodes=trainer.nodes,
        strategy=strategy,
        precision=precision(cfg),  # type: ignore[arg-type]
        max_epochs=trainer.epochs if trainer.steps is None else -1,
        max_steps=trainer.steps or -1,
        gradient_clip_val=cfg.optim.clip or None,
        use_distributed_sampler=False,  # the datamodule shares out; Lightning's sampler pads
        deterministic="warn" if trainer.deterministic else False,
        log_every_n_steps=trainer.log_every,
        callbacks=[*_safety(cfg, run_dir, identity, stop), *callbacks, *_progress(cfg)],
        plugins=[durable.DurableCheckpointIO(), *alone],
        enable_checkpointing=False,  # Lightning's own; ours is among the callbacks
        logger=_loggers(cfg, run_dir),
        fast_dev_run=trainer.smoke,
        enable_progress_bar=False,  # Lightning's own; ours is among the callbacks
        num_sanity_val_steps=0,
        enable_model_summary=False,
        default_root_dir=run_dir,
        **every,  # type: ignore[arg-type]
    )
    for callback in made.callbacks:  # type: ignore[attr-defined]
        drop_idle_hooks(callback)
    return made


def build_tester(cfg: Config, callbacks: list[Callback]) -> pl.Trainer:
    """Return a trainer that only tests, on one device, and writes nothing."""
    _quiet()
    devices.settle()
    return pl.Trainer(
        accelerator=cfg.trainer.accelerator,
        devices=1,
        precision=precision(cfg),  # type: ignore[arg-type]
        callbacks=callbacks,
        plugins=[LightningEnvironment()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def checkpoints(run_dir: Path) -> Path:
    """Return the folder of a run's checkpoints."""
    return run_dir / "checkpoints"


def _safety(
    cfg: Config, run_dir: Path, identity: dict[str, Any] | None, stop: Stop | None
) -> list[Callback]:
    guard = NonFiniteGuard(cfg.trainer.max_skipped, cfg.trainer.log_every)
    kept = Checkpoints(
        checkpoints(run_dir),
        MONITORS[cfg.eval.best_by],
        60 * cfg.trainer.checkpoint_every,
        identity,
        stop,
        before_save=guard.settle,
        wait_s=cfg.trainer.timeout,
    )
    towers = [CompiledTowers()] if cfg.trainer.compile else []
    return [kept, guard, TrainClock(), ValidateAtEnd(), *towers]


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
    rates = [LearningRateMonitor("step")] if cfg.log.csv or cfg.log.tensorboard else []
    return [*rates, Bar() if terminal() else LogLineProgress()]


def _loggers(cfg: Config, run_dir: Path) -> list[Logger]:
    loggers: list[Logger] = []
    if cfg.log.csv:
        loggers.append(RowLogger(run_dir / "csv"))
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
    warnings.filterwarnings("ignore", ".*in eval mode at the start of training.*")  # frozen towers
    warnings.filterwarnings("ignore", ".*overridden `transfer_batch_to_device`.*")
    warnings.filterwarnings("ignore", ".*LeafSpec.*")  # torch's own change of names


def best_or_last(trainer: pl.Trainer, selection: str) -> dict[str, Any] | None:
    """Return the state dict that `selection` names; None keeps the weights as they are.

    Raises UserError where the best checkpoint is damaged.
    """
    kept = next(c for c in trainer.callbacks if isinstance(c, Checkpoints))  # type: ignore[attr-defined]
    if selection == "last" or kept.best is None:
        return None
    state: dict[str, Any] = durable.read(kept.folder / durable.BEST)["state_dict"]
    return state
