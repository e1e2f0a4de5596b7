"""Run folders with scores of known strength, evaluated and recorded by the real code."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tvr_bench.datamodules.types import Clip, Query, Split
from tvr_bench.evaluation.evaluate import EvaluationResult, evaluate_features
from tvr_bench.leaderboard.record import Record, save_record
from tvr_bench.leaderboard.result import metrics_of, ranks_of

SKILLS = ("appearance", "relation", "scene_text", "temporal")
Strength = Mapping[str, float]  # by skill: how far the right score stands out


def make_split(clips: int = 64, captions: int = 1, text: str = "a {skill} street, {i}") -> Split:
    """Return clips in groups of four, each with `captions` queries of its group's skill."""
    skills = [SKILLS[i // 4 % len(SKILLS)] for i in range(clips)]
    return Split(
        clips=tuple(Clip(f"v{i}", Path(f"v{i}.mp4")) for i in range(clips)),
        queries=tuple(
            Query(f"q{i}-{j}", text.format(skill=skills[i], i=i), f"v{i}", skills[i], f"g{i // 4}")
            for i in range(clips)
            for j in range(captions)
        ),
    )


def evaluate(split: Split, strength: Strength, seed: int) -> EvaluationResult:
    """Return the evaluation of random scores in which right pairs stand out by `strength`."""
    place = {clip.id: i for i, clip in enumerate(split.clips)}
    shared = np.random.default_rng(99).normal(size=(len(split.queries), len(split.clips)))
    own = np.random.default_rng(seed).normal(size=shared.shape)
    scores = 0.8 * shared + 0.6 * own  # what is hard is hard for every model
    for row, query in enumerate(split.queries):
        gold = place[query.clip_id]
        scores[row, gold - gold % 4 : gold - gold % 4 + 4] += 2.0  # hard negatives score high too
        scores[row, gold] += strength.get(query.skill, 0.0)
    table = torch.as_tensor(scores, dtype=torch.float32)
    text, video = ({name: torch.arange(n)} for name, n in zip("rc", table.shape, strict=True))
    return evaluate_features(lambda t, v: table[t["r"]][:, v["c"]], text, video, split, name="test")


def write_run(
    root: Path,
    name: str,
    *,
    model: str = "tcard",
    seed: int = 0,
    strength: Strength | float = 1.0,
    split: Split | None = None,
    config: str | None = None,
    units: Mapping[str, str] | None = None,
    **changes: Any,
) -> Path:
    """Write a run's record, ranks and configuration; return its folder.

    `units` is what clips share their luck with, by id, and `changes` replace parts of the record,
    as `section__key=value`.
    """
    split = split or make_split()
    if not isinstance(strength, Mapping):
        strength = dict.fromkeys(SKILLS, strength)
    result = evaluate(split, strength, sum(map(ord, model)) * 1000 + seed)
    content = _content(name, model, seed, split, result)
    for place, value in changes.items():
        section, _, key = place.partition("__")
        content[section][key] = value
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    if config is not None:
        text = f"seed: {seed}\nrun:\n  root: runs\n  name: null\n{config}"
        (folder / "config.yaml").write_text(text, encoding="utf-8")
    save_record(Record(**content), folder, ranks_of(result, split, units))
    return folder


def _content(
    name: str, model: str, seed: int, split: Split, result: EvaluationResult
) -> dict[str, Any]:
    date = datetime(2030, 1, 2, 3, 4, tzinfo=UTC) + timedelta(minutes=seed)
    cost = 1 + sum(map(ord, model)) % 7  # another for each model
    return {
        "run": {
            "id": name,
            "date": date,
            "git": "0123456789" * 4,
            "dirty": False,
            "command": f"tvr-bench bench model=x seed={seed}",
            "seed": seed,
            "wall_s": 400.0 + seed,
        },
        "model": {
            "name": model,
            "backbone": "tiny",
            "checkpoint_sha256": "a" * 64,
            "params": 500_000 * cost,
        },
        "data": {
            "name": "signvid",
            "variant": "small",
            "annotations_sha256": "b" * 64,
            "clips": len(split.clips),
            "queries": len(split.queries),
        },
        "protocol": {
            "split": "test",
            "captions": "single" if len(split.clips) == len(split.queries) else "all",
            "frames": 6,
            "resolution": (80, 112),
            "words": 32,
            "ocr": {"enabled": model == "tcard", "engine": "rapidocr" * (model == "tcard")},
        },
        "metrics": metrics_of(result).model_dump(),
        "efficiency": {
            "device": "cpu",
            "dtype": "float32",
            "threads": 2,
            "gflops_text": 0.004 * cost,
            "gflops_video": 0.9 * cost,
            "gflops_pair": 1e-6 * cost**3,
            "pairs_scored": len(split.clips) * len(split.queries),
            "ms_per_query_p50": 0.4 * cost**2 + 0.01 * seed,
            "ms_per_query_p95": 0.6 * cost**2,
            "gallery_bytes_per_video": 2048.0 * cost,
            "peak_mem_mb": 900.0 + 50 * cost,
            "train_s": 120.0 * cost,
            "videos_per_s": 800.0 / cost,
        },
        "env": {"python": "3.11.7"},
    }
