"""A whole record to start from."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from tvr_bench.leaderboard.record import Record

RecordFactory = Callable[..., Record]


def _metrics(r1: float) -> dict[str, float]:
    return {"R@1": r1, "R@5": r1 + 20, "R@10": r1 + 30, "R@50": r1 + 40, "MdR": 2.0, "MnR": 7.25}


def _all_metrics() -> dict[str, Any]:
    skills = {"appearance": 77.9, "temporal": 23.0, "relation": 75.0, "scene_text": 96.2}
    return {
        "t2v": _metrics(48.1),
        "v2t": _metrics(46.6),
        "by_skill": {
            skill: {
                "t2v": {**_metrics(40.0), "queries": 52},
                "in_group": {"R@1": v, "chance_R@1": 25.0, "queries": 52},
            }
            for skill, v in skills.items()
        },
        "tied_queries": {"t2v": 0, "v2t": 0},
    }


def _content() -> dict[str, Any]:
    return {
        "run": {
            "id": "tcard-signvid-s0-20300102-030405",
            "date": datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC),
            "git": "0" * 40,
            "dirty": False,
            "command": "tvr-bench bench model=tcard",
            "seed": 0,
            "wall_s": 431.5,
        },
        "model": {
            "name": "tcard",
            "backbone": "tiny",
            "checkpoint_sha256": "a" * 64,
            "params": 1_500_000,
        },
        "data": {
            "name": "signvid",
            "variant": "small",
            "annotations_sha256": "b" * 64,
            "clips": 208,
            "queries": 208,
            "clips_with_text": 201,
        },
        "protocol": {
            "split": "test",
            "captions": "single",
            "frames": 12,
            "resolution": (224, 224),
            "words": 32,
            "ocr": {"enabled": True, "engine": "rapidocr", "windows": 12},
        },
        "metrics": _all_metrics(),
        "efficiency": {
            "device": "cpu",
            "dtype": "float32",
            "gflops_text": 0.0123,
            "gflops_video": 1.5,
            "pairs_scored": 43_264,
            "ms_per_query_p50": 3.25,
            "ms_per_query_p95": 4.5,
            "gallery_bytes_per_video": 18_432.0,
            "peak_mem_mb": 2345.6,
            "train_s": 250.0,
        },
        "phases": {"render": 42.0, "ocr": 147.0, "frames": 15.2, "train": 250.0, "test": 8.1},
        "env": {"python": "3.11.7"},
    }


@pytest.fixture
def make_record() -> RecordFactory:
    """Return a function from changes, as `section__key=value`, to a record."""

    def make(**changes: Any) -> Record:
        content = _content()
        for place, value in changes.items():
            *sections, key = place.split("__")
            part = content
            for section in sections:
                part = part[section]
            part[key] = value
        return Record(**content)

    return make


@pytest.fixture
def ranks() -> dict[str, np.ndarray]:
    """Return per-query ranks as an evaluation leaves them."""
    return {
        "text_ids": np.array(["q1", "q2", "q3"]),
        "video_ids": np.array(["-4wsuPCjDBc_5_15", "v2"]),
        "t2v_ahead": np.array([0, 1, 1]),
        "v2t_ahead": np.array([0, 2]),
    }
