"""The picture of a result: a few queries with their best videos as film strips.

N texts, M videos, F frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tvr_bench.datamodules.base import VideoTextDataModule
from tvr_bench.datamodules.types import Clip
from tvr_bench.evaluation.candidates import in_order
from tvr_bench.evaluation.evaluate import EvaluationResult
from tvr_bench.leaderboard.strips import Hit, QueryStrip, draw_retrieval
from tvr_bench.media.video import VideoError, probe, read_frames, segment_centres
from tvr_bench.models.base import RetrievalModule
from tvr_bench.report import SPLIT, as_scored

_PICTURE = "retrieval.png"
_QUERIES, _HITS, _STRIP_FRAMES, _STRIP_SIZE = 4, 5, 6, (120, 168)


def draw_picture(
    model: RetrievalModule, data: VideoTextDataModule, result: EvaluationResult, run_dir: Path
) -> Path:
    """Draw the best videos of a few queries, one per skill where there are skills."""
    split = data.split(SPLIT)
    chosen = choose_queries(data, result)
    clips = [split.clips[i] for i in data.items(SPLIT).readable]
    text, video = as_scored(model, result.text), as_scored(model, result.video)
    rows = {key: value[chosen] for key, value in text.items()}
    with torch.inference_mode():
        parts = model.score_parts(rows, video)
    order, scores = ranked(model, result, chosen)
    strips = []
    for row, query in enumerate(chosen):
        best = order[row, :_HITS].tolist()
        gold = split.queries[query].clip_id
        hits = [
            _hit(
                clips[i],
                data,
                clips[i].id == gold,
                float(scores[row, i]),
                {name: float(part[row, i]) for name, part in parts.items() if len(parts) > 1},
            )
            for i in best
        ]
        rank = float(result.t2v_ranks.expected[query])
        strips.append(QueryStrip(split.queries[query].text, split.queries[query].skill, hits, rank))
    path = run_dir / _PICTURE
    title = f"{model.cfg.model.name} on {model.cfg.data.name}, {len(split.clips)} videos"
    draw_retrieval(path, strips, title)
    return path


def ranked(
    model: RetrievalModule, result: EvaluationResult, queries: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Return the order of the readable videos for some queries, and their scores, both [Q, V].

    It is that of the test: in two stages the candidates come first.
    """
    text, video = as_scored(model, result.text), as_scored(model, result.video)
    rows = {key: value[list(queries)] for key, value in text.items()}
    with torch.inference_mode():
        scores = first = model.similarity(rows, video).float().cpu()
        if result.stages is not None:
            recall: Any = model.recall_embedding
            first = (recall(rows) @ recall(video).mT).float().cpu()
    return in_order(first, scores, result.stages.k if result.stages else 0), scores


def choose_queries(data: VideoTextDataModule, result: EvaluationResult) -> list[int]:
    """Return the positions of the queries to show: of each skill (or of all) one in the middle.

    The one whose rank is the median of its skill, so that the picture flatters nobody.
    """
    queries = data.split(SPLIT).queries
    ranks = np.asarray(result.t2v_ranks.expected)
    skills = sorted({query.skill for query in queries})
    groups = [[i for i, q in enumerate(queries) if q.skill == skill] for skill in skills]
    if len(groups) == 1:
        groups = [list(part) for part in np.array_split(np.arange(len(queries)), _QUERIES)]
    return [_median_of(group, ranks) for group in groups if group][:_QUERIES]


def _median_of(group: list[int], ranks: np.ndarray) -> int:
    ordered = sorted(group, key=lambda i: (ranks[i], i))
    return ordered[(len(ordered) - 1) // 2]


def _hit(
    clip: Clip, data: VideoTextDataModule, correct: bool, score: float, parts: dict[str, float]
) -> Hit:
    captions = data.windows(clip.id) if data.reads_text else []
    return Hit(clip.id, correct, _strip_frames(clip, data), score, captions, parts)


def _strip_frames(clip: Clip, data: VideoTextDataModule) -> np.ndarray:
    """Return a few frames at a size to look at, from the file itself."""
    try:
        limit = data.cfg.video.max_pixels
        info = probe(clip.path, limit)
        times = segment_centres(info.duration, _STRIP_FRAMES, clip.start, clip.end)
        return read_frames(clip.path, times, _fit(info.width, info.height), max_pixels=limit)
    except VideoError:  # gone or damaged since it was cached: the cached frames show the same
        return data.items(SPLIT).frames.get(clip.id)[0]


def _fit(width: int, height: int) -> tuple[int, int]:
    """Return (height, width) no larger than a strip's cell, in the shape of the video."""
    scale = min(_STRIP_SIZE[0] / height, _STRIP_SIZE[1] / width)
    return max(1, round(height * scale)), max(1, round(width * scale))
