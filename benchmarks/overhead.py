"""What our Trainer adds to a step, and what `import tvr_bench` adds to `import torch`.

Run: `.venv/bin/python benchmarks/overhead.py [--small]`. The model is a linear layer of 64 x 64 and
the batch has one row, so that a step is nothing but what surrounds it. The plain loop draws the
same batches from the same loader, clips and steps the same optimiser; ours is the Trainer of
`training.build_trainer` with its loggers, guards and checkpoints, and the hooks of our models. What
Lightning's Trainer adds by itself, without a logger or a callback, stands beside it. Imports are
timed in fresh processes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import pytorch_lightning as pl
import torch
from harness import Row, arguments, save
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tvr_bench import config, training
from tvr_bench.hooks import drop_idle_hooks
from tvr_bench.models.base import RetrievalModule
from tvr_bench.models.micro import WithinMemory
from tvr_bench.models.optim import build_optimizer, build_schedule
from tvr_bench.schema import Config

WIDTH, WARM_UP = 64, 100
GOAL_US, GOAL_IMPORT_S = 300.0, 0.3
SETTINGS = (
    *("trainer.accelerator=cpu", "trainer.precision=32", "eval.every=1"),
    "trainer.epochs=1",
)
IMPORTS = (
    "import time, torch; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"
)


class Linear(RetrievalModule):
    """A layer with the hooks of our models around it, and their log of losses."""

    def __init__(self, cfg: Config) -> None:
        pl.LightningModule.__init__(self)
        self.cfg, self.memory, self._logs = cfg, WithinMemory(None), True
        drop_idle_hooks(self)
        self.network = nn.Linear(WIDTH, WIDTH)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:  # type: ignore[override]
        """Return a loss, and log it as a model does."""
        loss = self.network(batch).square().mean()
        if self._logs:
            self.log("train/loss", loss.detach(), prog_bar=True)
            self.log("train/loss_score", loss.detach())
        return loss

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        """Return the batch, which is no dict."""
        return pl.LightningModule.transfer_batch_to_device(self, batch, device, dataloader_idx)


class Bare(pl.LightningModule):
    """The layer as anybody's module: no hook, no log."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.cfg, self.network = cfg, nn.Linear(WIDTH, WIDTH)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Return a loss."""
        return self.network(batch).square().mean()

    def configure_optimizers(self) -> Any:
        """Return the optimiser and the schedule of the other loops."""
        optimizer = build_optimizer(self.cfg, Linear.parameter_groups(self))  # type: ignore[arg-type]
        steps = int(self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": build_schedule(self.cfg, optimizer, steps)}


class Clock(pl.Callback):
    """Wall clock and processor time between the first step after the warm-up and the last one."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.times: list[tuple[float, float]] = []

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Look at the clocks."""
        if trainer.global_step in (WARM_UP, WARM_UP + self.steps):
            self.times.append((time.perf_counter(), time.process_time()))


def main() -> int:
    options = arguments(__doc__)
    steps = 300 if options.small else 2000
    cfg = config.load([*SETTINGS, f"trainer.threads={options.threads}"])
    agreement = agree(cfg)
    turns = []
    for turn in range(options.repeats + 1):
        one = plain(cfg, steps), ours(cfg, steps), plain(cfg, steps), bare(cfg, steps)
        if turn:  # the first one warms up
            turns.append(one)
    save("overhead", [step_row(turns, steps, agreement), import_row(options)], options)
    return 0


def agree(cfg: Config) -> str:
    """Return that both loops end with the same weights; SystemExit where they do not."""
    left = []
    for train in (plain, ours, bare):
        torch.manual_seed(0)
        left.append(train(cfg, 50)[2])
    difference = max(float((left[0] - one).abs().max()) for one in left[1:])
    if not difference <= 1e-7:
        raise SystemExit(f"the loops end with other weights: they differ by {difference:.1e}")
    return f"weights after {WARM_UP + 51} steps equal to {difference:.0e}"


def step_row(turns: list[tuple[Any, ...]], steps: int, agreement: str) -> Row:
    """Return the row of what a step costs above a plain one."""
    wall, cpu = ([tuple(side[i] for side in turn) for turn in turns] for i in (0, 1))
    added, by_itself = (median(turn[i] - min(turn[0], turn[2]) for turn in wall) for i in (1, 3))
    return Row(
        id="L step",
        what=f"linear layer {WIDTH} x {WIDTH}, batch 1, {steps} steps",
        peer="plain loop",
        agreement=agreement,
        at_most={"us per step over plain": (added, GOAL_US)},
        figures={
            "plain us": median(min(turn[0], turn[2]) for turn in wall),
            "ours us": median(turn[1] for turn in wall),
            "added cpu us": median(turn[1] - min(turn[0], turn[2]) for turn in cpu),
            "a bare Trainer adds us": by_itself,
            "plain / plain": median(turn[0] / turn[2] for turn in wall),
        },
    )


def plain(cfg: Config, steps: int) -> tuple[float, float, Tensor]:
    """Return microseconds of one step of a loop, wall clock and processor time, and the weights."""
    model, data = Linear(cfg), loader(steps)
    optimizer = build_optimizer(cfg, model.parameter_groups())
    schedule = build_schedule(cfg, optimizer, len(data))["scheduler"]
    batches, clip = iter(data), cfg.optim.clip

    def run(count: int) -> None:
        for batch in islice(batches, count):
            loss = model.network(batch).square().mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            schedule.step()

    run(WARM_UP)
    wall, cpu = time.perf_counter(), time.process_time()
    run(steps)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    run(1)
    return 1e6 * wall / steps, 1e6 * cpu / steps, model.network.weight.detach()


def ours(cfg: Config, steps: int) -> tuple[float, float, Tensor]:
    """Return the same of a step of our Trainer."""
    clock = Clock(steps)
    with tempfile.TemporaryDirectory() as folder:
        trainer = training.build_trainer(cfg, Path(folder), [clock])
        return timed(trainer, Linear(cfg), clock)


def bare(cfg: Config, steps: int) -> tuple[float, float, Tensor]:
    """Return the same of a step of Lightning's Trainer, all that can be switched off left out."""
    clock, off = Clock(steps), {"logger": False, "enable_checkpointing": False}
    off |= {"enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, gradient_clip_val=cfg.optim.clip, callbacks=[clock], **off
    )
    return timed(trainer, Bare(cfg), clock)


def timed(trainer: pl.Trainer, model: Any, clock: Clock) -> tuple[float, float, Tensor]:
    """Train; return microseconds of one step, wall clock and processor time, and the weights."""
    steps = clock.steps
    trainer.fit(model, loader(steps))
    (wall, cpu), (wall_end, cpu_end) = clock.times
    weights = model.network.weight.detach()
    return 1e6 * (wall_end - wall) / steps, 1e6 * (cpu_end - cpu) / steps, weights


def loader(steps: int) -> DataLoader[Tensor]:
    """Return the batches of a run, and one more, at whose start the clocks are read."""
    rows: Any = torch.randn(WARM_UP + steps + 1, 1, WIDTH).unbind()
    return DataLoader(rows, batch_size=None)


def import_row(options: argparse.Namespace) -> Row:
    """Return the row of importing the package; its command line is a figure beside it."""
    package, line = (
        median(imported(name) for _ in range(min(options.repeats, 5)))
        for name in ("tvr_bench", "tvr_bench.cli")
    )
    return Row(
        id="L import",
        what="import tvr_bench after import torch, fresh processes",
        agreement="nothing to compare",
        at_most={"s over torch": (package, GOAL_IMPORT_S)},
        figures={"with the command line, s": line},
    )


def imported(name: str) -> float:
    """Return the seconds of an import in a process that has torch already."""
    command = [sys.executable, "-c", IMPORTS.format(name)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


if __name__ == "__main__":
    sys.exit(main())
