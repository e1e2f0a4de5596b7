"""The loaders of a prepared split: training batches in order, and a rank's share of a gallery."""

from __future__ import annotations

import os
import resource
import signal
import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch.utils.data import DataLoader

from tvr_bench.datamodules.items import Items, Mirrored, TextItems, TrainItems, VideoItems
from tvr_bench.datamodules.patience import PatientLoader
from tvr_bench.datamodules.plan import AllCaptionsPlan, EpochPlan, rank_batches
from tvr_bench.errors import UserError
from tvr_bench.schema import Config

Position = Callable[[], dict[str, int]]
_SOCKET = 107 - len("/pymp-01234567/listener-01234567")  # bytes that Linux leaves for a folder
_PIPES, _BATCHES = 3, 2  # open files to talk with a process; batches that it makes in advance
_OTHER_FILES = 16  # that the run opens meanwhile


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
    return PlanLoader(train, position, batch_sampler=plan, **_how(cfg, items))


def retrieval_loaders(items: Items, cfg: Config, rank: int, world: int) -> list[DataLoader[Any]]:
    """Return the loaders of a rank's share of a split's texts, and of its readable videos."""
    loaders: list[DataLoader[Any]] = []
    for data, count in (
        (TextItems(items), range(len(items.split.queries))),
        (VideoItems(items), items.readable),
    ):
        batches = rank_batches(list(count), cfg.eval.batch_size, rank, world)
        loaders.append(PatientLoader(data, batch_sampler=batches, **_how(cfg, items)))
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


def _how(cfg: Config, items: Items) -> dict[str, Any]:
    workers = cfg.trainer.workers
    begin = None
    if workers:
        _check_files(workers, items)
        begin = partial(_begin, sockets=_folder_of_sockets())
    return {
        "patience": cfg.trainer.timeout,
        "collate_fn": _as_it_is,
        "num_workers": workers,
        "persistent_workers": workers > 0,
        "pin_memory": torch.cuda.is_available(),
        "worker_init_fn": begin,
        # other ways to start one run the user's script once more
        "multiprocessing_context": "fork" if workers else None,
        # of its own: the seed that a loader draws would part runs with workers from those without
        "generator": torch.Generator(),
    }


def _as_it_is(batch: Any) -> Any:
    """Return a batch, which the views of `items` give whole."""
    return batch


def _begin(_: int, sockets: str) -> None:
    """Let the training process alone act on a Ctrl-C or SIGTERM to the whole group.

    It needs its workers up to the end of the step; they end when it does. The sockets through
    which they give batches away are made in the folder `sockets`.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    tempfile.tempdir = sockets


def _folder_of_sockets() -> str:
    """Return the folder of temporary files or, where a socket's path would be too long, another.

    Raises UserError where there is none: batches would never come.
    """
    usual = tempfile.gettempdir()
    for folder in (usual, "/tmp", "/var/tmp", "/dev/shm"):
        if len(os.fsencode(folder)) <= _SOCKET and os.access(folder, os.W_OK | os.X_OK):
            return folder
    raise UserError(
        f"trainer.workers need a folder for sockets, and the path of {usual} is too long; set "
        f"TMPDIR to a folder of at most {_SOCKET} bytes, or trainer.workers=0"
    )


def _check_files(workers: int, items: Items) -> None:
    """Make room for the open files of one loader's processes: each has all, and its batches' own.

    Raises UserError where the system allows too few: batches would never come.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    tensors = len(items.text(0)) + len(items.video(items.readable[0])) if items.readable else 0
    used = len(os.listdir("/proc/self/fd")) + workers * _PIPES
    needed = used + tensors * _BATCHES + _OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise UserError(
            f"trainer.workers={workers} needs some {needed} open files and {hard} are allowed; "
            f"say `ulimit -n {2 * needed}` before, or lower trainer.workers"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
