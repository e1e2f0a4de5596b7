"""Exact search against float64 by brute force, in every way it can be carried out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tvr_bench.errors import UserError
from tvr_bench.evaluation import coarse, search, search_pass
from tvr_bench.evaluation.coarse import Coarse, make_turn, pair_error, quantise
from tvr_bench.evaluation.search import Gallery, require_exact

PATHS = ("int8", "float32")


def slow_search(queries: Tensor, vectors: Tensor, k: int) -> tuple[list[Any], list[list[int]]]:
    """All scores by exact sums of exact products, sorted as a whole; NaN as None."""
    scores, positions = [], []
    for query in queries.double().tolist():
        row = [_score(query, item) for item in vectors.double().tolist()]
        rank = [math.inf if math.isnan(score) else -score for score in row]
        order = sorted(range(len(row)), key=lambda i: (math.isnan(row[i]), rank[i], i))[:k]
        positions.append(order)
        scores.append([None if math.isnan(row[i]) else row[i] for i in order])
    return scores, positions


def _score(query: list[float], item: list[float]) -> float:
    products = [a * b for a, b in zip(query, item, strict=True)]
    if all(map(math.isfinite, products)):
        with np.errstate(over="ignore"):
            return float(np.float32(math.fsum(products)))
    return float(np.float32(sum(products)))


def found_by(gallery: Gallery, queries: Tensor, k: int, **how: Any) -> tuple[list[Any], list[Any]]:
    scores, positions = gallery.positions(queries, k, **how)
    assert scores.dtype == torch.float32 and positions.dtype == torch.int64
    numbers = [[None if s != s else s for s in row] for row in scores.tolist()]
    return numbers, positions.tolist()


def problem(seed: int, queries: int, items: int, width: int, kind: str) -> tuple[Tensor, Tensor]:
    chance = torch.Generator().manual_seed(seed)
    asked = torch.randn(queries, width, generator=chance)
    vectors = torch.randn(items, width, generator=chance)
    if kind == "ties":
        asked, vectors = asked.round(), vectors.round()
    if kind == "close":  # all items almost the same
        vectors = vectors[:1] + 1e-7 * vectors
    if kind == "twins":
        vectors = vectors[torch.randint(0, max(1, items // 3), (items,), generator=chance)]
    if kind == "lengths":
        vectors *= 10.0 ** torch.randint(-20, 18, (items, 1), generator=chance)
        asked *= 10.0 ** torch.randint(-30, 17, (queries, 1), generator=chance)
    if kind == "odd":
        strange = torch.tensor([math.nan, math.inf, -math.inf, 3e38, 1e-42, 0.0])
        for table in (asked, vectors):
            mask = torch.rand(table.shape, generator=chance) < 0.3 / width
            picks = strange[torch.randint(0, len(strange), table.shape, generator=chance)]
            table[mask] = picks[mask]
        share = torch.rand(1, generator=chance)
        vectors[torch.rand(items, generator=chance) < share] = math.nan
    return asked, vectors


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Blocks so small that a few items need all that many items need."""
    monkeypatch.setattr(search_pass, "_CELLS", 24)
    monkeypatch.setattr(search_pass, "HELD", 40)
    monkeypatch.setattr(search, "HELD", 40)
    monkeypatch.setattr(search_pass, "_ROWS", 5)
    monkeypatch.setattr(search, "_QUERIES", 3)
    yield


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("kind", ["plain", "ties", "close", "twins", "lengths", "odd"])
@pytest.mark.parametrize("path", PATHS)
def test_every_search_equals_brute_force(kind: str, path: str) -> None:
    @settings(max_examples=30)
    @given(
        seed=st.integers(0, 2**32 - 1),
        queries=st.integers(1, 7),
        items=st.integers(1, 60),
        width=st.integers(1, 9),
        k=st.sampled_from([1, 2, 5, 17, 100]),
    )
    def check(seed: int, queries: int, items: int, width: int, k: int) -> None:
        asked, vectors = problem(seed, queries, items, width, kind)
        found = found_by(Gallery.build(vectors), asked, k, precision=path)
        assert found == slow_search(asked, vectors, k)

    check()


@pytest.mark.parametrize("k", [1, 10, 300])
def test_large_galleries_equal_all_float64_products(k: int) -> None:
    asked, vectors = problem(3, 300, 9000, 48, "plain")
    exact = (asked.double() @ vectors.double().T).float()
    order = exact.argsort(dim=1, descending=True, stable=True)[:, :k]
    gallery = Gallery.build(vectors)
    for path in PATHS:
        scores, positions = gallery.positions(asked, k, path)
        assert torch.equal(positions, order), path
        assert torch.equal(scores, exact.gather(1, order))


def test_threads_blocks_and_precision_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, vectors = problem(5, 70, 1500, 33, "plain")
    vectors[::7] = vectors[3]
    gallery = Gallery.build(vectors)
    expected = gallery.positions(asked, 40, "float32")
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        for cells in (2**11, 2**19):
            monkeypatch.setattr(search_pass, "_CELLS", cells)
            for path in ("auto", *PATHS):
                found = gallery.positions(asked, 40, path)
                assert all(map(torch.equal, found, expected)), (threads, cells, path)
        with ThreadPoolExecutor(1) as another:  # has the threads that are set for all
            assert another.submit(torch.get_num_threads).result() == threads
    one = [gallery.positions(asked[i : i + 1], 40) for i in range(len(asked))]
    assert torch.equal(torch.cat([scores for scores, _ in one]), expected[0])
    assert torch.equal(torch.cat([positions for _, positions in one]), expected[1])


def test_modes_of_the_caller_change_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, vectors = problem(6, 60, 2000, 64, "plain")
    gallery, products = Gallery.build(vectors), torch.backends.mkldnn.matmul
    before = products.fp32_precision
    expected = gallery.positions(asked, 50)
    seen: list[str] = []

    def spied(*parts: Any) -> Coarse:
        seen.append(products.fp32_precision)
        return quantise(*parts)

    monkeypatch.setattr(search, "quantise", spied)
    try:
        products.fp32_precision = "bf16"
        with torch.autocast("cpu", torch.bfloat16):
            for path in PATHS:
                assert all(map(torch.equal, gallery.positions(asked, 50, path), expected))
        assert products.fp32_precision == "bf16"
        assert seen and {*seen} == {"ieee"}
    finally:
        products.fp32_precision = before
    scores, _ = gallery.positions(asked.requires_grad_(), 50)
    assert not scores.requires_grad and not scores.is_inference()


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    width=st.sampled_from([1, 2, 31, 512]),
    kind=st.sampled_from(["plain", "ties", "lengths", "peak"]),
    turned=st.booleans(),
)
def test_the_bounds_hold_and_are_narrow(seed: int, width: int, kind: str, turned: bool) -> None:
    asked, vectors = problem(seed, 5, 40, width, kind)
    if kind == "peak":  # one component far above the others, as embeddings of CLIP have
        vectors[:, 0] += 30
    turn = make_turn(width) if turned else None
    queries, items = quantise(asked, turn), quantise(vectors, turn)
    usual = torch.ones(40).index_fill(0, items.odd, 0.0).bool()
    rows, positions = torch.nonzero(usual.repeat(5, 1), as_tuple=True)
    true = (asked.double() @ vectors.double().T)[rows, positions]
    rough = (_restored(queries) @ _restored(items).T)[rows, positions]
    fine = (asked @ vectors.T).double()[rows, positions]
    wide = pair_error(queries, items, rows, positions, True)
    narrow = pair_error(queries, items, rows, positions, False)
    assert ((rough - true).abs() <= wide).all() and ((fine - true).abs() <= narrow).all()
    norm, item_norm = queries.norm[rows].double(), items.norm[positions].double()
    assert (narrow <= 1e-4 * norm * item_norm + 1e-32 * (1 + norm + item_norm)).all()
    if turned and width == 512 and kind in ("plain", "peak"):
        assert (wide <= 0.03 * norm * item_norm).all()  # 8 bits are worth something


def _restored(part: Coarse) -> Tensor:
    return part.values.double() * part.step.double()[:, None]


def test_a_score_is_the_same_whatever_is_scored_with_it() -> None:
    query, vectors = problem(8, 1, 70, 513, "plain")
    scores, items = Gallery.build(vectors).positions(query, 70)
    together = torch.empty(70).scatter(0, items[0], scores[0])
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for size in range(1, 70):
            scores, items = Gallery.build(vectors[:size]).positions(query, size)
            assert torch.equal(scores[0], together[items[0]])


def test_a_machine_without_whole_number_products_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, vectors = problem(9, 4, 90, 16, "plain")
    expected = Gallery.build(vectors).positions(asked, 5)
    monkeypatch.delattr(torch, "_int_mm")
    coarse.is_fast.cache_clear()
    try:
        assert not coarse.is_fast()
        assert all(map(torch.equal, Gallery.build(vectors).positions(asked, 5), expected))
    finally:
        coarse.is_fast.cache_clear()


def test_wrong_products_of_whole_numbers_are_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch._int_mm
    monkeypatch.setattr(torch, "_int_mm", lambda a, b: real(a, b).clamp(-(2**15), 2**15 - 1))
    coarse.is_fast.cache_clear()
    try:
        assert not coarse.is_fast()
    finally:
        coarse.is_fast.cache_clear()


def test_what_cannot_be_searched_is_said() -> None:
    gallery = Gallery.build(torch.randn(5, 4))
    for queries, k, path in (
        (torch.randn(2, 3), 1, "auto"),
        (torch.randn(4), 1, "auto"),
        (torch.randn(2, 4), 0, "auto"),
        (torch.randn(2, 4), 1, "bf16"),
    ):
        with pytest.raises(UserError):
            gallery.positions(queries, k, path)
    for vectors, ids in (
        (torch.empty(0, 4), None),
        (torch.empty(4, 0), None),
        (torch.randn(4), None),
        (torch.randn(2, 4), ["a"]),
        (torch.randn(2, 4), ["a", "a"]),
    ):
        with pytest.raises(UserError):
            Gallery.build(vectors, ids)
    scores, positions = gallery.positions(torch.empty(0, 4), 3)
    assert scores.shape == positions.shape == (0, 3)


def test_a_search_that_may_miss_items_is_refused() -> None:
    gallery = Gallery.build(torch.randn(5, 4))
    require_exact(gallery)
    with pytest.raises(UserError, match="exact search"):
        require_exact(Gallery(**{**gallery.__dict__, "exact": False}))


def test_a_gallery_comes_back_from_its_folder(tmp_path: Path) -> None:
    asked, vectors = problem(11, 6, 200, 20, "odd")
    gallery = Gallery.build(vectors, [f"clip-{i}" for i in range(200)])
    gallery.save(tmp_path / "gallery")
    again = Gallery.open(tmp_path / "gallery")
    assert again.ids == gallery.ids
    assert found_by(again, asked, 9) == found_by(gallery, asked, 9)
    with pytest.raises(UserError, match="there already"):
        gallery.save(tmp_path / "gallery")
    assert [path.name for path in tmp_path.iterdir()] == ["gallery"]


def test_arrays_and_lists_are_searched_and_the_ids_come_back() -> None:
    vectors = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    names = [f"clip-{i}.mp4" for i in range(6)]
    _, positions = Gallery.build(vectors, names).positions(vectors[:2], 3)
    wanted = [[names[i] for i in row] for row in positions.tolist()]
    for kind in (vectors, vectors.numpy(), vectors.double().numpy(), vectors.tolist(), [*vectors]):
        scores, found = Gallery.build(kind, names).search(kind[:2], 3)
        assert found == wanted and scores.shape == (2, 3)
    for wrong in ([["a", "b"]], [[1.0], [1.0, 2.0]], np.array([[1j]])):
        with pytest.raises(UserError, match="vectors"):
            Gallery.build(wrong)
