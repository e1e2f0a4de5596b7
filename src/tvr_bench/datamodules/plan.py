"""The order of training as a pure function of (seed, epoch): nothing to save, nothing to lose."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from tvr_bench.errors import UserError

Pick = tuple[int, ...]  # (epoch, clip position[, turn]): workers need no state to know the epoch


class EpochPlan(Sampler[list[Pick]]):
    """Batches of clip positions in which no clip repeats.

    No group is torn where all groups have one size and it divides the batch.
    Every rank draws the same order and takes its own slice of each batch, so all ranks together
    see the batch that one process would see.
    """

    def __init__(
        self,
        groups: Sequence[Sequence[int]],
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        total = sum(len(group) for group in groups)
        if total < 2:
            raise UserError("training needs at least two readable videos to tell apart")
        size = min(batch_size, total) // world * world
        if size // world < 1:
            raise UserError(
                f"a batch of {min(batch_size, total)} cannot be shared by {world} devices; "
                "raise trainer.batch_size or lower trainer.devices"
            )
        self.groups, self.size, self.seed = groups, size, seed
        self.rank, self.world = rank, world
        self.epoch = 0
        self.sampler = self  # Lightning announces the epoch to `batch_sampler.sampler`

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration that of `epoch`."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Return the number of batches of an epoch; a last incomplete one is left out."""
        return sum(len(group) for group in self.groups) // self.size

    def __iter__(self) -> Iterator[list[Pick]]:
        """Yield this rank's picks of one batch after the other."""
        order = np.random.default_rng((self.seed, self.epoch)).permutation(len(self.groups))
        flat = [item for g in order for item in self.groups[g]]
        share = self.size // self.world
        for k in range(len(self)):
            start = k * self.size + self.rank * share
            yield [(self.epoch, item) for item in flat[start : start + share]]


class AllCaptionsPlan(EpochPlan):
    """An epoch in which every caption of every clip is a sample.

    It goes round by round: in round r all clips that have more than r captions take their turn r,
    so that a clip does not meet itself in a batch, but where two rounds do.
    """

    def __init__(
        self,
        groups: Sequence[Sequence[int]],
        captions: Sequence[int],
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """Take also how many `captions` each clip has, by position."""
        super().__init__(groups, batch_size, seed, rank, world)
        self.captions = captions

    def __len__(self) -> int:
        """Return the number of batches of an epoch; a last incomplete one is left out."""
        return sum(self.captions[item] for group in self.groups for item in group) // self.size

    def __iter__(self) -> Iterator[list[Pick]]:
        """Yield this rank's picks of one batch after the other."""
        flat: list[Pick] = []
        share = self.size // self.world
        rounds = max(self.captions[item] for group in self.groups for item in group)
        for turn in range(rounds):
            order = np.random.default_rng((self.seed, self.epoch, turn)).permutation(
                len(self.groups)
            )
            items = (item for g in order for item in self.groups[g] if self.captions[item] > turn)
            flat += [(self.epoch, item, turn) for item in items]
            while len(flat) >= self.size:
                yield flat[self.rank * share : (self.rank + 1) * share]
                del flat[: self.size]


def rank_share(items: Sequence[int], rank: int, world: int) -> list[int]:
    """Return every `world`-th item from `rank` on; the shares may differ in length by one."""
    return list(items[rank::world])
