"""The loaders of a prepared split: training batches in order, and a rank's share of a gallery."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any, cast

import torch
from torch.utils.data import DataLoader

from tvr_bench.datamodules.items import Items, Mirrored, TextItems, TrainItems, VideoItems
from tvr_bench.datamodules.patience import PatientLoader
from tvr_bench.datamodules.plan import AllCaptionsPlan, EpochPlan, rank_batches
from tvr_bench.schema import Config

Position = Callable[[], dict[str, int]]


def train_loader(
    items: Items, cfg: Config, mirrored: Mirrored, rank: int, world: int, position: Position
) -> PlanLoader:
    """Return a rank's part of batches of matched pairs, in an order that seed and epoch decide.

    `position` says where in it training stands, for a checkpoint to go on from. Raises UserError
    where fewer than two videos can be read, or a batch has less than a pair for each rank.
    """
    how: dict[str, Any] = {
        "groups": items.groups(whole=cfg.trainer.groups),
        "batch_size": cfg.trainer.batch_size,
        "seed": cfg.seed,
        "rank": rank,
        "world": world,
    }
    plan = EpochPlan(**how)
    if cfg.trainer.captions == "all":
        plan = AllCaptionsPlan(captions=[len(q) for q in items.queries_of], **how)
    train = TrainItems(items, cfg.seed, cfg.trainer.shift, mirrored)
    return PlanLoader(train, position, batch_sampler=plan, **_how(cfg))


def retrieval_loaders(items: Items, cfg: Config, rank: int, world: int) -> list[DataLoader[Any]]:
    """Return the loaders of a rank's share of a split's texts, and of its readable videos."""
    loaders: list[DataLoader[Any]] = []
    for data, count in (
        (TextItems(items), range(len(items.split.queries))),
        (VideoItems(items), items.readable),
    ):
        batches = rank_batches(list(count), cfg.eval.batch_size, rank, world)
        loaders.append(PatientLoader(data, batch_sampler=batches, **_how(cfg)))
    return loaders


class PlanLoader(PatientLoader):
    """Batches of an `EpochPlan` that can start at any of them, without reading those before."""

    def __init__(self, data: Any, position: Position, **keywords: Any) -> None:
        super().__init__(data, **keywords)
        self.position = position

    @property
    def plan(self) -> EpochPlan:
        """The order of the batches."""
        return cast(EpochPlan, self.batch_sampler)

    def state_dict(self) -> dict[str, int]:
        """Return the `epoch` and the `batch` in it that training does next."""
        return self.position()

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Make the next iteration begin there."""
        self.plan.go_on(state_dict["epoch"], state_dict["batch"])


def _how(cfg: Config) -> dict[str, Any]:
    workers = cfg.trainer.workers
    return {
        "patience": cfg.trainer.timeout,
        "num_workers": workers,
        "persistent_workers": workers > 0,
        "pin_memory": torch.cuda.is_available(),
        "worker_init_fn": _leave_signals,
        # of its own: the seed that a loader draws would part runs with workers from those without
        "generator": torch.Generator(),
    }


def _leave_signals(_: int) -> None:
    """Let the training process alone act on a Ctrl-C or SIGTERM to the whole group.

    It needs its workers up to the end of the step; they end when it does.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
