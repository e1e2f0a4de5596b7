"""The list of what was found, against sorting all scores, over every way to rank."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evaluation.two_stage_case import problem, real_problem, recall
from tvr_bench.evaluation.evaluate import evaluate_features
from tvr_bench.evaluation.exact import exact_scores
from tvr_bench.evaluation.top import Top, best_of_candidates
from tvr_bench.evaluation.two_stage import Stages

K = 10


def slow_lists(table, k=K):
    """The k best of each row: the greatest, of equals the first, a NaN never, then -1."""
    lists = []
    for row in np.asarray(table).tolist():
        there = [i for i, score in enumerate(row) if score == score]
        best = sorted(there, key=lambda i: (-row[i], i))[:k]
        lists.append(best + [-1] * (k - len(best)))
    return lists


def tables():
    """Scores [N, M] with and without ties, NaN, infinities and zeros of both signs."""
    rng = np.random.default_rng(0)
    plain = rng.normal(size=(40, 300))
    levels = rng.integers(-2, 3, (40, 300)).astype(float)
    levels[(levels == 0) & (rng.random(levels.shape) < 0.5)] = -0.0
    odd = rng.integers(-2, 3, (40, 300)).astype(float)
    for value in (np.nan, np.inf, -np.inf):
        odd[rng.random(odd.shape) < 0.2] = value
    odd[0], odd[1], odd[2] = np.nan, -np.inf, np.inf
    odd[3] = np.where(np.arange(300) < 295, np.nan, -np.inf)
    rising = np.arange(12000.0).reshape(40, 300)
    return {
        "plain": plain,
        "levels": levels,
        "odd": odd,
        "level": np.ones((40, 300)),
        "rising": rising,
        "falling": -rising,
        "few": rng.normal(size=(40, 7)),
        "in steps": np.repeat(rng.normal(size=(40, 3)), 100, axis=1),
    }


@pytest.mark.parametrize("block", [None, (7, 5), (16, 64), (11, 130)])
@pytest.mark.parametrize("matrix", [True, False])
@pytest.mark.parametrize("name", tables())
@pytest.mark.filterwarnings("ignore:.*NaN")
def test_scores_in_any_block_list_the_first(name, matrix, block, table_scores, make_split):
    table = tables()[name].astype(np.float32)
    known, videos = table_scores(table), table.shape[1]
    split = make_split([i % videos for i in range(len(table))], clips=videos)
    limit = None if matrix else 0.0
    args = (known.similarity, known.text, known.video, split)
    result = evaluate_features(*args, block=block, max_matrix_gb=limit, top=K)
    assert result.best.dtype == np.int32
    assert result.best.tolist() == slow_lists(table)
    assert result.gallery_ids == tuple(clip.id for clip in split.clips)


def vectors_of(kind):
    generator = torch.Generator().manual_seed(1)
    text, video = (torch.randn(n, 24, generator=generator) for n in (60, 900))
    if kind == "whole":
        text, video = text.round(), video.round()
    if kind == "repeated":
        video = video[torch.randint(0, 4, (900,), generator=generator)]
    if kind == "collapsed":
        video = video[:1].repeat(900, 1)
    if kind == "near":  # apart in float64 alone
        video = video[:1].repeat(900, 1) * (1 + torch.arange(900)[:, None] % 450 * 2.0**-23)
    if kind == "odd":
        video[5, 0], video[6, 1], video[7] = torch.nan, torch.inf, 0.0
        text[3], text[4, 0] = 0.0, torch.nan
    if kind == "long":
        video[::3] *= 1e30
        text[::2] *= 1e30
    return text, video


@pytest.mark.parametrize("v2t", ["caption", "group"])
@pytest.mark.parametrize("failed", [(), ("v0", "v5", "v77")])
@pytest.mark.parametrize("kind", ["plain", "whole", "repeated", "collapsed", "near", "odd", "long"])
def test_vectors_list_the_first_by_their_exact_scores(kind, failed, v2t, make_split):
    text, video = vectors_of(kind)
    there = [i for i in range(900) if f"v{i}" not in failed]
    rows = torch.arange(60).repeat_interleave(900)
    table = exact_scores(text, video, rows, torch.arange(900).repeat(60)).view(60, 900)
    table[:, [i for i in range(900) if i not in there]] = torch.nan
    features = {"x": text}, {"x": video[there]}
    split = make_split([i % 50 for i in range(60)], clips=900)
    options = {"failed": failed, "v2t": v2t, "vectors": lambda features: features["x"]}
    result = evaluate_features(None, *features, split, top=K, **options)
    assert result.best.tolist() == slow_lists(table)
    agree(result, [i % 50 for i in range(60)])


def agree(result, gold):
    """An item of rank r without ties stands at place r of the list."""
    for query, clip in enumerate(gold):
        rank = int(result.t2v_ranks.expected[query])
        if not result.t2v_ranks.tied[query] and rank <= K and not result.t2v_ranks.nan[query]:
            assert result.best[query, rank - 1] == clip


@pytest.mark.parametrize("k", [1, 3, 10, 40])
@pytest.mark.parametrize("keep", [None, 0.1])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.filterwarnings("ignore:.*NaN")
def test_two_stages_list_candidates_first(seed, keep, k, make_split):
    made = problem(seed, texts=30, videos=25, absent=3, nan=0.1)
    there = [i for i, here in enumerate(made.present) if here]
    first, fine = np.asarray(made.first), np.asarray(made.fine)
    expected = []
    for row in range(30):
        order = sorted(there, key=lambda i: (np.isnan(first[row, i]), -first[row, i], i))
        best = [i for i in slow_lists(fine[row : row + 1], 25)[0] if i in order[:k]]
        rest = [i for i in order[k:] if not np.isnan(first[row, i])]
        expected.append([*best, *rest, *[-1] * K][:K])
    failed = [f"v{i}" for i in range(25) if i not in there]
    split, stages = make_split(made.gold, clips=25), Stages(k, recall, made.rerank)
    args = (made.similarity, made.text, made.video, split)
    result = evaluate_features(*args, failed=failed, max_matrix_gb=keep, stages=stages, top=K)
    assert result.best.tolist() == expected
    agree(result, made.gold)


def test_a_search_as_released_lists_the_first_by_its_scores(make_split):
    made, gold = real_problem(0, 30, 25), [i % 25 for i in range(30)]
    scores = 100 * (made.text["vector"] @ made.video["vector"].T)
    best = scores.argsort(dim=1, descending=True)[:, :4]
    fine = made.similarity(made.text, made.video)
    scores.scatter_(1, best, 100 + 100 * fine.gather(1, best))
    stages = Stages(4, recall, made.rerank, "eercf", 100.0)
    args = (None, made.text, made.video, make_split(gold, clips=25))
    result = evaluate_features(*args, stages=stages, top=K)
    assert result.best.tolist() == slow_lists(scores)
    agree(result, gold)


def test_few_pairs_are_held_whatever_the_scores():
    for table in (torch.ones(50, 4000), torch.arange(4000.0).repeat(50, 1)):
        top = Top(50, K)
        for left in range(0, 4000, 200):
            top.add(slice(0, 50), torch.arange(left, left + 200), table[:, left : left + 200])
        assert top._count <= 50 * 2000 and top.lists().tolist() == slow_lists(table)


def test_candidates_that_are_not_there_are_not_listed():
    items, scores = np.array([[4, -1, 2, 9]]), np.array([[1.0, 5.0, 1.0, np.nan]])
    assert best_of_candidates(items, scores, 3).tolist() == [[2, 4, -1]]
    assert best_of_candidates(items, scores, 1).tolist() == [[2]]
