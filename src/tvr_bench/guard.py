"""Steps without a finite gradient are left out, named and counted, and never reach the weights.

B batch.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from rich.console import Console
from torch import Tensor
from torch.utils.data import default_collate

from tvr_bench.datamodules.loaders import PlanLoader
from tvr_bench.errors import UserError
from tvr_bench.files import Ledger

STAGE = "train"  # in the ledger


class NonFiniteGuard(pl.Callback):
    """Leaves the weights as they are where loss or gradient is not finite.

    Nothing waits for the device: whether a step was left out is noted there and read every `every`
    steps and before each checkpoint. Then the clips of that batch are tried one by one.
    """

    def __init__(self, most: int, every: int) -> None:
        """Take how many steps may be left out, and how many pass between two readings."""
        self.most, self.every = most, every
        self.skipped = 0
        self.culprits: list[tuple[str, str]] = []  # id and what was found
        self._notes: list[tuple[int, int, Tensor]] = []  # epoch, batch, whether it was left out
        self._loss: Tensor | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"skipped": self.skipped, "culprits": self.culprits}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.skipped = state_dict["skipped"]
        self.culprits = [(id, message) for id, message in state_dict["culprits"]]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put what was found before the run was interrupted into the ledger again."""
        for id, message in self.culprits:
            _ledger(trainer).add(id=id, path="", stage=STAGE, error=message)

    def on_before_backward(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor
    ) -> None:
        """Keep the loss."""
        self._loss = loss.detach()

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Make the coming step one that changes nothing, where it would do harm."""
        if not (gradients := _gradients(optimizer)):
            return
        finite = torch.nn.utils.get_total_norm(gradients).isfinite()
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            finite = torch.ones_like(finite)  # 16-bit: its scaler tries, fails and leaves out
        if self._loss is not None:
            finite = finite & self._loss.isfinite().all()
        bad = (~finite).float()
        if trainer.world_size > 1:
            dist.all_reduce(bad, dist.ReduceOp.MAX)
        if optimizer.defaults.get("fused"):  # its step reads this on the device
            optimizer.found_inf = bad  # type: ignore[attr-defined]
        elif bool(bad):
            optimizer.zero_grad(set_to_none=True)  # a parameter without a gradient is passed over
        loop: Any = trainer.fit_loop
        epoch, batch = loop.epoch_progress.current.processed, loop.epoch_loop.batch_idx
        self._notes.append((epoch, batch, bad))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        """Read the notes if there are many, or where that costs nothing."""
        if len(self._notes) >= self.every or pl_module.device.type == "cpu":
            self.settle(trainer, pl_module)

    def settle(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Read all notes and name the clips; UserError where too many steps were left out."""
        notes, self._notes = self._notes, []
        if not notes:
            return
        flags = torch.stack([bad.reshape(()) for *_, bad in notes]).tolist()
        for (epoch, batch, _), bad in zip(notes, flags, strict=True):
            if bad:
                self._report(trainer, pl_module, epoch, batch)

    def _report(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, epoch: int, batch: int
    ) -> None:
        self.skipped += 1
        tried = list(_tried(trainer, pl_module, epoch, batch))
        found = [one for one, good in tried if not good]
        message = "no finite gradient, by itself" if found else "no finite gradient, in this batch"
        for id in found or [one for one, _ in tried]:
            self.culprits.append((id, message))
            _ledger(trainer).add(id=id, path="", stage=STAGE, error=message)
        named = ", ".join(found[:5]) if found else f"no single one of its {len(tried)} clips"
        where = f"batch {batch} of epoch {epoch} gave no finite gradient, because of {named}"
        if self.skipped > self.most:
            raise UserError(
                f"{where}; that is more than {self.most} such steps. Mend or remove these clips, "
                "lower optim.lr, or raise trainer.max_skipped, and repeat the command"
            )
        if trainer.is_global_zero:
            Console(file=sys.stderr, highlight=False, soft_wrap=True).print(
                f"{where}; the step was left out ({self.skipped} of at most {self.most})"
            )


def own_part(tensor: Tensor) -> Tensor:
    """Return what this process holds of a tensor; the whole, where it is not shared out."""
    part: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return part


def _gradients(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return [own_part(p.grad) for p in parameters if p.grad is not None]


def _ledger(trainer: pl.Trainer) -> Ledger:
    found = getattr(getattr(trainer, "datamodule", None), "ledger", None)
    return found if isinstance(found, Ledger) else Ledger()


def _tried(trainer: pl.Trainer, module: Any, epoch: int, batch: int) -> Iterator[tuple[str, bool]]:
    """Yield the id of each clip of a batch, and whether its features and their gradients are
    finite.

    The batch is read again: it is a function of its epoch and number alone.
    """
    loader: Any = trainer.train_dataloader
    if not isinstance(loader, PlanLoader) or not hasattr(module, "encode_video"):
        return
    clips = trainer.datamodule.split("train").clips  # type: ignore[attr-defined]
    devices = [module.device] if module.device.type == "cuda" else []
    for pick in loader.plan.batch(epoch, batch):
        one = trainer.strategy.batch_to_device(default_collate([loader.dataset[pick]]))
        with torch.random.fork_rng(devices), trainer.precision_plugin.forward_context():
            yield clips[pick[1]].id, _finite(module, one)


def _finite(module: Any, batch: dict[str, Tensor]) -> bool:
    parts = module.training_features(module.encode_text(batch), module.encode_video(batch))
    values = [t for part in parts for t in part.values() if t.is_floating_point()]
    if not all(bool(value.isfinite().all()) for value in values):
        return False
    parameters = [p for p in module.parameters() if p.requires_grad]
    total = sum(v.float().square().mean() for v in values if v.requires_grad)
    if not isinstance(total, Tensor):
        return True
    gradients = torch.autograd.grad(total, parameters, allow_unused=True)
    return all(bool(g.isfinite().all()) for g in gradients if g is not None)
