"""What an evaluation found, carried into a record without loss."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tvr_bench.datamodules.types import Clip, Query, Split
from tvr_bench.evaluation.evaluate import EvaluationResult, evaluate_features
from tvr_bench.evaluation.ranks import Ranks
from tvr_bench.leaderboard.console import report_text
from tvr_bench.leaderboard.record import Record, load_ranks, load_record, metrics_json, save_record
from tvr_bench.leaderboard.result import metrics_of, ranks_of, sample_queries


@pytest.fixture
def split() -> Split:
    """Return twelve clips with a caption each, of two skills."""
    names = [f"v{i}" for i in range(12)]
    skills = ["temporal"] * 8 + ["scene_text"] * 4
    return Split(
        clips=tuple(Clip(name, Path(name)) for name in names),
        queries=tuple(
            Query(f"q{i}", f"text {i}", name, skills[i], f"g{i // 4}")
            for i, name in enumerate(names)
        ),
    )


@pytest.fixture
def result(split: Split) -> EvaluationResult:
    """Return the evaluation of random features, one clip unreadable and some scores tied."""
    generator = torch.Generator().manual_seed(0)
    text = {"x": torch.randint(-2, 3, (12, 3), generator=generator).float()}
    video = {"x": torch.randint(-2, 3, (11, 3), generator=generator).float()}
    return evaluate_features(
        lambda t, v: t["x"] @ v["x"].T, text, video, split, name="test", failed=["v3"]
    )


def test_metrics_and_ranks_survive_a_record(
    result: EvaluationResult, split: Split, make_record: Callable[..., Record], tmp_path: Path
) -> None:
    record = make_record(metrics=metrics_of(result), data__failed=list(result.failed))
    save_record(record, tmp_path, ranks_of(result, split))
    found = load_record(tmp_path)
    assert metrics_json(found) == metrics_json(record)
    assert found.metrics.t2v["R@1"] == result.t2v["R@1"]
    assert found.metrics.by_skill["temporal"].in_group == result.by_skill["temporal"]["in_group"]
    assert found.metrics.by_skill["temporal"].in_group["chance_R@1"] == pytest.approx(25.0)
    assert found.metrics.tied_queries["t2v"] == result.t2v["tied_queries"] > 0

    arrays = load_ranks(found, tmp_path)
    assert list(arrays["query_ids"]) == list(result.query_ids)
    assert len(arrays["clip_ids"]) == len(arrays["v2t_ahead"])
    assert list(arrays["query_clip_ids"]) == [query.clip_id for query in split.queries]
    assert list(arrays["query_skills"]) == [query.skill for query in split.queries]
    captions = {query.id: query.text for query in split.queries}
    assert dict(zip(arrays["sample_ids"], arrays["sample_texts"], strict=True)) == captions
    kept = {name.removeprefix("t2v_"): a for name, a in arrays.items() if name.startswith("t2v_")}
    again = Ranks(**{name: array.astype(np.int64) for name, array in kept.items()})
    assert again.metrics()["R@1"] == result.t2v["R@1"]
    assert again.metrics()["MnR"] == result.t2v["MnR"]


def test_sampled_captions_do_not_depend_on_order_and_are_fair_to_skills() -> None:
    queries = [
        Query(f"q{i}", "a" * 400, f"v{i}", "rare" if i % 10 == 0 else "common") for i in range(200)
    ]
    sample = sample_queries(queries, 10)
    assert sample_queries(queries[::-1], 10) == sample
    assert [query.skill for query in sample] == ["common", "rare"] * 5
    assert len(sample_queries(queries, 500)) == 200
    assert sample_queries([], 10) == []


def test_the_report_shows_what_was_found(
    result: EvaluationResult, make_record: Callable[..., Record]
) -> None:
    record = make_record(metrics=metrics_of(result), data__clips=12, data__queries=12)
    lines = report_text(record, {}).splitlines()
    (skill,) = (line.split() for line in lines if line.strip().startswith("scene_text"))
    in_group = result.by_skill["scene_text"]["in_group"]
    assert skill[1] == "4" and skill[-1] == "25.0"
    assert skill[-2].strip("()") == f"{in_group['R@1']:.1f}"
