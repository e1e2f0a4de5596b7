"""The metric in one process and in several, which must agree to the last digit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from tvr_bench.errors import UserError
from tvr_bench.evaluation.metric import RetrievalMetric

sys.path.insert(0, str(Path(__file__).parent))
import ddp_worker

SOURCE = Path(__file__).parents[2] / "src"


def whole(items: int) -> list[int]:
    return list(range(items))


def run_ranks(folder: Path, world: int, cases: list[tuple[int, int, str]]) -> list[list[dict]]:
    """Run rank 0 here and every other rank in a process of its own; return what each found."""
    spec = folder / "spec.json"
    spec.write_text(json.dumps({"world": world, "cases": cases}))
    paths = os.pathsep.join([str(SOURCE), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, ddp_worker.__file__, str(spec)]
    others = [subprocess.Popen([*command, str(rank)], env=environment) for rank in range(1, world)]
    try:
        ddp_worker.main(spec, 0)
        assert [process.wait(timeout=600) for process in others] == [0] * (world - 1)
    finally:
        for process in others:
            process.kill()
            process.wait()
    return [json.loads(Path(f"{spec}.{rank}").read_text()) for rank in range(world)]


def run_threads(world: int, case: tuple[int, int, str]) -> list[dict]:
    """Run every rank in a thread that hands its tensors to the others; return what each found."""
    barrier, slots = threading.Barrier(world, timeout=600), [torch.empty(0)] * world

    def run(rank: int) -> dict:
        def gather(tensor: torch.Tensor, group: object = None) -> list[torch.Tensor]:
            slots[rank] = tensor
            barrier.wait()
            everyone = list(slots)
            barrier.wait()
            return everyone

        shares = ddp_worker.shares_of(*case, rank, world)
        settings = {"dist_sync_fn": gather, "distributed_available_fn": lambda: True}
        return ddp_worker.summary(ddp_worker.evaluate(*case[:2], shares, **settings))

    with ThreadPoolExecutor(world) as pool:
        return json.loads(json.dumps(list(pool.map(run, range(world)))))


def one_process(texts: int, videos: int) -> dict:
    shares = {"text": whole(texts), "video": whole(videos)}
    return json.loads(json.dumps(ddp_worker.summary(ddp_worker.evaluate(texts, videos, shares))))


def test_two_ranks_give_the_same_result_to_the_last_digit(tmp_path):
    cases = [(39, 39, "padded"), (39, 21, "padded"), (7, 3, "one_rank_empty")]
    for found in run_ranks(tmp_path, 2, cases):
        for (texts, videos, _), result in zip(cases, found, strict=True):
            assert result == one_process(texts, videos), (texts, videos)


@pytest.mark.parametrize("world", [2, 3, 8])
@pytest.mark.parametrize("items", [7, 101, 1009])
@pytest.mark.parametrize("mode", ["padded", "one_rank_empty"])
def test_any_number_of_ranks_gives_the_same_result(world, items, mode):
    case = (items, items // 2 + 1, mode)
    expected = one_process(*case[:2])
    assert all(found == expected for found in run_threads(world, case))


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_ranks_with_uneven_counts_give_the_same_result(world, tmp_path):
    counts = [(7, 7), (7, 2), (101, 101), (101, 7), (1009, 1009), (1009, 101)]
    cases = [(*pair, "padded") for pair in counts]
    for found in run_ranks(tmp_path, world, cases):
        for (texts, videos, _), result in zip(cases, found, strict=True):
            assert result == one_process(texts, videos), (texts, videos)


def test_order_and_repeats_change_nothing():
    shuffled = {
        "video": [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 0, 7, 8],
        "text": [*reversed(range(25)), 0, 1, 24],
    }
    found = ddp_worker.summary(ddp_worker.evaluate(25, 10, shuffled))
    assert json.loads(json.dumps(found)) == one_process(25, 10)


def test_features_come_back_with_their_type_and_shape():
    metric = RetrievalMetric(
        ddp_worker.similarity, ddp_worker.split_of(9, 6), keep_features=True, keep_scores=True
    )
    for kind, order in (("text", [*range(5, 9), *range(5)]), ("video", [5, 4, 3, 2, 1, 0])):
        # A feature without a size and a number per item are packed like any other.
        index = torch.tensor(order)
        extra = {"none": torch.empty(len(order), 0, 3), "one": index.double()}
        metric.update(kind, index, ddp_worker.features_of(kind, index) | extra)
    metric.compute()
    for kind, count in (("text", 9), ("video", 6)):
        index = torch.arange(count)
        kept = getattr(metric.result, kind)
        wanted = ddp_worker.features_of(kind, index)
        wanted |= {"none": torch.empty(count, 0, 3), "one": index.double()}
        assert kept.keys() == wanted.keys()
        for name, tensor in wanted.items():
            assert kept[name].dtype == tensor.dtype and torch.equal(kept[name], tensor), name


def test_single_item_features_are_unpacked_at_any_offset():
    metric = RetrievalMetric(
        lambda text, video: text["b"] @ video["b"].T, ddp_worker.split_of(1, 1), keep_features=True
    )
    for kind in ("text", "video"):
        features = {"a": torch.tensor([True]), "b": torch.tensor([[2.0, 3.0]])}
        metric.update(kind, torch.tensor([0]), features)
    assert metric.compute()["t2v_R@1"] == 100
    assert metric.result.video["b"].tolist() == [[2.0, 3.0]]


def test_reset_forgets_the_features_and_failed_clips_are_left_out():
    split = ddp_worker.split_of(8, 4)
    metric = RetrievalMetric(ddp_worker.similarity, split, failed={"v2"})
    for positions in ([0, 1, 3], [0, 1, 2, 3]):  # features of a failed clip are not used
        for kind, index in (("text", torch.arange(8)), ("video", torch.tensor(positions))):
            metric.update(kind, index, ddp_worker.features_of(kind, index))
        metric.compute()
        assert metric.result.t2v["nan_queries"] == 2
        assert metric.result.pairs_scored == 8 * 3
        metric.reset()
    with pytest.warns(UserWarning, match="before"), pytest.raises(UserError, match="8 of 8"):
        metric.compute()


def test_missing_items_are_named():
    metric = RetrievalMetric(ddp_worker.similarity, ddp_worker.split_of(6, 3), name="val")
    for kind, index in (("text", torch.arange(6)), ("video", torch.tensor([0, 2]))):
        metric.update(kind, index, ddp_worker.features_of(kind, index))
    with pytest.raises(UserError, match=r"1 of 3 clips of split 'val'.*'v1'"):
        metric.compute()


@pytest.mark.parametrize(
    ("kind", "index", "features", "message"),
    [
        ("audio", [0], {"x": torch.ones(1, 2)}, "kind"),
        ("text", [6], {"x": torch.ones(1, 2)}, "from 0 to 5"),
        ("video", [-1], {"x": torch.ones(1, 2)}, "from 0 to 2"),
        ("text", [[0]], {"x": torch.ones(1, 2)}, "position"),
        ("text", [0, 1], {"x": torch.ones(1, 2)}, "one row per item"),
        ("text", [0], {}, "one row per item"),
        ("text", [1], {"x": torch.ones(1, 3)}, "fixed shape"),
        ("text", [1], {"x": torch.ones(1, 2).half()}, "fixed shape"),
        ("text", [1], {"y": torch.ones(1, 2)}, "fixed shape"),
    ],
)
def test_wrong_updates_are_user_errors(kind, index, features, message):
    metric = RetrievalMetric(ddp_worker.similarity, ddp_worker.split_of(6, 3))
    metric.update("text", torch.tensor([0]), {"x": torch.ones(1, 2)})
    with pytest.raises(UserError, match=message):
        metric.update(kind, torch.tensor(index), features)
