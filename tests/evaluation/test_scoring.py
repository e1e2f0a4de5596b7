"""Block scoring, the path without a matrix, and the result of a split."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tvr_bench.errors import UserError
from tvr_bench.evaluation.evaluate import evaluate_features
from tvr_bench.evaluation.matrix import score_matrix, stream_ranks
from tvr_bench.evaluation.ranks import rank, retrieval_metrics
from tvr_bench.evaluation.two_stage import Stages

BLOCKS = (1, 7, None, (3, 11), [64, 2])
ARRAYS = ("ahead", "tied", "gold", "items", "nan")


def assert_equal_ranks(ours, theirs):
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)


def tied_table(texts=39, videos=23, seed=0):
    rng = np.random.default_rng(seed)
    table = np.round(rng.normal(size=(texts, videos)), 1).astype(np.float32)
    table[rng.random(table.shape) < 0.05] = np.nan
    table[rng.random(table.shape) < 0.05] = np.inf
    return table, np.concatenate([np.arange(videos), rng.integers(0, videos, texts - videos)])


def dot_product(texts=40, videos=30, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    # Whole numbers: every sum is exact, so no block and no thread can change one.
    draw = lambda rows: torch.randint(-9, 9, (rows, 16), generator=generator)  # noqa: E731
    return SimpleNamespace(
        similarity=lambda text, video: text["x"] @ video["x"].T,
        text={"x": draw(texts).to(dtype)},
        video={"x": draw(videos).to(dtype)},
    )


@pytest.mark.parametrize("block", BLOCKS)
def test_every_block_gives_the_same_matrix(block, table_scores):
    table, _ = tied_table()
    known = table_scores(table)
    matrix = score_matrix(known.similarity, known.text, known.video, block)
    assert matrix.dtype == torch.float32
    np.testing.assert_array_equal(matrix.numpy(), table)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("seed", range(5))
def test_streamed_ranks_equal_those_of_the_matrix(block, seed, table_scores):
    table, gold = tied_table(seed=seed)
    known = table_scores(table)
    mask = np.zeros(table.shape, bool)
    mask[np.arange(len(gold)), gold] = True
    t2v, v2t = stream_ranks(known.similarity, known.text, known.video, torch.tensor(gold), block)
    assert_equal_ranks(t2v, rank(table, gold))
    assert_equal_ranks(v2t, rank(table.T, mask.T))


@pytest.mark.parametrize("block", BLOCKS)
def test_dot_products_rank_the_same_in_every_block(block):
    model = dot_product()
    gold = torch.arange(40) % 30
    whole = (model.text["x"] @ model.video["x"].T).numpy()
    t2v, _ = stream_ranks(model.similarity, model.text, model.video, gold, block)
    assert_equal_ranks(t2v, rank(whole, gold))


def test_bf16_features_give_float32_scores():
    model = dot_product(dtype=torch.bfloat16)
    wide = lambda text, video: text["x"].float() @ video["x"].float().T  # noqa: E731
    matrix = score_matrix(wide, model.text, model.video, 8)
    exact = model.text["x"].double() @ model.video["x"].double().T
    assert torch.equal(matrix.double(), exact)
    assert score_matrix(model.similarity, model.text, model.video).dtype == torch.float32


def test_similarity_runs_without_gradients():
    model = dot_product()
    model.text["x"].requires_grad_()
    assert not score_matrix(model.similarity, model.text, model.video, 7).requires_grad


def test_absent_videos_are_columns_of_nan(table_scores):
    table, gold = tied_table()
    present = torch.ones(23, dtype=torch.bool)
    present[[0, 5, 22]] = False
    known = table_scores(table[:, present.numpy()])
    holes = np.where(present.numpy(), table, np.nan)
    for block in BLOCKS:
        args = (known.similarity, known.text, known.video)
        matrix = score_matrix(*args, block, present=present)
        np.testing.assert_array_equal(matrix.numpy(), holes)
        t2v, _ = stream_ranks(*args, torch.tensor(gold), block, present=present)
        assert_equal_ranks(t2v, rank(holes, gold))


def test_matrix_above_the_limit_is_refused():
    model = dot_product()
    with pytest.raises(UserError, match="max_matrix_gb"):
        score_matrix(model.similarity, model.text, model.video, max_gb=1e-6)
    assert score_matrix(model.similarity, model.text, model.video, max_gb=1e-3).shape == (40, 30)


@pytest.mark.parametrize(
    ("similarity", "text", "block", "message"),
    [
        (lambda t, v: t["x"].sum(1), {"x": torch.ones(4, 2)}, None, "one score per pair"),
        (lambda t, v: t["x"], {"x": torch.ones(4, 2), "y": torch.ones(3)}, None, "dimension"),
        (lambda t, v: t["x"], {}, None, "dimension"),
        (lambda t, v: t["x"], {"x": torch.ones(4, 2)}, 0, "at least 1 x 1"),
        (lambda t, v: t["x"], {"x": torch.ones(4, 2)}, (2, -1), "at least 1 x 1"),
    ],
)
def test_wrong_features_blocks_and_scores_are_user_errors(similarity, text, block, message):
    with pytest.raises(UserError, match=message):
        score_matrix(similarity, text, {"x": torch.ones(3, 2)}, block)
    with pytest.raises(UserError, match="present"):
        score_matrix(
            similarity, {"x": torch.ones(4, 2)}, {"x": torch.ones(3, 2)}, present=torch.ones(5) > 0
        )


def skilled_split(make_split):
    """24 clips in groups of 4, two skills; clips 0 to 14 have a second query; 2 distractors."""
    gold = [*range(24), *range(15)]
    skills = ["order" if clip < 12 else "colour" for clip in gold]
    return gold, make_split(gold, skills, [f"g{clip // 4}" for clip in gold], clips=26)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("failed", [(), ("v3", "v20", "v25")])
def test_result_is_the_same_with_and_without_a_matrix(block, failed, make_split, table_scores):
    _, split = skilled_split(make_split)
    table, _ = tied_table(39, 26)
    there = [clip for clip in range(26) if f"v{clip}" not in failed]
    known = table_scores(table[:, there])
    args = (known.similarity, known.text, known.video, split)
    kept = evaluate_features(*args, failed=failed, keep_scores=True)
    streamed = evaluate_features(
        *args, failed=failed, block=block, max_matrix_gb=0, keep_scores=True
    )
    assert streamed.scores is None
    assert kept.scores is not None and kept.scores.shape == (39, 26)
    for name in ("t2v", "v2t", "in_group", "by_skill", "query_ids", "clip_ids", "nan_scores"):
        assert getattr(kept, name) == getattr(streamed, name), name
    for name in ("t2v_ranks", "v2t_ranks", "in_group_ranks"):
        assert_equal_ranks(getattr(kept, name), getattr(streamed, name))
    assert kept.pairs_scored == 39 * len(there)
    assert kept.nan_scores == np.isnan(table[:, there]).sum()
    assert kept.flat() == streamed.flat()


def test_both_directions_and_skills_equal_the_plain_metrics(make_split, table_scores, slow_metrics):
    gold, split = skilled_split(make_split)
    table, _ = tied_table(39, 26, seed=3)
    known = table_scores(table)
    result = evaluate_features(known.similarity, known.text, known.video, split, block=7)
    rights = [{i for i, clip in enumerate(gold) if clip == wanted} for wanted in range(24)]
    forward = slow_metrics(table.tolist(), [{clip} for clip in gold])
    backward = slow_metrics(table.T[:24].tolist(), rights)
    for key, value in forward.items():
        assert result.t2v[key] == pytest.approx(value), key
        assert result.v2t[key] == pytest.approx(backward[key]), key
    assert result.v2t["queries"] == 24  # two clips have no query: they compete but do not search
    assert result.clip_ids == tuple(f"v{clip}" for clip in range(24))
    assert result.flat()["R@1_mean"] == pytest.approx((result.t2v["R@1"] + result.v2t["R@1"]) / 2)
    mine = np.array(gold) < 12
    order = result.by_skill["order"]
    assert order["t2v"]["R@1"] == pytest.approx(
        slow_metrics(table[mine].tolist(), [{c} for c in gold if c < 12])["R@1"]
    )
    assert order["v2t"]["R@1"] == pytest.approx(
        slow_metrics(table.T[:12].tolist(), rights[:12])["R@1"]
    )
    assert order["in_group"]["chance_R@1"] == 25
    assert order["in_group"]["queries"] == mine.sum()


def test_failed_clip_is_a_miss_and_stays_in_the_denominator(make_split, table_scores):
    split = make_split(range(50))
    there = [clip for clip in range(50) if clip != 7]
    known = table_scores(np.eye(50)[:, there])
    result = evaluate_features(
        known.similarity, known.text, known.video, split, failed=("v7",), max_matrix_gb=None
    )
    for metrics in (result.t2v, result.v2t):
        assert (metrics["queries"], metrics["nan_queries"]) == (50, 1)
        assert metrics["R@1"] == 98
    assert result.failed == ("v7",) and result.nan_scores == 0
    assert result.t2v_ranks.expected[7] == 50


def test_multi_caption_counts_the_best_caption_of_a_clip(make_split, table_scores):
    table = np.array([[1, 5], [9, 0], [0, 7], [0, 8]])
    result_split = make_split([0, 0, 1, 1])
    known = table_scores(table)
    result = evaluate_features(known.similarity, known.text, known.video, result_split)
    assert result.t2v["R@1"] == 75
    assert result.v2t["R@1"] == 100
    flipped = retrieval_metrics(
        table.T, np.array([[True, True, False, False], [False, False, True, True]])
    )
    assert result.v2t == flipped


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("max_gb", [None, 3e-6])
def test_captions_that_compete_as_a_group_rank_by_their_best_score(
    block, max_gb, make_split, table_scores, slow_metrics
):
    """CLIP4Clip's convention against plain loops: V x V scores, each the greatest of a clip's."""
    for seed in range(4):
        table, gold = tied_table(seed=seed)
        known = table_scores(table)
        args = (known.similarity, known.text, known.video, make_split(gold, clips=table.shape[1]))
        result = evaluate_features(*args, block=block, max_matrix_gb=max_gb, v2t="group")
        rows = []
        for video in range(table.shape[1]):
            row = []
            for clip in range(table.shape[1]):
                scores = [s for s in table[gold == clip, video].tolist() if s == s]
                row.append(max(scores, default=float("nan")))
            rows.append(row)
        expected = slow_metrics(rows, [{video} for video in range(table.shape[1])])
        for name, value in expected.items():
            assert result.v2t[name] == pytest.approx(value), name
        plain = evaluate_features(*args, block=block)
        assert result.t2v == plain.t2v and result.v2t != plain.v2t


def test_groups_of_captions_and_two_stages_exclude_each_other(make_split, table_scores):
    table, gold = tied_table()
    known = table_scores(table)
    stages = Stages(3, lambda features: features["row"], lambda text, video: text["row"])
    with pytest.raises(UserError, match=r"eval\.v2t=group.*eval\.two_stage=null"):
        evaluate_features(
            *(known.similarity, known.text, known.video, make_split(gold, clips=table.shape[1])),
            stages=stages,
            v2t="group",
        )


def test_cost_is_counted(make_split, table_scores):
    known = table_scores(np.eye(20))
    split = make_split(range(20))
    args = (known.similarity, known.text, known.video, split)
    assert evaluate_features(*args, block=10).pairs_scored == 400
    # without a matrix some pairs are scored twice, and are still the same pairs
    assert evaluate_features(*args, block=10, max_matrix_gb=0).pairs_scored == 400
    result = evaluate_features(*args, block=10)
    assert result.query_ms.shape == (20,) and (result.query_ms > 0).all()
    assert 0 < result.ms_per_query * 20 <= 1000 * result.seconds


def test_wrong_splits_are_user_errors(make_split, table_scores):
    known = table_scores(np.eye(3))
    args = (known.similarity, known.text, known.video)
    with pytest.raises(UserError, match="no query"):
        evaluate_features(*args, make_split([], clips=3))
    with pytest.raises(UserError, match="'v3'"):
        evaluate_features(
            *args,
            SimpleNamespace(clips=make_split(range(3)).clips, queries=make_split(range(4)).queries),
        )
    twice = SimpleNamespace(clips=2 * make_split(range(3)).clips, queries=[])
    with pytest.raises(UserError, match="same id"):
        evaluate_features(*args, twice)
    with pytest.raises(UserError, match="has 4"):
        evaluate_features(*args, make_split([0, 1, 2, 2]))
    with pytest.raises(UserError, match="present"):
        evaluate_features(*args, make_split(range(3)), failed=("v1",))
    with pytest.raises(UserError, match="could be read"):
        evaluate_features(
            known.similarity,
            known.text,
            {"column": torch.arange(0)},
            make_split(range(3)),
            failed=("v0", "v1", "v2"),
        )
