"""Hooks that nothing listens to: Lightning calls them all at every step, which is not for nothing.

It passes over those that are no callable.
"""

from __future__ import annotations

import pytorch_lightning as pl

_OF_A_STEP = (
    *("on_train_batch_start", "on_train_batch_end", "on_before_zero_grad"),
    *("on_before_backward", "on_after_backward", "on_before_optimizer_step"),
)


def drop_idle_hooks(listener: pl.Callback | pl.LightningModule) -> None:
    """Make None of the hooks of a step that a callback or a model leaves as Lightning has them."""
    base = pl.Callback if isinstance(listener, pl.Callback) else pl.LightningModule
    for name in _OF_A_STEP:
        if getattr(type(listener), name) is getattr(base, name):
            setattr(listener, name, None)
