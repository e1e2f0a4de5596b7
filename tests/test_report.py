"""From a tested model to its record and picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from media.make_clips import make_clip
from tiny import TINY_MODEL, TINY_RUN
from tvr_bench import config, picture, report
from tvr_bench.datamodules.base import VideoTextDataModule
from tvr_bench.datamodules.types import Clip, Query, Split
from tvr_bench.evaluation.callback import RetrievalEvaluation
from tvr_bench.leaderboard.strips import QueryStrip
from tvr_bench.models.base import RetrievalModule
from tvr_bench.registry import model_class
from tvr_bench.training import build_tester

VIDEOS = 6


class Six(VideoTextDataModule):
    """Six clips; the first has two captions where `extra` says so."""

    root: Path
    extra = False

    def read_split(self, name: str) -> Split:
        clips = tuple(Clip(f"v{i}", self.root / f"v{i}.mp4") for i in range(VIDEOS))
        queries = [Query(f"q{i}", f"number {i} says {i * 7}", f"v{i}") for i in range(VIDEOS)]
        if self.extra:
            queries.append(Query("more", "the first again", "v0"))
        return Split(clips, tuple(queries))


def _data(root: Path, cache: Path, *settings: str) -> Six:
    words = [*TINY_MODEL, *TINY_RUN, f"paths.cache={cache}", "data=csv", "model=meanpool"]
    data = Six(config.load([*words, *settings]))
    data.root = root
    return data


@pytest.fixture(scope="module")
def tested(tmp_path_factory: pytest.TempPathFactory) -> tuple[RetrievalModule, Six, Any]:
    """An untrained model, its data, and the result of the test split with features."""
    root = tmp_path_factory.mktemp("report")
    for i in range(VIDEOS):
        make_clip(root / f"v{i}.mp4", count=6 + i, size=(64, 48))
    data = _data(root, root / "cache")
    data.prepare()
    torch.manual_seed(0)
    model = model_class("meanpool")(data.cfg)
    model.eval()
    evaluation = RetrievalEvaluation(keep_features=True)
    build_tester(data.cfg, [evaluation]).test(model, data, verbose=False)
    return model, data, evaluation.results["test"]


def test_features_are_scored_in_the_precision_of_the_weights(
    tested: tuple[RetrievalModule, Six, Any],
) -> None:
    features = {"a": torch.ones(2, 3).bfloat16(), "mask": torch.tensor([True, False])}
    found = report.as_scored(tested[0], features)
    assert (found["a"].dtype, found["mask"].dtype) == (torch.float32, torch.bool)


def test_costs_are_those_of_one_text_one_video_and_one_pair(
    tested: tuple[RetrievalModule, Six, Any],
) -> None:
    model, data, result = tested
    text, video, pair = report.count_costs(model, data, dict(result.text), dict(result.video))
    assert pair * 1e9 == pytest.approx(2 * 16), "a dot product of 16 numbers"
    assert video > text > pair > 0


@pytest.mark.parametrize(("extra", "captions"), [(False, "single"), (True, "all")])
def test_the_protocol_says_how_many_captions_a_clip_has(
    extra: bool, captions: str, tested: tuple[RetrievalModule, Six, Any], tmp_path: Path
) -> None:
    data = _data(tested[1].root, tmp_path, "eval.selection=last")
    data.extra = extra
    data.prepare(["test"])
    protocol = report.protocol(data.cfg, data)
    assert (protocol.captions, protocol.split, protocol.selection) == (captions, "test", "last")
    assert (protocol.frames, protocol.resolution, protocol.words) == (3, (32, 48), 32)
    assert not protocol.ocr.enabled


def test_one_caption_of_each_clip_is_a_protocol_of_its_own(tmp_path: Path) -> None:
    data = _data(tmp_path, tmp_path / "cache", "eval.captions=random")
    data.extra = True
    assert report.protocol(data.cfg, data).captions == "random"
    assert len(data.split("test").queries) == VIDEOS < len(data.split("train").queries)


def _choose(skills: list[str], ranks: list[float]) -> list[int]:
    queries = tuple(Query(f"q{i}", "", f"v{i}", skill) for i, skill in enumerate(skills))
    data: Any = SimpleNamespace(split=lambda name: Split((), queries))
    result: Any = SimpleNamespace(t2v_ranks=SimpleNamespace(expected=np.array(ranks)))
    return picture.choose_queries(data, result)


def test_the_picture_shows_the_median_query_of_each_skill() -> None:
    assert _choose(["a", "b", "a", "b", "a"], [9, 1, 1, 7, 3]) == [4, 1]
    assert _choose(["s"] * 3, [1, 1, 1]) == [0, 1, 2]
    assert _choose([""] * 8, [4, 2, 8, 8, 3, 1, 9, 9]) == [1, 2, 5, 6]
    assert _choose([""], [1]) == [0]


def _drawn(tested: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[QueryStrip]:
    seen: list[QueryStrip] = []
    monkeypatch.setattr(picture, "draw_retrieval", lambda path, strips, title: seen.extend(strips))
    assert picture.draw_picture(*tested, tmp_path) == tmp_path / "retrieval.png"
    return seen


def test_a_strip_has_the_best_videos_in_order_and_marks_the_right_one(
    tested: tuple[RetrievalModule, Six, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data, result = tested
    scores = model.similarity(dict(result.text), dict(result.video))
    strips = _drawn(tested, tmp_path, monkeypatch)
    assert len(strips) == 4
    texts = [query.text for query in data.split("test").queries]
    for strip in strips:
        row = texts.index(strip.query)
        order = scores[row].argsort(descending=True)[:5].tolist()
        assert [hit.video_id for hit in strip.hits] == [f"v{i}" for i in order]
        assert [hit.correct for hit in strip.hits] == [i == row for i in order]
        assert [hit.score for hit in strip.hits] == pytest.approx(scores[row, order].tolist())
        assert all(hit.frames.shape == (6, 120, 160, 3) for hit in strip.hits)
        assert strip.gold_rank == 1 + int((scores[row] > scores[row, row]).sum())


def test_a_video_that_has_gone_is_drawn_from_the_cache(
    tested: tuple[RetrievalModule, Six, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: Any) -> None:
        raise picture.VideoError("gone")

    monkeypatch.setattr(picture, "probe", gone)
    strips = _drawn(tested, tmp_path, monkeypatch)
    assert all(hit.frames.shape == (3, 32, 48, 3) for strip in strips for hit in strip.hits)


@pytest.mark.parametrize("size", [(64, 48), (48, 64), (1000, 10), (1, 1), (1920, 1080)])
def test_a_strip_keeps_the_shape_of_the_video(size: tuple[int, int]) -> None:
    width, height = size
    fitted: Callable[[int, int], tuple[int, int]] = picture._fit
    new_height, new_width = fitted(width, height)
    assert 1 <= new_height <= 120 and 1 <= new_width <= 168
    assert new_height == 120 or new_width == 168
    if min(new_height, new_width) > 10:
        assert new_width / new_height == pytest.approx(width / height, rel=0.05)
