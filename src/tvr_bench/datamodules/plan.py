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
        self.start = (0, 0)  # an epoch, and the batch that its iterations begin with
        self.sampler = self  # Lightning announces the epoch to `batch_sampler.sampler`

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration that of `epoch`."""
        self.epoch = epoch

    def go_on(self, epoch: int, batch: int) -> None:
        """Make the next iteration that of `epoch`, and all of that one begin with `batch`.

        One iteration would be too few: a loader with workers makes two and uses the second.
        """
        self.epoch, self.start = epoch, (epoch, batch)

    def __len__(self) -> int:
        """Return the number of batches of an epoch; a last incomplete one is left out."""
        return sum(len(group) for group in self.groups) // self.size

    def __iter__(self) -> Iterator[list[Pick]]:
        """Yield this rank's picks of one batch after the other."""
        start = self.start[1] if self.epoch == self.start[0] else 0
        order = self._order(self.epoch)
        return (self._share(order, k) for k in range(start, len(self)))

    def batch(self, epoch: int, number: int) -> list[Pick]:
        """Return this rank's picks of one batch."""
        return self._share(self._order(epoch), number)

    def _share(self, order: Sequence[Pick], number: int) -> list[Pick]:
        share = self.size // self.world
        start = number * self.size + self.rank * share
        return list(order[start : start + share])

    def _order(self, epoch: int) -> list[Pick]:
        """Return the picks of all ranks in an epoch, one after the other."""
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.groups))
        return [(epoch, item) for g in order for item in self.groups[g]]


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

    def _order(self, epoch: int) -> list[Pick]:
        """Return the picks of all ranks in an epoch, one after the other."""
        picks: list[Pick] = []
        rounds = max(self.captions[item] for group in self.groups for item in group)
        for turn in range(rounds):
            order = np.random.default_rng((self.seed, epoch, turn)).permutation(len(self.groups))
            items = (item for g in order for item in self.groups[g])
            picks += [(epoch, item, turn) for item in items if self.captions[item] > turn]
        return picks


def rank_batches(items: Sequence[int], size: int, rank: int, world: int) -> list[list[int]]:
    """Return this rank's batches: every `world`-th of those that one process would make.

    So the same items are encoded together, to the same bits, whatever the world. All ranks have as
    many batches, because what a model exchanges in a step must find a partner: one that would have
    fewer repeats the first, and the metric drops what it has seen.
    """
    batches = [list(items[start : start + size]) for start in range(0, len(items), size)]
    own = batches[rank::world]
    return own + batches[: -(-len(batches) // world) - len(own)]
