"""From what an evaluation found to what a record keeps."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import zip_longest
from typing import TYPE_CHECKING

import numpy as np

from tvr_bench.datamodules.types import Query, Split
from tvr_bench.leaderboard.record import Metrics, SkillMetrics, Values

if TYPE_CHECKING:
    from tvr_bench.evaluation.evaluate import EvaluationResult
    from tvr_bench.evaluation.top import Lists

_COUNTS = ("tied_queries", "nan_queries")
_SAMPLE, _LONGEST_TEXT = 24, 300  # captions kept for people to read, and letters of each


def metrics_of(result: EvaluationResult) -> Metrics:
    """Return the metrics of `result` as a record holds them; no time is among them."""
    directions = {"t2v": result.t2v, "v2t": result.v2t}
    return Metrics(
        t2v=_without_counts(result.t2v),
        v2t=_without_counts(result.v2t),
        in_group=dict(result.in_group),
        by_skill={skill: SkillMetrics(**parts) for skill, parts in result.by_skill.items()},
        tied_queries={name: int(values["tied_queries"]) for name, values in directions.items()},
        nan_queries={name: int(values["nan_queries"]) for name, values in directions.items()},
        nan_scores=result.nan_scores,
    )


def ranks_of(
    result: EvaluationResult,
    split: Split,
    units: Mapping[str, str] | None = None,
) -> dict[str, np.ndarray]:
    """Return the per-query ranks of `result` as arrays for `save_record`, one row per query.

    `query_ids` name the rows of `t2v_*`, `clip_ids` those of `v2t_*` and `in_group_ids` those of
    `in_group_*`; `ahead`, `tied`, `gold`, `items` and `nan` are those of `Ranks`, so every metric
    can be made again, ties included. Where the result lists them, `t2v_found` has the first clips
    of each query, best first, as positions in `gallery_ids`, -1 for none. `query_clip_ids` and
    `query_skills` are each query's clip and skill, `*_units` what each shares its luck with (by
    clip id, else its clip), `sample_ids` and `sample_texts` a few captions, the same for every run
    on `split`; `sample_found_texts` has a caption of the first clip that was found for them.
    """
    sample, units = sample_queries(split.queries), units or {}
    texts = {
        "query_ids": result.query_ids,
        "query_clip_ids": [query.clip_id for query in split.queries],
        "query_skills": [query.skill for query in split.queries],
        "query_units": [units.get(query.clip_id, query.clip_id) for query in split.queries],
        "clip_ids": result.clip_ids,
        "clip_units": [units.get(clip, clip) for clip in result.clip_ids],
        "in_group_ids": result.in_group_ids,
        "sample_ids": [query.id for query in sample],
        "sample_texts": [query.text[:_LONGEST_TEXT] for query in sample],
    }
    if result.best is not None:
        texts["gallery_ids"] = result.gallery_ids
        texts["sample_found_texts"] = _first_texts(sample, result.best, split)
    arrays: dict[str, np.ndarray] = {}
    arrays |= {name: np.array(values, dtype=np.str_) for name, values in texts.items()}
    if result.best is not None:
        arrays["t2v_found"] = result.best
    for name in ("t2v", "v2t", "in_group"):
        ranks = getattr(result, f"{name}_ranks")
        for field in fields(ranks):
            arrays[f"{name}_{field.name}"] = getattr(ranks, field.name)
    return arrays


def _first_texts(sample: Sequence[Query], best: Lists, split: Split) -> list[str]:
    """Return a caption of the first clip found for each query, "" where there is none."""
    captions = {query.clip_id: query.text for query in reversed(split.queries)}
    rows = {query.id: row for row, query in enumerate(split.queries)}
    places = [int(best[rows[query.id], 0]) for query in sample]
    clips = [split.clips[place].id if place >= 0 else "" for place in places]
    return [captions.get(clip, "")[:_LONGEST_TEXT] for clip in clips]


def sample_queries(queries: Sequence[Query], size: int = _SAMPLE) -> list[Query]:
    """Return up to `size` queries, as many of each skill, chosen by a hash of their ids.

    Neither a model nor an order has a say in it, so they flatter nobody.
    """
    by_skill: dict[str, list[Query]] = defaultdict(list)
    for query in sorted(queries, key=lambda q: hashlib.sha256(repr(q.id).encode()).digest()):
        by_skill[query.skill].append(query)
    turns = zip_longest(*(by_skill[skill] for skill in sorted(by_skill)))
    return [query for turn in turns for query in turn if query is not None][:size]


def _without_counts(values: Mapping[str, float]) -> Values:
    return {name: value for name, value in values.items() if name not in _COUNTS}
