"""One walk of a few queries through a gallery, in two or three steps of precision.

All products are made in 8 bits, or in float32 (`rough` or not). A pair whose score can be among the
k best of its query is held with bounds of the score. Where the bounds leave too much open, scores
in float32 make them narrow; what is left at the end is scored in float64.

R queries, M items of the gallery, D width, P pairs.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tvr_bench.evaluation.candidates import as_steps, from_steps
from tvr_bench.evaluation.coarse import Coarse, item_share, pair_error, query_error
from tvr_bench.evaluation.exact import exact_scores

HELD = 2**20  # pairs held, unless k of each query are more
_CELLS = 2**19  # scores of a block, 2 MB: they stay in the cache
_GROWTH = 3  # of the items seen, before it is worth while to drop pairs
_ROWS = 8192  # items scored at once
_LAST = 0xFFFFFFFF  # above every position
_LOWEST = torch.finfo(torch.float32).min
_NOTHING = torch.iinfo(torch.int64).min

with warnings.catch_warnings():  # torch says once in a process that such tensors are beta
    warnings.simplefilter("ignore")
    torch.sparse_csr_tensor([0, 0], [], [], (1, 1))


def keys_of(scores: Tensor, items: Tensor) -> Tensor:
    """Return whole numbers in the order of the scores, of equal ones the first item's greatest."""
    return (as_steps(scores) << 32) + (_LAST - items)


def from_keys(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scores and the items of keys."""
    return from_steps(keys >> 32), _LAST - (keys & _LAST)


def best_of_all(vectors: Tensor, query: Tensor, k: int) -> Tensor:
    """Return the keys of the k best items for one query [D], int64 [k], from all their scores."""
    keys = torch.empty(0, dtype=torch.int64)
    for at in range(0, len(vectors), _ROWS):
        part = vectors[at : at + _ROWS]
        items = torch.arange(len(part))
        scores = exact_scores(query[None], part, torch.zeros_like(items), items).float()
        keys = torch.cat([keys, keys_of(scores, at + items)])
        keys = keys.topk(min(k, len(keys))).values
    return keys


def _pair_scores(queries: Tensor, vectors: Tensor, counts: Tensor, items: Tensor) -> Tensor:
    """Return the scores of pairs, float32 [P]: `counts` int64 [R] of `items` for each query.

    This product reads the vectors where they lie: most of the time of a copy would go into memory.
    """
    edges = F.pad(counts.cumsum(0), (1, 0))
    shape = (len(queries), len(vectors))
    cells = torch.sparse_csr_tensor(
        edges, items, torch.zeros(len(items)), shape, check_invariants=False
    )
    scores: Tensor = torch.sparse.sampled_addmm(cells, queries, vectors.T, beta=0.0).values()
    return scores


class Pass:
    """One walk through the gallery for R queries.

    Pairs that can be among the k best are held as `row` and `item`, with `low` and `high` bounds
    of their scores; `limit` float64 [R] is a score that k items of a row certainly reach. The odd
    items have no bounds and are held from the start.
    """

    def __init__(
        self, vectors: Tensor, items: Coarse, fine: Tensor, queries: Coarse, k: int, rough: bool
    ) -> None:
        """Take M vectors and R queries in float32 and in 8 bits; no query is odd or of zeros."""
        self.vectors, self.items, self.k, self.rough = vectors, items, k, rough
        self.fine, self.queries = fine, queries
        self.unit = torch.ones(len(fine), dtype=torch.float64)
        if rough:
            self.unit = queries.step.double().masked_fill(queries.step == 0, 1.0)
        self.share = item_share(queries, items, self.unit, rough)
        self.width = max(1, _CELLS // len(fine))
        cells = len(fine) * min(self.width, len(vectors))
        self.sums, self.cells = torch.empty(cells, dtype=torch.int32), torch.empty(cells)
        self.limit = torch.full((len(fine),), -torch.inf, dtype=torch.float64)
        self.row = torch.arange(len(fine)).repeat_interleave(len(items.odd))
        self.item = items.odd.repeat(len(fine))
        self.high = torch.full(self.item.shape, torch.inf, dtype=torch.float64)
        self.low = -self.high
        self.found: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        self.held = len(self.row)

    def run(self) -> Tensor:
        """Return the keys of the k best items of each query, int64 [R, k], best first."""
        due, room = 0, max(HELD, 2 * self.k * len(self.fine))
        for left in range(0, len(self.vectors), self.width):
            self._reach(slice(left, min(left + self.width, len(self.vectors))))
            if left >= due or self.held > room:
                self._drop()
                due = _GROWTH * (left + self.width)
            if self.held > room:
                self._settle()
        self._drop()
        return self._best()

    def _reach(self, block: slice) -> None:
        """Hold what can be among the k best of a block of items."""
        scores = self._first_scores(block)
        if block.start == 0 and self.k <= scores.shape[1]:
            value, column = scores.topk(self.k, dim=1)
            row = torch.arange(len(scores)).repeat_interleave(self.k)
            low = self._bounds(value.flatten(), row, column.flatten())[0]
            self.limit = torch.maximum(self.limit, low.view_as(value).amin(dim=1))
        rest = query_error(self.queries, self.items, block, self.rough)
        least = ((self.limit - rest) / self.unit).float().clamp_min(_LOWEST)
        found = np.flatnonzero(scores.numpy() >= least.numpy()[:, None])
        row = torch.from_numpy(found // scores.shape[1])
        pairs = torch.from_numpy(found)
        item = pairs - row * scores.shape[1] + block.start
        low, high = self._bounds(scores.view(-1).index_select(0, pairs), row, item)
        self.found.append((row, item, low, high))
        self.held += len(row)

    def _first_scores(self, block: slice) -> Tensor:
        """Return the scores of a block raised by each item's share of the error, float32 [R, m].

        They are in the units of their row; the odd items have -inf, as they are held already.
        """
        shape = (len(self.fine), block.stop - block.start)
        scores = self.cells[: shape[0] * shape[1]].view(shape)
        if self.rough:
            sums = self.sums[: shape[0] * shape[1]].view(shape)
            torch._int_mm(self.queries.values, self.items.values[block].T, out=sums)
            scores.copy_(sums).mul_(self.items.step[block]).add_(self.share[block])
        else:
            torch.mm(self.fine, self.vectors[block].T, out=scores)
        odd = self.items.odd
        if len(odd):
            here = odd[(odd >= block.start) & (odd < block.stop)] - block.start
            scores.index_fill_(1, here, -torch.inf)
        return scores

    def _bounds(self, raised: Tensor, row: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
        """Return the bounds of pairs from what `_first_scores` has of them, float64 [P] each."""
        scores = raised.double() - self.share.index_select(0, item).double()
        scores *= self.unit.index_select(0, row)
        error = pair_error(self.queries, self.items, row, item, self.rough)
        return scores - error, scores + error

    def _drop(self) -> None:
        """Raise the limits and drop the pairs that cannot reach them; the rest is in order."""
        parts = zip((self.row, self.item, self.low, self.high), *self.found, strict=True)
        self.row, self.item, self.low, self.high = (torch.cat(part) for part in parts)
        self.found = []
        self._raise_limits()
        if self.rough and self.k <= _ROWS:  # the likeliest pairs raise the limits most
            self._narrow(self.k)
            self._raise_limits(ordered=True)
        self.held = len(self.row)

    def _raise_limits(self, ordered: bool = False) -> None:
        """Raise the limits by the likeliest pairs of each row, which come first; drop some."""
        if not ordered:
            middle = (0.5 * (self.low + self.high)).float()  # NaN where nothing is known: the last
            self._keep(((self.row << 32) - as_steps(middle)).argsort())
        edges = self._edges()
        full = torch.nonzero(edges[:-1] + self.k <= edges[1:]).flatten()
        best = edges[full][:, None] + torch.arange(self.k)
        least = self.low.index_select(0, best.flatten()).view_as(best).amin(dim=1)
        self.limit[full] = torch.maximum(self.limit[full], least)
        self._keep(torch.nonzero(self.high >= self.limit.index_select(0, self.row)).flatten())

    def _keep(self, pairs: Tensor) -> None:
        self.row, self.item = self.row.index_select(0, pairs), self.item.index_select(0, pairs)
        self.low, self.high = self.low.index_select(0, pairs), self.high.index_select(0, pairs)

    def _narrow(self, count: int | None = None) -> None:
        """Narrow the bounds by scores in float32, of all pairs or the first `count` of each row."""
        pairs = torch.arange(len(self.row)) if count is None else self._first_pairs(count)
        row, item = self.row.index_select(0, pairs), self.item.index_select(0, pairs)
        low, high = self.low.index_select(0, pairs), self.high.index_select(0, pairs)
        error = pair_error(self.queries, self.items, row, item, False)
        wide = torch.nonzero((high - low > 3 * error) & (high < torch.inf)).flatten()
        pairs, error = pairs.index_select(0, wide), error.index_select(0, wide)
        counts = torch.bincount(row.index_select(0, wide), minlength=len(self.fine))
        item = item.index_select(0, wide)
        score = _pair_scores(self.fine, self.vectors, counts, item).double()
        self.low[pairs], self.high[pairs] = score - error, score + error

    def _first_pairs(self, count: int) -> Tensor:
        """Return the positions of the first `count` pairs of each row, or of all it has."""
        edges = self._edges()
        pairs = edges[:-1, None] + torch.arange(count)
        return pairs[pairs < edges[1:, None]]

    def _edges(self) -> Tensor:
        """Return where the pairs of each row begin, and the end of the last ones, int64 [R + 1]."""
        return torch.searchsorted(self.row, torch.arange(len(self.fine) + 1))

    def _best(self) -> Tensor:
        """Return the keys of the k best pairs of each row, int64 [R, k], best first."""
        self._narrow()
        self._raise_limits()
        edges = self._edges()
        place = torch.arange(len(self.row)) - edges.index_select(0, self.row)
        table = torch.full((len(self.fine), int(edges.diff().max())), _NOTHING)
        scores = exact_scores(self.fine, self.vectors, self.row, self.item).float()
        table[self.row, place] = keys_of(scores, self.item)
        return table.topk(min(self.k, table.shape[1]), dim=1).values

    def _settle(self) -> None:
        """Hold of each row the k best alone, where it has as many, by their scores in float64."""
        keys = self._best()
        self.row, place = torch.nonzero(keys != _NOTHING, as_tuple=True)
        scores, self.item = from_keys(keys[self.row, place])
        self.low = scores.double().masked_fill(scores.isnan(), -torch.inf)
        self.high = self.low.clone()
        self.held = len(self.row)
