"""Exact search: the k items of a gallery with the greatest dot products, for each query.

A score is the dot product in float64, rounded to float32: it depends on its own pair alone, not on
the size of a block, the number of threads or the way it was found. Of equal scores the item that
comes first in the gallery is better, and NaN stands behind all numbers.

A first pass computes all products in 8 bits where the machine is quick at them, else in float32,
and keeps the items that can be among the k best by the certain bounds of `coarse`. Of these, few
are left once the likeliest have their true scores. Galleries in which very many items have almost
the same score are searched as exactly, but slowly.

Q queries, M items of the gallery, D width, R queries of one pass, P pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from tvr_bench.errors import UserError
from tvr_bench.evaluation.coarse import Coarse, bounded, fits, is_fast, make_turn, quantise
from tvr_bench.evaluation.first_pass import full_precision
from tvr_bench.evaluation.search_pass import HELD, Pass, best_of_all, from_keys

Rows: TypeAlias = "Tensor | np.ndarray[Any, Any] | Sequence[Any]"  # vectors, one a row
PRECISIONS = ("auto", "int8", "float32")
_QUERIES, _LEAST = 256, 32  # searched at once by one thread, at most and where there are as many


def as_rows(vectors: Rows) -> Tensor:
    """Return vectors as a float tensor; raises UserError for what holds no numbers."""
    try:
        if isinstance(vectors, (list, tuple)):
            vectors = np.asarray([np.asarray(row) for row in vectors], dtype=np.float32)
        made = torch.as_tensor(vectors)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"these are no vectors ({reason}); give [n, D] numbers") from error
    if made.dtype == torch.bool or made.is_complex():
        raise UserError(f"vectors of {made.dtype} are impossible; give [n, D] real numbers")
    return made if made.is_floating_point() else made.float()


class Searcher(Protocol):
    """What finds the best items of queries."""

    @property
    def exact(self) -> bool:
        """False where it may miss some."""
        ...

    @property
    def ids(self) -> Sequence[str]:
        """The M items' ids."""
        ...

    def positions(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Return scores [Q, k] and positions [Q, k], best first."""
        ...


def require_exact(searcher: Searcher) -> None:
    """Raise UserError where a searcher may miss items, so that its ranks would be no ranks."""
    if not searcher.exact:
        raise UserError(
            f"{type(searcher).__name__} may miss the best items, so metrics of it would not be "
            "the model's; evaluate with an exact search"
        )


@dataclass(frozen=True)
class Gallery:
    """M vectors that are searched exactly, with their ids."""

    vectors: Tensor
    ids: Sequence[str]
    coarse: Coarse
    turn: Tensor | None
    exact: bool = True

    @classmethod
    def build(cls, vectors: Rows, ids: Sequence[str] | None = None) -> Gallery:
        """Return the gallery of vectors [M, D]; without `ids` an item's is its position.

        Vectors, here and in a search, are a tensor, a NumPy array or lists of numbers.

        Raises UserError where there are no vectors, or not one id of its own for each.
        """
        vectors = as_rows(vectors)
        if vectors.ndim != 2 or not vectors.numel():
            raise UserError(f"a gallery of the shape {tuple(vectors.shape)} is empty; give [M, D]")
        names = [str(i) for i in range(len(vectors))] if ids is None else list(map(str, ids))
        if len(names) != len(vectors) or len(set(names)) != len(names):
            raise UserError(
                f"{len(set(names))} different ids for {len(vectors)} vectors; give each its own"
            )
        vectors = vectors.detach().to("cpu", torch.float32).contiguous()
        turn = make_turn(vectors.shape[1])
        with torch.inference_mode(), _plain_products():
            return cls(vectors, names, quantise(vectors, turn), turn)

    @classmethod
    def open(cls, folder: Path | str) -> Gallery:
        """Return the gallery that `save` wrote, memory-mapped.

        Raises UserError where there is none, or its files are damaged.
        """
        from tvr_bench.evaluation.gallery_files import read_gallery

        return cls(*read_gallery(Path(folder)))

    def save(self, folder: Path | str) -> None:
        """Write the gallery to a new folder.

        Raises UserError where something is there already, or it cannot be written.
        """
        from tvr_bench.evaluation.gallery_files import write_gallery

        write_gallery(Path(folder), self.vectors, self.ids, self.coarse, self.turn)

    def search(self, queries: Rows, k: int) -> tuple[Tensor, list[list[str]]]:
        """Return scores, float32 [Q, K], and the ids of the items, best first; see `positions`."""
        scores, positions = self.positions(queries, k)
        return scores, [[self.ids[i] for i in row] for row in positions.tolist()]

    def positions(self, queries: Rows, k: int, precision: str = "auto") -> tuple[Tensor, Tensor]:
        """Return scores, float32 [Q, K], and positions, int64 [Q, K], best first.

        K is k, or M where that is less. `precision` is that of the first pass and changes no
        result. Raises UserError for queries of another width, k below 1 and unknown precisions.
        """
        queries = as_rows(queries)
        self._check(queries, k, precision)
        queries = queries.detach().to("cpu", torch.float32).contiguous()
        k, width = min(k, len(self.vectors)), self.vectors.shape[1]
        rough = precision == "int8" or (precision == "auto" and fits(width) and is_fast())
        norm = torch.linalg.vector_norm(queries, dim=1, dtype=torch.float64)
        usual = bounded(norm) & (norm > 0)  # all items are level for a query of zeros
        keys = torch.empty(len(queries), k, dtype=torch.int64)

        def walk(rows: Tensor) -> None:
            with torch.inference_mode(), _plain_products():  # each thread has its own modes
                part = queries[rows]
                coarse = quantise(part, self.turn)
                keys[rows] = Pass(self.vectors, self.coarse, part, coarse, k, rough).run()

        for row in torch.nonzero(~usual).flatten().tolist():
            keys[row] = best_of_all(self.vectors, queries[row], k)
        rows = torch.nonzero(usual).flatten()
        share = max(_LEAST, math.ceil(len(rows) / torch.get_num_threads()))
        room = max(1, HELD // max(k, len(self.coarse.odd)))  # that many pairs a query holds at once
        if len(rows):
            _in_threads(walk, rows.split(min(_QUERIES, share, room)))
        return from_keys(keys)

    def _check(self, queries: Tensor, k: int, precision: str) -> None:
        width = self.vectors.shape[1]
        if queries.ndim != 2 or queries.shape[1] != width:
            raise UserError(
                f"queries of the shape {tuple(queries.shape)} do not fit vectors of width {width}; "
                f"give [Q, {width}]"
            )
        if k < 1:
            raise UserError(f"k={k} is impossible; it must be >= 1")
        if precision not in PRECISIONS or (precision == "int8" and not fits(width)):
            raise UserError(
                f"precision={precision} is impossible for width {width}; use auto or float32"
            )


def _in_threads(work: Callable[[Tensor], None], parts: Sequence[Tensor]) -> None:
    """Do the work of all parts: of one with torch's threads, of several with one thread each."""
    threads = torch.get_num_threads()
    if threads == 1 or len(parts) < 2:
        for part in parts:
            work(part)
        return
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            list(pool.map(work, parts))
    finally:
        torch.set_num_threads(threads)  # else threads that are made later have one too


@contextmanager
def _plain_products() -> Iterator[None]:
    """Let products of float32 be made in float32, as the bounds take for granted."""
    with full_precision(), torch.autocast("cpu", enabled=False):
        yield
