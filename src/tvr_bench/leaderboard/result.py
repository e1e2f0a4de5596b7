"""From what an evaluation found to what a record keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING

import numpy as np

from tvr_bench.leaderboard.record import Metrics, SkillMetrics, Values

if TYPE_CHECKING:
    from tvr_bench.evaluation.evaluate import EvaluationResult

_COUNTS = ("tied_queries", "nan_queries")


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


def ranks_of(result: EvaluationResult) -> dict[str, np.ndarray]:
    """Return the per-query ranks of `result` as arrays for `save_record`, one row per query.

    `query_ids` name the rows of `t2v_*`, `clip_ids` those of `v2t_*` and `in_group_ids` those of
    `in_group_*`; `ahead`, `tied`, `gold`, `items` and `nan` are those of `Ranks`, so every metric
    can be made again, ties included.
    """
    arrays = {
        "query_ids": np.array(result.query_ids, dtype=np.str_),
        "clip_ids": np.array(result.clip_ids, dtype=np.str_),
        "in_group_ids": np.array(result.in_group_ids, dtype=np.str_),
    }
    for name in ("t2v", "v2t", "in_group"):
        ranks = getattr(result, f"{name}_ranks")
        for field in fields(ranks):
            arrays[f"{name}_{field.name}"] = getattr(ranks, field.name)
    return arrays


def _without_counts(values: Mapping[str, float]) -> Values:
    return {name: value for name, value in values.items() if name not in _COUNTS}
