"""Counting with scores that are known only to within an error, one direction at a time.

Q queries of the direction, n of them in a block with m items, K pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Exact = Callable[[Tensor, Tensor], Tensor]  # float64 [K] of queries and items, int64 [K] each
_PENDING = 1 << 16  # pairs that wait to be scored exactly, before they are


@dataclass(frozen=True)
class Limits:
    """What the scores of each query are compared with, [Q] each: at most, and from above."""

    low: Tensor
    high: Tensor

    def part(self, queries: slice) -> Limits:
        """Return the limits of some queries."""
        return Limits(self.low[queries], self.high[queries])


class Block:
    """What the scores of a block say about its queries; a NaN takes no part.

    `above` int64 [n] counts the items above `high`, `open` int64 [n] those from `low` to `high`,
    `undecided` is their sum. `dim` is the items' dimension: 1, or 0 for scores [m, n].
    """

    def __init__(self, scores: Tensor, limits: Limits, dim: int, flags: Tensor) -> None:
        """Take the limits [n], and a float32 buffer `flags` of at least n * m numbers."""
        self.dim, self.limits = dim, limits
        # Flags are summed as float32, which is exact below 2^24 items and faster than booleans.
        reach = torch.ge(scores, _along(limits.low, dim), out=_like(scores, flags)).sum(dim)
        # In a block few queries have anything that reaches their limit.
        self.touched = reach.nonzero().flatten()
        self.near = scores.index_select(1 - dim, self.touched)
        high = _along(limits.high[self.touched], dim)
        over = torch.gt(self.near, high, out=_like(self.near, flags)).sum(dim)
        self.above = torch.zeros(len(reach), dtype=torch.int64, device=scores.device)
        self.above[self.touched] = over.to(torch.int64)
        self.open = reach.to(torch.int64) - self.above
        self.undecided = int(self.open.sum())

    def pairs(self) -> tuple[Tensor, Tensor]:
        """Return the undecided pairs by query and item of the block, int64 [K] each."""
        lines = self.open[self.touched].nonzero().flatten()
        which = self.touched[lines]
        near = self.near.index_select(1 - self.dim, lines)
        low, high = (_along(x[which], self.dim) for x in (self.limits.low, self.limits.high))
        inside = ((near >= low) & (near <= high)).nonzero()
        return which[inside[:, 1 - self.dim]], inside[:, self.dim]


class Direction:
    """How many items stand above each query's limit, and how many level with it.

    `limit` float64 [Q] is the best exact score of a right item; NaN where there is none. `above`
    and `level` int64 [Q] are complete after `settle`.
    """

    def __init__(self, limit: Tensor, exact: Exact) -> None:
        """Take the limits, and what scores pairs of a query and an item exactly."""
        self.limit, self.exact = limit, exact
        self.above = torch.zeros(len(limit), dtype=torch.int64, device=limit.device)
        self.level = torch.zeros_like(self.above)
        self._waiting: list[tuple[Tensor, Tensor]] = []
        self._count = 0

    def add(self, block: Block, queries: slice, item: int, exact: bool) -> None:
        """Add a block of these queries, with items from `item` on.

        Undecided pairs wait for `settle`; where scores are exact they are level with the limit.
        """
        self.above[queries] += block.above
        if exact:
            self.level[queries] += block.open
        elif block.undecided:
            rows, columns = block.pairs()
            self._waiting.append((rows + queries.start, columns + item))
            self._count += block.undecided
            if self._count > _PENDING:
                self.settle()

    def settle(self) -> None:
        """Score the pairs that wait exactly, and count them."""
        if not self._waiting:
            return
        queries, items = (torch.cat(part) for part in zip(*self._waiting, strict=True))
        self._waiting, self._count = [], 0
        scores, limit = self.exact(queries, items), self.limit[queries]
        self.above.index_add_(0, queries, (scores > limit).to(torch.int64))
        self.level.index_add_(0, queries, (scores == limit).to(torch.int64))


def _along(limit: Tensor, dim: int) -> Tensor:
    return limit[:, None] if dim == 1 else limit


def _like(scores: Tensor, flags: Tensor) -> Tensor:
    return flags[: scores.numel()].view(scores.shape)
