"""Vectors as whole numbers of 8 bits, and how far their dot products can be from the true ones.

Row i is about `step[i] * values[i]`, after all vectors were turned by one orthogonal matrix: a turn
keeps dot products, and no component stands out any more, so that 8 bits serve all of them. By
Cauchy and Schwarz a product of two such rows misses the true one by at most
|q| |v - v'| + |q - q'| |v'|, and the lengths of both differences are known. Products of whole
numbers are exact, so nothing else is lost but what rounding takes.

n vectors, Q queries, D width, P pairs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

_PEAK = 127
_ROWS = 4096  # vectors changed at once
_LARGEST = 1e18  # the product of two lengths must be far from the end of float32
_TINY = 1e-30  # a step below has lost digits of its own
_FLOOR = 1e-33  # more than is lost where numbers come near the smallest of float32
_EPS = 2.0**-24  # the rounding of one operation
_SLACK = 32 * _EPS  # of the few operations around a product
_WIDEST_TURN = 2048  # a wider matrix takes too long to make
_WIDEST = 2**31 // _PEAK**2  # up to which a sum of products fits 32 bits
_SAMPLE = (256, 512, 2048)  # queries, width and vectors of the trial


@dataclass(frozen=True)
class Coarse:
    """Vectors [n, D] in 8 bits: `values` int8 [n, D] and `step` float32 [n].

    `norm` is the length of each vector and `error` that of what the 8 bits miss, float32 [n], not
    too small. `odd` int64 are the positions of vectors whose products may overflow or are no
    numbers: their rows are 0, and bound nothing.
    """

    values: Tensor
    step: Tensor
    norm: Tensor
    error: Tensor
    odd: Tensor


def make_turn(width: int) -> Tensor | None:
    """Return an orthogonal matrix [D, D], float32; None where D is so large that it takes long."""
    if width > _WIDEST_TURN:
        return None
    chance = torch.Generator().manual_seed(0)
    square = torch.randn(width, width, generator=chance, dtype=torch.float64)
    turn: Tensor = torch.linalg.qr(square).Q
    return turn.float()


def quantise(vectors: Tensor, turn: Tensor | None) -> Coarse:
    """Return vectors [n, D], float32, in 8 bits after the turn [D, D], if there is one."""
    parts = [_quantise(part, turn) for part in vectors.split(_ROWS)]
    values, step, norm, error, odd = (torch.cat(part) for part in zip(*parts, strict=True))
    return Coarse(values, step, norm, error, odd.nonzero().flatten())


def _quantise(
    vectors: Tensor, turn: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    norm = torch.linalg.vector_norm(vectors, dim=1, dtype=torch.float64)
    odd = ~bounded(norm)
    if odd.any():
        vectors, norm = vectors.masked_fill(odd[:, None], 0.0), norm.masked_fill(odd, 0.0)
    turned = vectors.clone() if turn is None else vectors @ turn
    step = turned.abs().amax(dim=1) / _PEAK
    step[step < _TINY] = 0.0
    values = (turned / step.masked_fill(step == 0, torch.inf)[:, None]).round_()
    values.clamp_(-_PEAK, _PEAK)
    missed = turned.addcmul_(values, step[:, None], value=-1)
    error = torch.linalg.vector_norm(missed, dim=1, dtype=torch.float64) * (1 + _SLACK)
    width = vectors.shape[1]
    error += norm * (_SLACK + (0.0 if turn is None else _summing(width) * width**0.5))
    return values.to(torch.int8), step, (norm * (1 + _SLACK)).float(), error.float(), odd


def bounded(norm: Tensor) -> Tensor:
    """Return which vectors, by their lengths [n], have products that the bounds below hold for."""
    return norm <= _LARGEST  # NaN is not


def item_share(queries: Coarse, items: Coarse, unit: Tensor, rough: bool) -> Tensor:
    """Return what the 8 bits of each item can add to its score for any query, float32 [n].

    It is in the units float64 [Q] of the queries' scores, and 0 for scores in float32.
    """
    if not rough:
        return torch.zeros_like(items.error)
    return items.error * float((queries.norm.double() / unit).max() * (1 + 2 * _SLACK))


def query_error(queries: Coarse, items: Coarse, block: slice, rough: bool) -> Tensor:
    """Return the largest error of each query's products with a block, but for the items' shares.

    float64 [Q]. `rough` is for products of the 8 bits, else of the float32 vectors, summed in any
    order.
    """
    norm, miss = items.norm[block].max().double(), items.error[block].max().double()
    width = items.values.shape[1]
    error = _rounding(queries.norm.double(), norm, width, rough)
    return error + _missed(queries.error.double(), norm + miss) if rough else error


def pair_error(
    queries: Coarse, items: Coarse, rows: Tensor, positions: Tensor, rough: bool
) -> Tensor:
    """Return the largest error of the product of each pair of a query and an item, float64 [P]."""
    norm = queries.norm.index_select(0, rows).double()
    item_norm = items.norm.index_select(0, positions).double()
    error = _rounding(norm, item_norm, items.values.shape[1], rough)
    if rough:
        item_miss = items.error.index_select(0, positions).double()
        miss = queries.error.index_select(0, rows).double()
        error += _missed(norm, item_miss) + _missed(miss, item_norm + item_miss)
    return error


def _missed(norm: Tensor, miss: Tensor) -> Tensor:
    return norm * miss * (1 + _SLACK)


def _rounding(norm: Tensor, item_norm: Tensor, width: int, rough: bool) -> Tensor:
    slack = _SLACK + (4 if rough else 1) * _summing(width)
    return slack * norm * item_norm + _FLOOR * (1 + norm + item_norm)


def _summing(width: int) -> float:
    """Return what a float32 dot product can miss, as a part of the product of both lengths."""
    return 1.02 * width * _EPS


@cache
def is_fast() -> bool:
    """Return whether products of 8 bits are right on this machine, and quicker than of float32."""
    queries, width, items = _SAMPLE
    left = torch.full((queries, width), -_PEAK, dtype=torch.int8)
    right = torch.full((items, width), _PEAK, dtype=torch.int8)
    right[::2] = -_PEAK
    wide, tall = left.float(), right.float()
    try:
        found = torch._int_mm(left, right.T)
    except (AttributeError, RuntimeError):  # this torch or this machine has none
        return False
    if not torch.equal(found, (wide @ tall.T).to(torch.int32)):
        return False
    return _seconds(lambda: torch._int_mm(left, right.T)) < _seconds(lambda: wide @ tall.T)


def _seconds(work: Callable[[], Tensor]) -> float:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def fits(width: int) -> bool:
    """Return whether the sum of `width` products of 8 bits fits 32 bits."""
    return width < _WIDEST
