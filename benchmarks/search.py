"""Exact search over a large gallery against FAISS: table S1 (stage one of a search).

Run: `.venv/bin/python benchmarks/search.py [--small]`; needs `pip install tvr-bench[search]`.

Unit vectors of a fixed seed, D = 512. Agreement is the set of the 50 best of every query; where the
sets differ the script stops, unless the two items are level within the rounding of FAISS's own
float32 sums. A query alone is measured on a gallery that was saved and opened, memory-mapped.
Recall of the graph is measured against the exact search.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from harness import Row, alone, arguments, duel, peak_mb, roofs, save
from torch import Tensor

from tvr_bench.evaluation.faiss_index import write_faiss
from tvr_bench.evaluation.search import Gallery

D, K = 512, 50
LEVEL = 1e-6  # what two sums of float32 of the same unit vectors can differ by
SINGLE_MS = 60.0  # of one query over a million vectors, on two threads
WARM_UP, SINGLE = 5, 60  # single queries


def main() -> None:
    options = arguments(__doc__)
    import faiss

    faiss.omp_set_num_threads(options.threads)
    rows = [batch(options, faiss), single(options), graph(options, faiss)]
    save("search", rows, options)


def unit_vectors(count: int, seed: int) -> Tensor:
    vectors = torch.empty(count, D)
    chance = torch.Generator().manual_seed(seed)
    for part in vectors.split(50_000):
        part.copy_(F.normalize(torch.randn(part.shape, generator=chance), dim=1))
    return vectors


@cache
def gallery_of(count: int) -> Gallery:
    return Gallery.build(unit_vectors(count, 0))


def batch(options: argparse.Namespace, faiss: Any) -> Row:
    """Compare 1,000 queries at once with IndexFlatIP."""
    items, asked = (20_000 if options.small else 100_000), 1_000
    gallery, queries = gallery_of(items), unit_vectors(asked, 1)
    index = faiss.IndexFlatIP(D)
    index.add(gallery.vectors.numpy())
    table = queries.numpy()
    level = differences(
        gallery,
        queries,
        gallery.positions(queries, K)[1],
        torch.from_numpy(index.search(table, K)[1]),
    )
    agreement = f"sets of the {K} best equal for all {asked:,} queries" + (
        f", but for {level} where two items are level in float32" if level else ""
    )
    print(agreement, flush=True)
    found = duel(
        lambda: index.search(table, K), lambda: gallery.positions(queries, K), options.repeats
    )
    gemm_ms = 2e-6 * asked * items * D / roofs()["gemm_fp32_gflops"]
    return Row(
        id="S1",
        what=f"{asked:,} queries x {items:,} x {D}, top {K}",
        peer=f"faiss {faiss.__version__} IndexFlatIP",
        agreement=agreement,
        duel=found,
        goal=None if options.small else 1.3,
        roof=gemm_ms / found.ours.median_ms,
        memory_mb=(peak_mb("search:faiss_memory", items), peak_mb("search:our_memory", items)),
        note="the roof is the bare fp32 GEMM; products of 8 bits can pass it",
    )


def differences(gallery: Gallery, queries: Tensor, ours: Tensor, theirs: Tensor) -> int:
    """Return in how many queries the sets differ by level items; stop where by others."""
    count = 0
    for row, (mine, its) in enumerate(zip(ours.tolist(), theirs.tolist(), strict=True)):
        only = [sorted({*mine} - {*its}), sorted({*its} - {*mine})]
        if only[0]:
            scores = [gallery.vectors[part].double() @ queries[row].double() for part in only]
            if float(scores[1].max() - scores[0].min()) > LEVEL or len(only[0]) != len(only[1]):
                raise SystemExit(f"query {row}: FAISS finds {only[1]}, ours finds {only[0]}")
            if float(scores[0].min() - scores[1].max()) > LEVEL:
                raise SystemExit(f"query {row}: FAISS misses {only[0]}")
            count += 1
    return count


def single(options: argparse.Namespace) -> Row:
    """Measure one query after another over a gallery that is memory-mapped."""
    items = 20_000 if options.small else 1_000_000
    queries = unit_vectors(WARM_UP + SINGLE, 2)
    with tempfile.TemporaryDirectory() as folder:
        Gallery.build(unit_vectors(items, 0)).save(Path(folder) / "gallery")
        gallery = Gallery.open(Path(folder) / "gallery")
        agreement = checked(gallery, queries[:5])
        print(agreement, flush=True)
        times = []
        for query in queries.split(1):
            start = time.perf_counter()
            gallery.positions(query, 10)
            times.append(1000 * (time.perf_counter() - start))
        timed = alone(lambda: gallery.positions(queries[:1], 10), options.repeats)
    spread = torch.tensor(times[WARM_UP:])
    p50, p95 = (float(spread.quantile(part)) for part in (0.5, 0.95))
    return Row(
        id="S2",
        what=f"one query x {items:,} x {D}, top 10, memory-mapped",
        agreement=agreement,
        duel=timed,
        figures={"p50 ms": p50, "p95 ms": p95, "queries": SINGLE},
        at_most={} if options.small else {"p95 ms": (p95, SINGLE_MS)},
    )


def checked(gallery: Gallery, queries: Tensor) -> str:
    """Return what was compared with all float64 products, of a few queries; stop where it fails."""
    for row, found in enumerate(gallery.positions(queries, 10)[1]):
        exact = [part.double() @ queries[row].double() for part in gallery.vectors.split(50_000)]
        best = torch.cat(exact).float().sort(descending=True, stable=True).indices[:10]
        if not torch.equal(best, found):
            raise SystemExit(f"query {row}: float64 finds {best.tolist()}, ours {found.tolist()}")
    return f"the 10 best in their order equal to float64 for {len(queries)} queries"


def graph(options: argparse.Namespace, faiss: Any) -> Row:
    """Measure what an HNSW index misses, and its time beside the exact search of one query."""
    items = 5_000 if options.small else 20_000
    gallery = Gallery.build(unit_vectors(items, 0))
    queries = unit_vectors(200, 1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.faiss"
        start = time.perf_counter()
        side = write_faiss(gallery, path, "hnsw", queries, K)
        build_s = time.perf_counter() - start
        index = faiss.read_index(str(path))
    one, table = queries[:1], queries[:1].numpy()
    return Row(
        id="S3",
        what=f"one query x {items:,} x {D}, top {K}: exact against a graph that misses items",
        peer=f"faiss {faiss.__version__} IndexHNSWFlat, efSearch {index.hnsw.efSearch}",
        agreement=f"none: it finds {100 * side.recall:.1f} % of the {K} best",
        duel=duel(
            lambda: index.search(table, K), lambda: gallery.positions(one, K), options.repeats
        ),
        figures={"recall": side.recall, "build s": build_s},
        note="random vectors, the hardest case for a graph; an evaluation refuses it",
    )


def our_memory(items: int) -> Any:
    gallery, queries = Gallery.build(unit_vectors(items, 0)), unit_vectors(1_000, 1)
    return lambda: gallery.positions(queries, K)


def faiss_memory(items: int) -> Any:
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    index, queries = faiss.IndexFlatIP(D), unit_vectors(1_000, 1).numpy()
    index.add(unit_vectors(items, 0).numpy())
    return lambda: index.search(queries, K)


if __name__ == "__main__":
    main()
