"""`trainer.compile`: the towers' blocks are compiled while a model trains."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytorch_lightning as pl

from tvr_bench.models.layers.blocks import compiled


class CompiledTowers(pl.Callback):
    """Compiles the towers from the start of the training to its end.

    What comes after, such as counting operations, sees the plain ones.
    """

    def __init__(self) -> None:
        self._compiled = ExitStack()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compile; raises UserError where there is no compiler."""
        network: Any = pl_module.network
        self._compiled.enter_context(compiled(network))

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the plain towers back."""
        self._compiled.close()
