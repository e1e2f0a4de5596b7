"""A gallery as a FAISS index, and back; needs the extra `search`.

An index of kind flat holds the vectors themselves, and comes back as a `Gallery`. One of kind hnsw
is approximate: what it misses is measured against the exact search when it is written, and an
evaluation refuses it.

Q queries, M items, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor

from tvr_bench.errors import UserError
from tvr_bench.evaluation.search import Gallery, Searcher
from tvr_bench.files import atomic_path, atomic_write, file_sha256

KINDS = ("flat", "hnsw")
_LINKS, _BUILD_WIDTH, _SEARCH_WIDTH = 32, 80, 128  # of a graph: more is slower and misses less
_SAMPLE = 200  # queries that the recall is measured with


class Side(BaseModel):
    """What a JSON file beside an index says; `recall` is the part of the k best that it finds."""

    kind: str
    sha256: str
    recall: float
    k: int
    queries: int
    ids: list[str]


@dataclass(frozen=True)
class FaissSearcher:
    """An approximate index with the signature of `Gallery.search`."""

    index: Any
    ids: Sequence[str]
    exact: bool = False

    def positions(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Return scores [Q, K] and positions [Q, K], best first; -1 where none was found.

        K is k, or M where that is less. Raises UserError for queries of another width or k below 1.
        """
        if queries.ndim != 2 or queries.shape[1] != self.index.d or k < 1:
            raise UserError(
                f"queries {tuple(queries.shape)} with k={k} do not fit an index of width "
                f"{self.index.d}; give [Q, {self.index.d}] and k >= 1"
            )
        vectors = queries.detach().to("cpu", torch.float32).contiguous().numpy()
        scores, found = self.index.search(vectors, min(k, self.index.ntotal))
        return torch.from_numpy(scores), torch.from_numpy(found)


def write_faiss(
    gallery: Gallery,
    path: Path | str,
    kind: str = "flat",
    queries: Tensor | None = None,
    k: int = 10,
) -> Side:
    """Write a gallery as a FAISS index and a JSON file beside it; return what that file says.

    The recall of the k best is measured on 200 of the `queries` [Q, D], or of the gallery's own
    vectors where there are none. Raises UserError for an unknown kind, without FAISS, and for
    vectors that FAISS cannot compare.
    """
    path = Path(path)
    if kind not in KINDS:
        raise UserError(f"an index of kind {kind} is unknown; use {' or '.join(KINDS)}")
    if len(gallery.coarse.odd):
        raise UserError(
            f"{len(gallery.coarse.odd)} vectors are no numbers or far too long for FAISS; remove "
            f"them, the first is {gallery.ids[int(gallery.coarse.odd[0])]}"
        )
    faiss, width = _faiss(), gallery.vectors.shape[1]
    if kind == "flat":
        index = faiss.IndexFlatIP(width)
    else:
        index = faiss.IndexHNSWFlat(width, _LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction, index.hnsw.efSearch = _BUILD_WIDTH, _SEARCH_WIDTH
    index.add(gallery.vectors.numpy())
    asked = gallery.vectors if queries is None else queries
    asked = asked[:: max(1, len(asked) // _SAMPLE)][:_SAMPLE]
    recall = recall_of(FaissSearcher(index, gallery.ids), gallery, asked, k)
    with atomic_path(path) as temporary:
        faiss.write_index(index, str(temporary))
    side = Side(
        kind=kind,
        sha256=file_sha256(path),
        recall=recall,
        k=k,
        queries=len(asked),
        ids=list(gallery.ids),
    )
    atomic_write(_side(path), side.model_dump_json())
    return side


def read_faiss(path: Path | str) -> Gallery | FaissSearcher:
    """Return the searcher of an index that `write_faiss` wrote: a `Gallery` where it is flat.

    Raises UserError where there is none, it is damaged, or it does not compare by dot products.
    """
    faiss, path = _faiss(), Path(path)
    try:
        side = Side.model_validate_json(_side(path).read_bytes())
        if file_sha256(path) != side.sha256:
            raise UserError(f"{path} is not what was written; write the index again")
        index = faiss.read_index(str(path))
    except (OSError, RuntimeError, ValidationError) as error:
        raise UserError(f"{path} cannot be read as an index; write it again") from error
    if index.metric_type != faiss.METRIC_INNER_PRODUCT or index.ntotal != len(side.ids):
        raise UserError(f"{path} is no index of dot products with an id each; write it again")
    if side.kind == "flat":
        return Gallery.build(torch.from_numpy(index.reconstruct_n(0, index.ntotal)), side.ids)
    return FaissSearcher(index, side.ids)


def recall_of(searcher: Searcher, gallery: Gallery, queries: Tensor, k: int) -> float:
    """Return the part of the k best items of all queries [Q, D] that a searcher finds."""
    _, found = searcher.positions(queries, k)
    _, right = gallery.positions(queries, k)
    hits = sum(
        len({*mine} & {*best}) for mine, best in zip(found.tolist(), right.tolist(), strict=True)
    )
    return hits / right.numel()


def _side(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise UserError(
            "FAISS is not installed; get it by: python -m pip install faiss-cpu"
        ) from error
    return faiss
