"""Ranks by counting: where the right item stands, whatever the ties, NaN and infinities.

N queries, M items. An item is ahead of the right one if its score is greater, and tied with it
if the two are equal; tied items stand in random order, so hits and ranks are expected values and
a constant scorer gets exactly chance.

Several right items (gold): the best of them counts, as is usual for many captions of one clip.
With `t` wrong and `h` right items tied at the best right score behind `a` better items, a hit at
k is `1 - C(t, r) / C(t + h, r)` with `r = k - a` (hypergeometric), and the rank is that of the
first right item, `1 + a + t / (h + 1)`. For h = 1 these are `(k - a) / (t + 1)` and
`1 + a + t / 2`.

NaN: a wrong item with a NaN score stands behind all others; a query whose every right item is
NaN has the last rank, M. Infinities are ordinary numbers. Hits are in percent where a dict comes
back, and shares where an array does.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from tvr_bench.errors import UserError
from tvr_bench.evaluation.counting import count_nan, count_rows, exact_dtype

RECALLS = (1, 5, 10, 50)
Metrics = dict[str, float]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Ranks:
    """What places the best right item of each query; every array is [N].

    `ahead`: items with a greater score. `tied`: wrong items with the same score. `gold`: right
    items with that score, at least 1. `items`: how many items compete. `nan`: no right item has
    a score, so all other items count as ahead.
    """

    ahead: Ints
    tied: Ints
    gold: Ints
    items: Ints
    nan: NDArray[np.bool_]

    @classmethod
    def from_counts(cls, above: Tensor, level: Tensor, gold: Tensor, items: int | Tensor) -> Ranks:
        """Return the ranks of counts against the best right score; gold 0 means it is NaN."""
        above, level, gold = above.cpu(), level.cpu(), gold.cpu()
        total = torch.as_tensor(items).cpu().expand_as(above)
        nan = gold == 0
        return cls(
            ahead=torch.where(nan, total - 1, above).numpy(),
            tied=torch.where(nan, 0, level - gold).numpy(),
            gold=gold.clamp_min(1).numpy(),
            items=total.numpy().copy(),
            nan=nan.numpy(),
        )

    def __len__(self) -> int:
        """Return the number of queries."""
        return len(self.ahead)

    def take(self, queries: NDArray[Any]) -> Ranks:
        """Return the ranks of some queries, chosen by position or boolean mask."""
        return Ranks(**{field.name: getattr(self, field.name)[queries] for field in fields(self)})

    @property
    def expected(self) -> Floats:
        """The expected rank of the best right item, from 1, float64 [N]."""
        return 1 + self.ahead + self.tied / (self.gold + 1)

    def hits(self, k: int) -> Floats:
        """Return the expected hit among the first k, from 0 to 1, float64 [N]."""
        slots = np.clip(k - self.ahead, 0, self.tied + self.gold)
        hit: Floats = np.minimum(slots / (self.tied + 1), 1.0)
        several = np.flatnonzero((self.gold > 1) & (self.tied > 0))
        if several.size:
            hit[several] = _draw(slots[several], self.tied[several], self.gold[several])
        return hit

    def metrics(self, recalls: Sequence[int] = RECALLS) -> Metrics:
        """Return recalls in percent, RSum (R@1 + R@5 + R@10), MdR, MnR and the counts.

        `R@1_optimistic` puts the right item before all that tie with it, `R@1_pessimistic`
        behind them. Raises UserError where there is no query.
        """
        if not len(self):
            raise UserError("there is no query to measure; give at least one")
        recall = {k: _mean_percent(self.hits(k)) for k in {*recalls, 1, 5, 10}}
        return {
            **{f"R@{k}": recall[k] for k in recalls},
            "RSum": math.fsum(recall[k] for k in (1, 5, 10)),
            "MdR": float(np.median(self.expected)),
            "MnR": math.fsum(self.expected.tolist()) / len(self),
            "R@1_optimistic": _mean_percent(self.ahead < 1),
            "R@1_pessimistic": _mean_percent(self.ahead + self.tied < 1),
            "tied_queries": int(np.count_nonzero(self.tied)),
            "nan_queries": int(np.count_nonzero(self.nan)),
            "queries": len(self),
        }


def retrieval_metrics(scores: ArrayLike | Tensor, gold: ArrayLike | Tensor) -> Metrics:
    """Return R@1, R@5, R@10, R@50 (percent), MdR, MnR and more for a matrix of similarities.

    Args:
        scores: [N, M], numpy or tensor; row i scores every item for query i, greater is better.
        gold: int [N], the right item of each query, or bool [N, M], all its right items; then
            the best of them counts.

    Raises UserError for shapes that do not fit, gold out of range and queries without gold. NaN
    scores give a RuntimeWarning.

    >>> retrieval_metrics([[0.9, 0.1], [0.8, 0.3]], [0, 1])["R@1"]
    50.0
    """
    matrix = as_scores(scores)
    ranks = rank(matrix, gold)
    warn_nan(count_nan(matrix), matrix.numel(), ranks)
    return ranks.metrics()


def rank(scores: ArrayLike | Tensor, gold: ArrayLike | Tensor) -> Ranks:
    """Return the ranks of the rows of scores [N, M]; arguments and errors: `retrieval_metrics`."""
    matrix = as_scores(scores)
    return rank_pairs(matrix, *gold_pairs(gold, len(matrix), matrix.shape[1]))


def rank_pairs(matrix: Tensor, rows: Tensor, columns: Tensor) -> Ranks:
    """Return the ranks of the rows of a matrix [N, M] with the right items (row, column), [K].

    A row without a right item gets the last rank.
    """
    rows, columns = rows.to(matrix.device), columns.to(matrix.device)
    values = matrix[rows, columns].to(exact_dtype(matrix.dtype))
    best, ties = best_gold(values, rows, len(matrix))
    return Ranks.from_counts(*count_rows(matrix, best), ties, matrix.shape[1])


def best_gold(values: Tensor, rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the best score [count] per row and how many of its values reach it, int64 [count].

    `values` [K] are the scores of the right items of `rows` [K]. A row without a number has the
    best score NaN, reached by 0.
    """
    number = ~values.isnan()
    rows, values = rows[number], values[number]
    best = values.new_full((count,), -torch.inf).scatter_reduce(0, rows, values, "amax")
    reached = torch.zeros(count, dtype=torch.int64, device=values.device)
    reached.index_add_(0, rows, (values == best[rows]).to(torch.int64))
    return best.masked_fill(reached == 0, torch.nan), reached


def as_scores(scores: ArrayLike | Tensor) -> Tensor:
    """Return the scores as a real tensor [N, M] that shares memory where it can.

    Raises UserError where they are not a matrix of real numbers, or empty.
    """
    matrix = _tensor(scores, "scores")
    if matrix.ndim != 2 or not matrix.numel():
        raise UserError(
            f"scores must be a matrix [queries, items] that is not empty, "
            f"but have the shape {tuple(matrix.shape)}; give one row per query"
        )
    if matrix.is_complex():
        raise UserError("scores must be real numbers, but are complex; give their real part")
    return matrix


def gold_pairs(gold: ArrayLike | Tensor, queries: int, items: int) -> tuple[Tensor, Tensor]:
    """Return the (row, column) of every right item, int64 [K] each, sorted by row.

    Raises UserError where `gold` does not fit [queries, items] or leaves a query without one.
    """
    table = _tensor(gold, "gold")
    if table.dtype == torch.bool and table.shape == (queries, items):
        empty = torch.nonzero(~table.any(1)).flatten()
        if len(empty):
            raise UserError(
                f"{len(empty)} of {queries} queries have no right item in gold "
                f"(first: row {int(empty[0])}); mark one in each row or leave the row out"
            )
        rows, columns = torch.nonzero(table, as_tuple=True)
        return rows, columns
    whole = not (table.is_floating_point() or table.is_complex() or table.dtype == torch.bool)
    if not whole or table.shape != (queries,):
        raise UserError(
            f"gold has the shape {tuple(table.shape)} and type {table.dtype}, but scores are "
            f"[{queries}, {items}]; give one column index per row, integers [{queries}], "
            f"or booleans [{queries}, {items}]"
        )
    columns = table.to(torch.int64)
    outside = torch.nonzero((columns < 0) | (columns >= items)).flatten()
    if len(outside):
        first = int(outside[0])
        raise UserError(
            f"gold[{first}] is {int(columns[first])}, but columns go from 0 to {items - 1}; "
            "give each row the index of its right column"
        )
    return torch.arange(queries, device=columns.device), columns


def warn_nan(nan_scores: int, pairs: int, *ranks: Ranks) -> None:
    """Warn (RuntimeWarning) where scores are NaN, saying how many queries that costs."""
    if nan_scores:
        lost = sum(int(np.count_nonzero(direction.nan)) for direction in ranks)
        total = sum(len(direction) for direction in ranks)
        warnings.warn(
            f"{nan_scores} of {pairs} scores are NaN and count as the worst; the right item of "
            f"{lost} of {total} queries has none, so they count as misses",
            RuntimeWarning,
            stacklevel=3,
        )


def _tensor(values: ArrayLike | Tensor, name: str) -> Tensor:
    """Return the values as a tensor; torch knows no foreign byte order and no negative stride."""
    if isinstance(values, Tensor):
        return values.detach()
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise UserError(
            f"the rows of {name} differ in length; give all rows as many values"
        ) from error
    if array.dtype.kind not in "biuf":
        raise UserError(f"{name} must hold real numbers, but holds {array.dtype}; convert it")
    dtype = array.dtype.newbyteorder("=")
    if array.dtype.itemsize > 8 or array.dtype == np.uint64:
        dtype = np.dtype(np.float64)
    elif array.dtype.kind == "u":
        dtype = np.dtype(np.int64)
    usable = array.flags.writeable and all(step >= 0 for step in array.strides)
    return torch.from_numpy(array.astype(dtype, copy=not usable))


def _draw(slots: Ints, tied: Ints, gold: Ints) -> Floats:
    """Return the chance that `slots` draws from tied + gold items meet at least one gold."""
    miss = np.ones(len(slots))
    for drawn in range(int(slots.max())):
        wrong_left = np.maximum(tied - drawn, 0)
        left = np.maximum(tied + gold - drawn, 1)
        miss *= np.where(drawn < slots, wrong_left / left, 1.0)
    return 1.0 - miss


def _mean_percent(shares: NDArray[Any]) -> float:
    """Return the mean in percent; an exact sum, so the order of the queries cannot show."""
    return 100 * math.fsum(shares.tolist()) / len(shares)
