"""Ranks of vectors: equal to a slow exact reference, in every layout, without a matrix."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from tvr_bench.errors import UserError
from tvr_bench.evaluation import first_pass, vector_walk
from tvr_bench.evaluation.exact import exact_scores
from tvr_bench.evaluation.first_pass import PASSES, FirstPass, full_precision
from tvr_bench.evaluation.ranks import rank
from tvr_bench.evaluation.vector_scores import VectorScores, rank_vectors

TEXTS, VIDEOS, WIDTH = 60, 40, 8
ARRAYS = ("ahead", "tied", "gold", "items", "nan")


def assert_equal_ranks(ours, theirs):
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)


def slow_table(text, video):
    """Every score as one float64: the sum of the products, rounded once."""
    rows, columns = text.double().tolist(), video.double().tolist()
    table = np.empty((len(rows), len(columns)))
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            products = [a * b for a, b in zip(row, column, strict=True)]
            finite = all(math.isfinite(product) for product in products)
            table[i, j] = math.fsum(products) if finite else sum(products)
    return table


def slow_ranks(table, gold, grouped=False):
    """Both directions by the ranks of a matrix; a clip without a text has the last rank."""
    t2v = rank(table, gold)
    rights = gold[None, :] == np.arange(table.shape[1])[:, None]
    rows = np.where(rights.any(1))[0]
    if not grouped:
        return t2v, rank(table.T[rows], rights[rows]), rows
    best = np.full((len(rows), table.shape[1]), np.nan)
    for place, clip in enumerate(rows):
        scores = np.where(np.isnan(table[gold == clip]), -np.inf, table[gold == clip])
        best[place] = scores.max(0)
    best[best == -np.inf] = np.nan
    return t2v, rank(best.T[rows], np.arange(len(rows))), rows


def assert_exact(text, video, gold, grouped=False, **settings):
    t2v, v2t = VectorScores(text, video, **settings).rank(torch.tensor(gold), grouped=grouped)
    forth, back, rows = slow_ranks(slow_table(text, video), gold, grouped)
    assert_equal_ranks(t2v, forth)
    assert_equal_ranks(v2t.take(rows), back)
    others = np.setdiff1d(np.arange(len(video)), rows)
    assert v2t.nan[others].all()


def captions(seed, texts=TEXTS, videos=VIDEOS):
    """The video of each text: ragged, in no order, and some videos have none."""
    return np.random.default_rng(seed).integers(0, videos, texts) // 2 * 2


def cases(seed=0):
    """Vectors that put a first pass to the test, by name."""
    g = torch.Generator().manual_seed(seed)
    text, video = torch.randn(TEXTS, WIDTH, generator=g), torch.randn(VIDEOS, WIDTH, generator=g)
    whole = [torch.randint(-2, 3, part.shape, generator=g).float() for part in (text, video)]
    twins = video[torch.randint(0, 9, (VIDEOS,), generator=g)]
    common = torch.ones(WIDTH)
    near = [common + 1e-7 * part for part in (text, video)]  # one step of float32 apart, or none
    broken = [text.clone(), video.clone()]
    broken[0][3, 2], broken[0][9], broken[1][5, 0] = torch.nan, torch.inf, -torch.inf
    broken[1][7] = 0
    stretched = video * 10.0 ** torch.randint(-3, 4, (VIDEOS, 1), generator=g)
    return {
        "plain": (text, video),
        "whole numbers": (whole[0], whole[1]),
        "twins": (text, twins),
        "nearly collapsed": (near[0], near[1]),
        "collapsed": (common.expand(TEXTS, -1), common.expand(VIDEOS, -1)),
        "not finite": (broken[0], broken[1]),
        "unequal norms": (text, stretched),
        "huge": (1e30 * text, 1e30 * video),
        "tiny": (1e-30 * text, 1e-30 * video),
        "zero": (torch.zeros_like(text), video),
    }


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("kind", PASSES)
@pytest.mark.parametrize("name", cases())
def test_ranks_equal_the_slow_reference(name, kind, grouped):
    text, video = cases()[name]
    assert_exact(text, video, captions(0), grouped, first_pass=kind, block=(16, 16))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    texts=st.integers(1, 40),
    videos=st.integers(1, 30),
    width=st.integers(1, 9),
    step=st.sampled_from([0.0, 0.5, 1e-6]),
    grouped=st.booleans(),
    block=st.tuples(st.integers(1, 45), st.integers(1, 35)),
    kind=st.sampled_from(PASSES),
)
def test_any_sizes_equal_the_slow_reference(seed, texts, videos, width, step, grouped, block, kind):
    g = torch.Generator().manual_seed(seed)
    text, video = (torch.randn(n, width, generator=g) for n in (texts, videos))
    if step:
        text, video = ((part / step).round() * step for part in (text, video))
    gold = np.random.default_rng(seed).integers(0, videos, texts)
    assert_exact(text, video, gold, grouped, first_pass=kind, block=block)


def every_kind():
    """Vectors of all kinds of ties beside each other: one wrong decision in a layout would show."""
    g = torch.Generator().manual_seed(1)
    plain = torch.randn(90, 32, generator=g)
    whole = torch.randint(-2, 3, (90, 32), generator=g).float()
    near = 1 + 1e-7 * torch.randn(40, 32, generator=g)
    video = torch.cat([plain, whole, near, plain[:20], plain[:20] + 1e-7])
    gold = torch.randint(0, len(video), (300,), generator=g)
    text = video[gold] + 0.7 * torch.randn(300, 32, generator=g) * (gold < 90)[:, None]
    numbers = (gold >= 90) & (gold < 180)
    text[numbers] = torch.randint(-2, 3, (int(numbers.sum()), 32), generator=g).float()
    return text, video, gold


def test_ranks_are_bit_identical_in_500_layouts():
    text, video, gold = every_kind()
    expected = {grouped: rank_vectors(text, video, gold, grouped=grouped) for grouped in (0, 1)}
    assert all(ranks.tied.any() for ranks in expected[0])
    blocks = [*itertools.product((37, 64, 101, 150, 211, 300), (40, 64, 90, 130, 200, 260, 999))]
    layouts, before = 0, torch.get_num_threads()
    try:
        for threads, *layout in itertools.product((1, 2), blocks, PASSES, (0, 1)):
            torch.set_num_threads(threads)
            block, kind, grouped = layout
            scores = VectorScores(text, video, first_pass=kind, block=block)
            found = scores.rank(gold, grouped=bool(grouped))
            for ours, theirs in zip(found, expected[grouped], strict=True):
                assert_equal_ranks(ours, theirs)
            layouts += 1
    finally:
        torch.set_num_threads(before)
    assert layouts >= 500


def test_a_block_that_is_undecided_goes_down_to_the_exact_scores(monkeypatch):
    taken = []
    take = vector_walk.Walk._take

    def watch(self, place, columns, number):
        taken.append(number)
        take(self, place, columns, number)

    monkeypatch.setattr(vector_walk.Walk, "_take", watch)
    known = cases()
    VectorScores(*known["collapsed"], first_pass="bf16").rank(torch.tensor(captions(0)))
    assert taken == [0, 1, 2, 3]
    taken.clear()
    g = torch.Generator().manual_seed(0)
    video = torch.nn.functional.normalize(torch.randn(200, 64, generator=g), dim=1)
    VectorScores(video, video, first_pass="fp32").rank(torch.arange(200))
    assert taken == [0]


def test_no_score_of_a_pass_is_further_off_than_it_says():
    for name, (text, video) in cases().items():
        if name in ("not finite", "huge", "tiny"):  # these are scored in fp64 from the start
            continue
        rows = torch.arange(TEXTS).repeat_interleave(VIDEOS)
        exact = exact_scores(text, video, rows, torch.arange(VIDEOS).repeat(TEXTS))
        for kind in PASSES:
            made = FirstPass(kind, text.contiguous(), video.contiguous(), TEXTS * VIDEOS)
            scores = made.scores(slice(0, TEXTS), slice(0, VIDEOS))
            table = exact.view(TEXTS, VIDEOS)
            for error, dim in ((made.text_error[:, None], 1), (made.video_error, 0)):
                assert error.numel() == table.shape[1 - dim]
                assert (scores >= made.limit(table - error)).all(), (name, kind)
                assert (scores <= made.limit(table + error)).all(), (name, kind)


def test_exact_scores_are_those_of_plain_sums():
    for width in (1, 2, 7, 33):
        text, video = torch.randn(13, width), torch.randn(9, width)
        rows, columns = torch.randint(13, (150,)), torch.randint(9, (150,))
        found = exact_scores(text, video, rows, columns)
        table = torch.tensor(slow_table(text, video))
        torch.testing.assert_close(found, table[rows, columns], rtol=1e-14, atol=1e-14)
        for part in (slice(0, 1), slice(7, 8), slice(1, 140)):
            assert torch.equal(found[part], exact_scores(text, video, rows[part], columns[part]))
    assert not len(exact_scores(text, video, rows[:0], columns[:0]))


def test_absent_videos_have_no_score_and_count_as_misses():
    text, video = cases()["twins"]
    gold = torch.tensor(captions(2))
    present = torch.ones(VIDEOS, dtype=torch.bool)
    present[[0, 6, 7]] = False
    table = slow_table(text, video)
    table[:, ~present] = np.nan
    scores = VectorScores(text, video[present], present)
    forth, back, rows = slow_ranks(table, gold.numpy())
    t2v, v2t = scores.rank(gold)
    assert_equal_ranks(t2v, forth)
    assert_equal_ranks(v2t.take(rows), back)
    np.testing.assert_array_equal(scores.matrix().numpy(), table.astype(np.float32))
    assert scores.gather(torch.arange(3), torch.tensor([0, 1, 6])).isnan().tolist() == [1, 0, 1]
    assert scores.pairs_scored == TEXTS * (VIDEOS - 3)


def test_nan_scores_are_counted_and_time_is_shared():
    text, video = cases()["not finite"]
    scores = VectorScores(text, video, block=(7, 9))
    scores.rank(torch.tensor(captions(0)))
    assert scores.nan_scores == np.isnan(slow_table(text, video)).sum() > 0
    assert scores.query_ms.shape == (TEXTS,) and (scores.query_ms > 0).all()


class Largest(TorchDispatchMode):
    """The largest tensor that any operation returns."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for part in out if isinstance(out, tuple | list) else (out,):
            if isinstance(part, torch.Tensor):
                self.numel = max(self.numel, part.numel())
        return out


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("kind", PASSES)
def test_nothing_of_the_size_of_all_pairs_is_made(kind, grouped):
    g = torch.Generator().manual_seed(0)
    video = torch.randn(400, 4, generator=g)
    gold = torch.arange(800) % 400
    text = video[gold] + 0.1 * torch.randn(800, 4, generator=g)
    with Largest() as seen:
        VectorScores(text, video, first_pass=kind, block=(64, 128)).rank(gold, grouped=grouped)
    assert 64 * 128 <= seen.numel < 800 * 400 / 4


def test_reduced_precision_of_products_is_switched_off_and_on_again():
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with full_precision():
            assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
        text, video = cases()["plain"]
        assert_exact(text, video, captions(0), first_pass="fp32")
    finally:
        torch.set_float32_matmul_precision(before)


def test_precision_stays_full_until_the_last_thread_is_out():
    products = torch.backends.mkldnn.matmul
    before = products.fp32_precision
    try:
        products.fp32_precision = "bf16"
        first, second = full_precision(), full_precision()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert products.fp32_precision == "ieee"
        second.__exit__(None, None, None)
        assert products.fp32_precision == "bf16"
    finally:
        products.fp32_precision = before


def test_half_precision_vectors_are_scored_in_float32():
    text, video = (part.bfloat16() for part in cases()["plain"])
    gold = torch.tensor(captions(0))
    wide = rank_vectors(text.float(), video.float(), gold)
    for ours, theirs in zip(rank_vectors(text, video, gold), wide, strict=True):
        assert_equal_ranks(ours, theirs)


@pytest.mark.parametrize(
    ("text", "video"),
    [
        (torch.ones(4), torch.ones(3, 4)),
        (torch.ones(4, 2), torch.ones(3, 4)),
        (torch.ones(4, 0), torch.ones(3, 0)),
    ],
)
def test_wrong_vectors_are_user_errors(text, video):
    with pytest.raises(UserError, match="score_vectors returned the shape"):
        rank_vectors(text, video, torch.zeros(4, dtype=torch.int64))
    with pytest.raises(UserError, match="one vector per readable video"):
        VectorScores(torch.ones(2, 2), torch.ones(3, 2), torch.ones(4, dtype=torch.bool))


def test_first_pass_is_chosen_by_size(monkeypatch):
    monkeypatch.setattr(first_pass, "_bf16_is_fast", lambda device: True)
    small, large = torch.ones(100, 4), torch.ones(1000, 4)
    assert first_pass.choose_pass(small, small) == "fp32"
    assert first_pass.choose_pass(large, large) == "bf16"
    assert first_pass.choose_pass(large, large, "fp32") == "fp32"
    assert first_pass.choose_pass(large * torch.nan, large, "bf16") == "fp64"
    monkeypatch.setattr(first_pass, "_bf16_is_fast", lambda device: False)
    assert first_pass.choose_pass(large, large) == "fp32"
