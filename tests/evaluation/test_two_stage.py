"""Search in two stages against plain loops."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tvr_bench.errors import UserError
from tvr_bench.evaluation import two_stage
from tvr_bench.evaluation.candidates import in_order
from tvr_bench.evaluation.efficiency import two_stage_latency
from tvr_bench.evaluation.evaluate import evaluate_features
from tvr_bench.evaluation.groups import group_pairs, group_ranks
from tvr_bench.evaluation.two_stage import Stages, search

sys.path.insert(0, str(Path(__file__).parent))
import ddp_worker
from two_stage_case import (
    chosen,
    problem,
    real_problem,
    recall,
    released,
    slow_rank,
    slow_search,
    standing,
)

ARRAYS = ("ahead", "tied", "gold", "items", "nan")
RANKS = ("t2v_ranks", "v2t_ranks", "in_group_ranks")
NAN = float("nan")


def found_by(made: SimpleNamespace, k: int, **how: Any) -> dict[str, Any]:
    """The same by the code under test."""
    gold, present = torch.tensor(made.gold), torch.tensor(made.present)
    rows, columns = group_pairs(made.gold, made.groups)
    wanted = torch.cat([torch.arange(len(gold)), rows]), torch.cat([gold, columns])
    stages = Stages(k, recall, made.rerank)
    found = search(stages, made.text, made.video, gold, wanted, present, **how)
    right, rivals = found.values[: len(gold)], found.values[len(gold) :]
    _, inside = group_ranks(rivals, rows, right)
    table = {"t2v": found.t2v, "v2t": found.v2t, "in_group": inside}
    return {"found": found} | {
        name: list(zip(*(getattr(ranks, array).tolist() for array in ARRAYS), strict=True))
        for name, ranks in table.items()
    }


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    texts=st.integers(1, 14),
    videos=st.integers(1, 9),
    k=st.integers(1, 16),
    absent=st.integers(0, 3),
    nan=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    levels=st.sampled_from([0, 1, 3, 1000]),
    keep=st.booleans(),
    chunk=st.sampled_from([None, 1, 2, 5]),
    tile=st.tuples(st.integers(1, 15), st.integers(1, 10)),
)
def test_every_search_equals_plain_loops(
    seed: int,
    texts: int,
    videos: int,
    k: int,
    absent: int,
    nan: float,
    levels: int,
    keep: bool,
    chunk: int | None,
    tile: tuple[int, int],
) -> None:
    made = problem(seed, texts, videos, absent, nan, levels)
    expected = slow_search(made, k)
    found = found_by(made, k, keep=keep, chunk=chunk, tile=tile)
    for name in ("t2v", "v2t", "in_group"):
        assert found[name] == expected[name], name
    distinct = {*expected["pairs_t2v"], *expected["pairs_v2t"]}
    assert made.pairs == dict.fromkeys(distinct, 1), "each pair is scored, and scored once"
    cost = found["found"].stages
    assert cost.pairs_t2v == len(expected["pairs_t2v"])
    assert cost.pairs_v2t == len(expected["pairs_v2t"])
    assert found["found"].pairs_scored == len(distinct)
    assert cost.recall_pairs == texts * sum(made.present)
    deciding = [
        made.fine[t][v] if (t, v) in distinct else made.first[t][v]
        for t in range(texts)
        for v in range(videos)
        if made.present[v]
    ]
    assert found["found"].nan_scores == sum(score != score for score in deciding)


def test_the_loops_of_the_test_know_a_case_done_by_hand() -> None:
    first, fine = [0.9, 0.8, 0.8, 0.1, NAN], [1.0, NAN, 9.0, 5.0, 7.0]
    there = [0, 1, 2, 3, 4]
    assert chosen(first, there, 2) == [0, 1]
    order = standing(first, fine, there, 2)  # 0 before 2 before 3; 1 and 4 have no score
    assert [slow_rank(order, {item})[0] for item in (0, 2, 3, 4)] == [0, 1, 2, 4]
    assert slow_rank(order, {1}) == (4, 0, 1, 5, True)
    made = problem(0, texts=1, videos=5)
    made.first, made.fine, made.gold = [first], [fine], [2]
    made.groups, made.present = [""], [True] * 5
    assert slow_search(made, 2)["t2v"] == [(1, 0, 1, 5, False)]


def assert_same(one: Any, other: Any, *, cost: bool = True) -> None:
    for name in ("t2v", "v2t", "in_group", "by_skill", "nan_scores"):
        assert getattr(one, name) == getattr(other, name), name
    for name in RANKS:
        for array in ARRAYS:
            pair = (getattr(getattr(result, name), array) for result in (one, other))
            np.testing.assert_array_equal(*pair, err_msg=f"{name}.{array}")
    if cost:
        assert one.pairs_scored == other.pairs_scored


@pytest.fixture
def skilled(make_split: Any) -> Any:
    """100 texts of 60 clips in groups of 4 and two skills, and 40 clips without a text."""
    gold = [*range(60), *range(0, 60, 3), *range(20)]
    skills = ["order" if clip % 2 else "colour" for clip in gold]
    return make_split(gold, skills, [f"g{clip // 4}" for clip in gold], clips=100)


@pytest.mark.parametrize("failed", [(), ("v3", "v20", "v99")])
def test_all_items_as_candidates_give_the_exhaustive_result(
    failed: tuple[str, ...], skilled: Any
) -> None:
    made = real_problem(0, 100, 100 - len(failed))
    args = (made.similarity, made.text, made.video, skilled)
    whole = evaluate_features(*args, failed=failed, block=7)
    for k in (100, 10**6):
        stages = Stages(k, recall, made.rerank)
        assert_same(evaluate_features(*args, failed=failed, stages=stages), whole, cost=False)
    fewer = evaluate_features(*args, failed=failed, stages=Stages(3, recall, made.rerank))
    assert fewer.t2v != whole.t2v and fewer.v2t != whole.v2t


@pytest.mark.parametrize("seed", range(4))
def test_all_items_as_candidates_are_exhaustive_with_ties_and_nan_too(
    seed: int, make_split: Any
) -> None:
    made = problem(seed, 24, 9, absent=2, nan=0.1)
    split = make_split(made.gold, ["a", "b"] * 12, made.groups, clips=9)
    failed = [f"v{video}" for video in range(9) if not made.present[video]]
    args = (made.similarity, made.text, made.video, split)
    whole = evaluate_features(*args, failed=failed)
    assert whole.nan_scores and whole.t2v["tied_queries"]
    stages = Stages(24, recall, made.rerank)
    assert_same(evaluate_features(*args, failed=failed, stages=stages), whole, cost=False)


def test_blocks_and_memory_change_nothing(skilled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where a product in another tile would have another last bit."""
    made = real_problem(1, 100, 100)
    stages = Stages(2, recall, made.rerank)
    args = (made.similarity, made.text, made.video, skilled)
    plain = evaluate_features(*args, stages=stages)
    for limit in (None, 0.00003):  # 10^9 bytes; the matrix takes 40 kB, the lists 26
        if limit:
            monkeypatch.setattr(two_stage, "MatrixScores", lambda _: pytest.fail("a matrix"))
        for block in (1, 7, (3, 50)):
            assert_same(
                evaluate_features(*args, block=block, max_matrix_gb=limit, stages=stages), plain
            )


@pytest.mark.parametrize("k", [1, 3, 11])
def test_rerank_is_called_once_per_video_and_never_with_more_texts_than_a_block_has_pairs(
    k: int, make_split: Any
) -> None:
    made = problem(5, 30, 11)
    split = make_split(made.gold, clips=11)
    args = (made.similarity, made.text, made.video, split)
    evaluate_features(*args, stages=Stages(k, recall, made.rerank))
    videos = [video for video, _ in made.calls]
    assert videos == sorted(set(videos))
    made.calls.clear()
    evaluate_features(*args, block=(2, 2), stages=Stages(k, recall, made.rerank))
    assert max(texts for _, texts in made.calls) <= 4


def test_a_video_searches_by_itself_and_is_no_transposed_text() -> None:
    """Text 0 is the video's best, but neither video is that text's only candidate."""
    made = SimpleNamespace(
        first=[[0.9, 1.0], [0.1, 0.8]],
        fine=[[5.0, 4.0], [9.0, 4.5]],
        gold=[0, 1],
        groups=["", ""],
        present=[True, True],
        text={"vector": torch.eye(2), "row": torch.arange(2)},
        video={"vector": torch.tensor([[0.9, 0.1], [1.0, 0.8]]), "column": torch.arange(2)},
    )
    table = torch.tensor(made.fine)
    made.rerank = lambda text, video: table[text["row"], video["column"]]
    found = found_by(made, 1)
    # candidates: both texts have video 1, both videos have text 0
    assert [row[0] for row in found["t2v"]] == [1, 0]
    assert [row[0] for row in found["v2t"]] == [0, 1]
    assert found["found"].pairs_scored == 3
    args = torch.tensor(made.gold), (torch.arange(2), torch.tensor(made.gold)), torch.ones(2) > 0
    stages = Stages(1, recall, made.rerank, "eercf")
    copied = search(stages, made.text, made.video, *args)
    assert copied.t2v.ahead.tolist() == [1, 0]
    assert copied.v2t.ahead.tolist() == [0, 0], "video 1 profits from the texts' candidates"
    assert copied.pairs_scored == 2


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("captions", [1, 3])
@pytest.mark.parametrize("k", [1, 4, 30])
def test_parity_repeats_the_released_evaluation(
    seed: int, captions: int, k: int, make_split: Any
) -> None:
    rng = np.random.default_rng(seed)
    videos, texts = 12, 12 * captions
    cells = texts * videos
    first = (rng.permutation(cells) / 1024).reshape(texts, videos)  # exact, and none is twice there
    fine = (rng.permutation(cells) / 16 - 8).reshape(texts, videos)  # some are below 100 - first
    made = SimpleNamespace(
        first=first.tolist(), fine=fine.tolist(), gold=[t % videos for t in range(texts)]
    )
    table = torch.from_numpy(fine)
    result = evaluate_features(
        lambda *_: pytest.fail("two stages need no similarity"),
        {"vector": torch.eye(texts), "row": torch.arange(texts)},
        {"vector": torch.from_numpy(first.T.copy()), "column": torch.arange(videos)},
        make_split(made.gold, groups=[f"g{g % 4}" for g in made.gold]),
        stages=Stages(
            k, recall, lambda t, v: table[t["row"], v["column"]], parity="eercf", scale=16.0
        ),
    )
    expected = released(made, k, 16.0)
    for direction, metrics in expected.items():
        found = getattr(result, direction)
        assert found["tied_queries"] == 0
        assert {name: found[name] for name in metrics} == pytest.approx(metrics), direction
    assert (result.pairs_scored, result.stages.pairs_v2t) == (texts * min(k, videos), 0)
    assert result.in_group["queries"] == texts


def test_parity_counts_unreadable_videos_as_misses(make_split: Any) -> None:
    made = problem(3, 20, 6, nan=0)
    video = {name: part[1:] for name, part in made.video.items()}
    split = make_split([t % 6 for t in range(20)])
    stages = Stages(2, recall, made.rerank, "eercf")
    result = evaluate_features(
        made.similarity, made.text, video, split, failed=("v0",), stages=stages
    )
    assert result.t2v["nan_queries"] == 4 and result.v2t["nan_queries"] == 1
    assert result.nan_scores == 0


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("k", [1, 5])
def test_any_number_of_ranks_gives_the_same_result(world: int, k: int) -> None:
    texts, videos = 39, 21
    rerank = lambda text, video: ddp_worker.similarity(text, video)[:, 0]  # noqa: E731
    stages = Stages(k, lambda features: features["half"].float(), rerank)
    one = ddp_worker.evaluate(
        texts, videos, {"text": list(range(texts)), "video": list(range(videos))}, stages=stages
    )
    barrier, slots = threading.Barrier(world, timeout=60), [torch.empty(0)] * world

    def run(rank: int) -> Any:
        def gather(tensor: Tensor, group: object = None) -> list[Tensor]:
            slots[rank] = tensor
            barrier.wait()
            everyone = list(slots)
            barrier.wait()
            return everyone

        shares = ddp_worker.shares_of(texts, videos, "padded", rank, world)
        how = {"dist_sync_fn": gather, "distributed_available_fn": lambda: True}
        return ddp_worker.evaluate(texts, videos, shares, stages=stages, **how)

    with ThreadPoolExecutor(world) as pool:
        for result in pool.map(run, range(world)):
            assert ddp_worker.summary(result) == ddp_worker.summary(one)
            assert result.pairs_scored == one.pairs_scored < texts * videos


def test_the_order_of_a_picture_is_that_of_the_search() -> None:
    first = torch.tensor([[0.5, 0.9, 0.9, NAN, 0.1], [3.0, 3.0, 3.0, 3.0, 3.0]])
    fine = torch.tensor([[7.0, 1.0, 2.0, 9.0, 8.0], [1.0, 2.0, NAN, 4.0, 5.0]])
    assert in_order(first, fine, 3).tolist() == [[0, 2, 1, 4, 3], [1, 0, 2, 3, 4]]
    assert in_order(fine, fine, 0).tolist() == [[3, 4, 0, 2, 1], [4, 3, 1, 0, 2]]


@pytest.mark.parametrize("width", [1, 1 << 16])  # floats: four fit together, or three and then one
def test_a_timed_query_meets_its_candidates_and_no_other_video(width: int) -> None:
    made = problem(2, 20, 9, nan=0)
    video = made.video | {"fine": torch.zeros(9, 1).expand(9, width)}
    seen: list[list[int]] = []

    def rerank(text: dict[str, Tensor], part: dict[str, Tensor]) -> Tensor:
        seen.append(part["column"].tolist())
        assert text["row"].tolist() == [0] * len(part["column"]), "row i of both is a pair"
        return torch.zeros(len(part["column"]))

    found = two_stage_latency(recall, rerank, made.text, video, 4, queries=1, warmup=0)
    best = sorted(made.first[0], reverse=True)[:4]
    assert sorted((made.first[0][v] for part in seen for v in part), reverse=True) == best
    assert len(seen) == (1 if width == 1 else 2)
    assert found.recall_p50_ms is not None and found.recall_p50_ms > 0
    assert (found.queries, found.gallery) == (1, 9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recall": lambda f: f["vector"][:-1]}, "one vector per item"),
        ({"recall": lambda f: f["vector"][:, 0]}, "one vector per item"),
        ({"rerank": lambda t, v: torch.zeros(len(t["row"]), 1)}, "one score per text"),
        ({"rerank": lambda t, v: torch.zeros(())}, "one score per text"),
        ({"k": 0}, "eval.two_stage=0"),
        ({"parity": "xclip"}, "eval.parity=xclip"),
        ({"k": 7, "limit": 1e-6}, "lower eval.two_stage"),
        ({"k": 1, "parity": "eercf", "limit": 1e-5, "texts": 200}, "eval.parity=none"),
    ],
)
def test_wrong_stages_are_user_errors(
    change: dict[str, Any], message: str, make_split: Any
) -> None:
    texts, limit = change.pop("texts", 12), change.pop("limit", None)
    made = problem(0, texts, 70 if texts == 200 else 7)
    split = make_split(made.gold, clips=len(made.present))
    if texts == 200:
        limit = 5e-5  # below the matrix of 56 kB, above the lists of 17 kB
    with pytest.raises(UserError, match=message):
        stages = Stages(**{"k": 2, "recall": recall, "rerank": made.rerank} | change)
        evaluate_features(
            *(made.similarity, made.text, made.video, split), stages=stages, max_matrix_gb=limit
        )


def test_features_that_do_not_fit_are_user_errors_in_two_stages_too(make_split: Any) -> None:
    made = problem(0)
    stages = Stages(2, recall, made.rerank)
    args = (made.similarity, made.text, made.video)
    with pytest.raises(UserError, match="has 3"):
        evaluate_features(*args, make_split([0, 1, 2], clips=7), stages=stages)
    with pytest.raises(UserError, match="present"):
        evaluate_features(*args, make_split(made.gold, clips=9), stages=stages)
