"""The best items of each query as a list: what was found, not only where the right item stands.

Of equal scores the item that comes first in the gallery is better, and a NaN is never listed.

N queries, k items of each list, n queries and m items of a block, C candidates, P pairs.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Lists = NDArray[np.int32]  # [N, k] positions in the gallery, best first, -1 where nothing is left
_CELLS = 1 << 19  # scores looked at together on a CPU, 2 MB: they stay in cache
_GROUPS = 64  # of items, whose greatest scores say what the k best reach at least
_MANY = 4  # times k pairs of a query in a block: ties, which are cheaper to sort
_HELD = 1 << 20  # pairs held, unless four lists of each query are more


class Top:
    """The lists of N queries, from blocks of scores whose items rise from block to block.

    A pair is held where its score reaches what k items of its query certainly reach, so nearly all
    of the scores cost one comparison.
    """

    def __init__(self, queries: int, k: int) -> None:
        """Take the number of queries and the length of a list, at most 64."""
        assert k <= _GROUPS
        self.queries, self.k = queries, k
        self._floor = torch.full((queries,), -torch.inf)  # k items of each query reach it
        self._greatest = torch.full((queries, _GROUPS), -torch.inf)
        self._held: list[tuple[Tensor, Tensor, Tensor]] = []  # rows, items, scores, [P] each
        self._count = 0

    def add(self, rows: slice, items: Tensor, scores: Tensor) -> None:
        """Take the float32 scores [n, m] of some queries with items at `items` int64 [m]."""
        if self._floor.device != scores.device:
            self._floor, self._greatest = (
                part.to(scores.device) for part in (self._floor, self._greatest)
            )
        cpu = scores.device.type == "cpu"
        height = max(1, _CELLS // scores.shape[1]) if cpu else len(scores)
        for start in range(0, len(scores), height):
            part = scores[start : start + height]
            first = rows.start + start
            self._take(slice(first, first + len(part)), items, part)
        if self._count > max(_HELD, 4 * self.k * self.queries):
            self._merge()

    def lists(self) -> Lists:
        """Return the lists of all queries, int32 [N, k]."""
        self._merge()
        lists = np.full((self.queries, self.k), -1, dtype=np.int32)
        for row, item, _ in self._held:
            lists[row.numpy(), _places(row.numpy())] = item.numpy()
        return lists

    def _take(self, rows: slice, items: Tensor, scores: Tensor) -> None:
        reached = scores >= self._limit(rows, scores)[:, None]
        row, column = _where(reached)
        if len(row) > _MANY * self.k * len(scores):
            row, column = _sorted(scores, self.k)
        found = scores[row, column].cpu()
        self._held.append((row.cpu() + rows.start, items[column.cpu()], found))
        self._count += len(found)

    def _limit(self, rows: slice, scores: Tensor) -> Tensor:
        """Return what a score must reach to be held, [n]; raise the floor by this block.

        Items of earlier blocks win a tie, so where they set the floor it must be passed.
        """
        before = self._floor[rows].clone()
        whole = scores.shape[1] // _GROUPS * _GROUPS
        if whole:
            most = scores[:, :whole].unflatten(1, (-1, _GROUPS)).amax(1)
            most = most.masked_fill_(most.isnan(), -torch.inf)
            most = torch.maximum(self._greatest[rows], most)
            self._greatest[rows] = most
            least = most.topk(self.k, dim=1).values[:, -1]
            self._floor[rows] = torch.maximum(before, least)
        now = self._floor[rows]
        above = torch.nextafter(before, torch.full_like(before, torch.inf))
        return torch.where((now == before) & (before > -torch.inf), above, now)

    def _merge(self) -> None:
        """Keep of what is held the k best of each query, in order."""
        if not self._held:
            return
        row, item, score = (torch.cat(part).numpy() for part in zip(*self._held, strict=True))
        order = np.lexsort((item, -score, row))
        order = order[~np.isnan(score[order])]
        order = order[_places(row[order]) < self.k]
        kept = row[order], item[order], score[order]
        last = _places(kept[0]) == self.k - 1
        full, least = (torch.from_numpy(kept[i][last]).to(self._floor.device) for i in (0, 2))
        self._floor[full] = torch.maximum(self._floor[full], least)
        rows, items, scores = (torch.from_numpy(part) for part in kept)
        self._held, self._count = [(rows, items, scores)], len(rows)


def best_of_rows(scores: Tensor, k: int) -> Lists:
    """Return the lists of a matrix of float32 scores [N, M], int32 [N, k]."""
    top = Top(len(scores), k)
    top.add(slice(0, len(scores)), torch.arange(scores.shape[1]), scores)
    return top.lists()


def best_of_candidates(items: NDArray[np.int64], scores: NDArray[np.float64], k: int) -> Lists:
    """Return the lists of queries whose best items are among candidates, int32 [N, k].

    `items` [N, C] are positions, -1 where there is none, `scores` [N, C] theirs.
    """
    out = (items < 0) | np.isnan(scores)
    order = np.lexsort((items, -scores, out), axis=1)[:, :k]
    best = np.take_along_axis(np.where(out, -1, items), order, axis=1)
    return np.pad(best, ((0, 0), (0, k - best.shape[1])), constant_values=-1).astype(np.int32)


def _where(flags: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows and columns of what is true; numpy is several times quicker on a CPU."""
    if flags.device.type != "cpu":
        row, column = flags.nonzero(as_tuple=True)
        return row, column
    cell = torch.from_numpy(np.flatnonzero(flags.numpy()))
    row = cell // flags.shape[1]
    return row, cell - row * flags.shape[1]


def _sorted(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the rows and columns of the k best of each row, by sorting them all."""
    order = scores.nan_to_num(-torch.inf, torch.inf, -torch.inf).argsort(
        dim=1, descending=True, stable=True
    )
    numbers = scores.isnan().gather(1, order).to(torch.int8).argsort(dim=1, stable=True)
    column = order.gather(1, numbers)[:, :k]
    row = torch.arange(len(scores), device=scores.device)[:, None].expand_as(column)
    return row.flatten(), column.flatten()


def _places(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return which entry of its row each one is, from 0; `rows` [P] do not fall."""
    return np.arange(len(rows)) - np.searchsorted(rows, rows)
