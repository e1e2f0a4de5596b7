"""From the features of a split to its result: both directions, per skill and inside groups.

N texts (queries), M videos (clips), V videos that could be read.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tvr_bench.datamodules.types import Split
from tvr_bench.errors import UserError
from tvr_bench.evaluation.finding import by_similarity, by_vectors, check_room, in_two_stages
from tvr_bench.evaluation.groups import chance_metrics, group_pairs, group_ranks
from tvr_bench.evaluation.outcome import Found, StageCost
from tvr_bench.evaluation.ranks import Floats, Ints, Metrics, Ranks
from tvr_bench.evaluation.scoring import (
    BlockScores,
    BlockSize,
    Features,
    Similarity,
    matrix_gb,
)
from tvr_bench.evaluation.top import Lists
from tvr_bench.evaluation.two_stage import Stages
from tvr_bench.evaluation.vector_scores import Vectors

_STREAM_BLOCK = (1024, 1024)  # where no block was asked for but the matrix is too large to keep
_LOGGED = ("R@1", "R@5", "R@10", "R@50", "MdR", "MnR", "tied_queries", "nan_queries")


@dataclass
class EvaluationResult:
    """What the evaluation of one split found.

    `t2v` and `v2t` hold the metrics of `Ranks.metrics`; `in_group` those of text-to-video inside
    the queries' groups with `chance_R@1`, empty where no query has one; `by_skill` maps a skill
    to these three for its queries (`t2v`, `in_group`) and the clips they describe (`v2t`).
    `t2v_ranks` and `in_group_ranks` belong to `query_ids` and `in_group_ids`, `v2t_ranks` to
    `clip_ids`: the clips that a query describes. `failed` are clips that could not be read.
    `query_ms` [N] is each query's share of the time of scoring, `seconds` that of everything.
    `pairs_scored` are pairs that the model scored, `stages` says how two stages shared the work.
    `scores` is the matrix, float32 [N, M], where it was asked for and fits in memory (two stages
    have none); `text` and `video` are the features in the order of queries and readable clips,
    where asked for. `best` int32 [N, k] are the first clips of each query, best first, as positions
    in the split's clips `gallery_ids`, -1 where no more have a score; None unless asked for.
    """

    split: str
    t2v: Metrics
    v2t: Metrics
    in_group: Metrics
    by_skill: dict[str, dict[str, Metrics]]
    t2v_ranks: Ranks
    v2t_ranks: Ranks
    in_group_ranks: Ranks
    query_ids: tuple[str, ...]
    clip_ids: tuple[str, ...]
    in_group_ids: tuple[str, ...]
    failed: tuple[str, ...]
    nan_scores: int
    pairs_scored: int
    seconds: float
    query_ms: Floats
    stages: StageCost | None = None
    scores: Tensor | None = None
    best: Lists | None = None
    gallery_ids: tuple[str, ...] = ()
    text: Features = field(default_factory=dict)
    video: Features = field(default_factory=dict)

    @property
    def rsum(self) -> float:
        """R@1 + R@5 + R@10 of both directions, at most 600."""
        return self.t2v["RSum"] + self.v2t["RSum"]

    @property
    def ms_per_query(self) -> float:
        """Mean time of scoring one query against the gallery, in milliseconds."""
        return float(self.query_ms.mean())

    def flat(self) -> dict[str, float]:
        """Return what a logger wants by name: `t2v_R@1`, `R@1_mean`, `temporal/in_group_R@1`."""
        values = {
            f"{direction}_{name}": metrics[name]
            for direction, metrics in (("t2v", self.t2v), ("v2t", self.v2t))
            for name in _LOGGED
        }
        for name in ("R@1", "R@10"):
            values[f"{name}_mean"] = (self.t2v[name] + self.v2t[name]) / 2
        values["RSum"] = self.rsum
        if self.in_group:
            values["in_group_R@1"] = self.in_group["R@1"]
        for skill, directions in self.by_skill.items():
            for direction, metrics in directions.items():
                if metrics:
                    values[f"{skill}/{direction}_R@1"] = metrics["R@1"]
        return values


def evaluate_features(
    similarity: Similarity,
    text: Features,
    video: Features,
    split: Split,
    *,
    name: str = "",
    failed: Collection[str] = (),
    block: BlockSize = None,
    max_matrix_gb: float | None = None,
    keep_scores: bool = False,
    stages: Stages | None = None,
    vectors: Vectors | None = None,
    v2t: str = "caption",
    top: int = 0,
) -> EvaluationResult:
    """Return the result of N texts against M clips, from features in the order of the split.

    `video` has the V clips that are not in `failed`. Above `max_matrix_gb` (10^9 bytes) no matrix
    is kept, only ranks: they are the same. With `stages` the search has two stages, and `block`
    bounds only how many pairs are scored at once. With `vectors`, a model's `score_vectors`, ranks
    are exact and neither `similarity` nor `block` is used. `v2t` says how many captions of a clip
    compete: each by itself (`caption`) or as one (`group`). The first `top` clips of each text are
    kept, at most 64: of equal scores the first in the split, and none without a score. Raises
    UserError where features and split do not fit, and where the candidates of two stages do not fit
    in `max_matrix_gb`.
    """
    start = time.perf_counter()
    gold = gold_positions(split)
    present = torch.tensor([clip.id not in failed for clip in split.clips])
    if not present.any():
        raise UserError(f"no clip of split '{name}' could be read, so nothing is ranked")
    fits = max_matrix_gb is None or matrix_gb(len(gold), len(present)) <= max_matrix_gb
    size = _STREAM_BLOCK if block is None and not fits else block
    made = BlockScores(similarity, text, video, size, present)
    if made.shape[0] != len(gold):
        raise UserError(
            f"there are features of {made.shape[0]} texts, but split '{name}' has {len(gold)} "
            "queries; give one row of features per query"
        )
    rows, columns = group_pairs(gold.tolist(), [query.group for query in split.queries])
    wanted = torch.cat([torch.arange(len(gold)), rows]), torch.cat([gold, columns])
    how: dict[str, Any] = {"grouped": v2t == "group", "top": top}
    if stages is not None:
        check_room(stages, len(gold), len(present), max_matrix_gb)
        found = in_two_stages(stages, made, gold, wanted, present, keep=fits, **how)
    elif vectors is not None:
        keep = fits and keep_scores
        found = by_vectors(vectors, made, gold, wanted, present, keep=keep, **how)
    else:
        found = by_similarity(made, gold, wanted, keep=fits, **how)
    found = found if keep_scores else replace(found, scores=None)
    result = _result(split, name, failed, found, _rank(found, gold, rows), gold)
    return replace(result, seconds=time.perf_counter() - start)


def gold_positions(split: Split) -> Tensor:
    """Return the position of each query's clip in the split, int64 [N].

    Raises UserError where the split is empty, or a query names a clip that it does not have.
    """
    place = {clip.id: position for position, clip in enumerate(split.clips)}
    if len(place) < len(split.clips):
        raise UserError("two clips of the split have the same id; give every clip its own")
    strays = [query for query in split.queries if query.clip_id not in place]
    if strays:
        raise UserError(
            f"query '{strays[0].id}' describes clip '{strays[0].clip_id}', which the split does "
            f"not have ({len(strays)} such queries); add the clip or drop the query"
        )
    if not split.queries:
        raise UserError("the split has no query; there is nothing to evaluate, so add captions")
    return torch.tensor([place[query.clip_id] for query in split.queries])


@dataclass(frozen=True)
class _Ranked:
    """Ranks of all queries, of the clips `described` by one, and of queries `grouped` inside."""

    t2v: Ranks
    v2t: Ranks
    inside: Ranks
    described: Ints
    grouped: Ints


def _rank(found: Found, gold: Tensor, rows: Tensor) -> _Ranked:
    """Return all ranks; `rows` are the queries of the pairs of the groups."""
    right, rivals = found.values[: len(gold)], found.values[len(gold) :]
    grouped, inside = group_ranks(rivals, rows, right)
    described = np.unique(gold.numpy())
    return _Ranked(found.t2v, found.v2t.take(described), inside, described, grouped.numpy())


def _result(
    split: Split,
    name: str,
    failed: Collection[str],
    found: Found,
    ranked: _Ranked,
    gold: Tensor,
) -> EvaluationResult:
    """Return all that was found, without the time it took."""
    return EvaluationResult(
        split=name,
        t2v=ranked.t2v.metrics(),
        v2t=ranked.v2t.metrics(),
        in_group=chance_metrics(ranked.inside) if len(ranked.inside) else {},
        by_skill=_by_skill(split, gold.numpy(), ranked),
        t2v_ranks=ranked.t2v,
        v2t_ranks=ranked.v2t,
        in_group_ranks=ranked.inside,
        query_ids=tuple(query.id for query in split.queries),
        clip_ids=tuple(split.clips[clip].id for clip in ranked.described),
        in_group_ids=tuple(split.queries[query].id for query in ranked.grouped),
        failed=tuple(clip.id for clip in split.clips if clip.id in failed),
        nan_scores=found.nan_scores,
        pairs_scored=found.pairs_scored,
        seconds=0.0,
        query_ms=found.query_ms,
        stages=found.stages,
        scores=found.scores,
        best=found.best,
        gallery_ids=tuple(clip.id for clip in split.clips),
    )


def _by_skill(split: Split, gold: Ints, ranked: _Ranked) -> dict[str, dict[str, Metrics]]:
    """Return the metrics of each skill that a query names."""
    skills = np.array([query.skill for query in split.queries])
    result: dict[str, dict[str, Metrics]] = {}
    for skill in sorted(set(skills.tolist()) - {""}):
        mine = skills == skill
        members = ranked.inside.take(mine[ranked.grouped])
        result[skill] = {
            "t2v": ranked.t2v.take(mine).metrics(),
            "v2t": ranked.v2t.take(np.isin(ranked.described, gold[mine])).metrics(),
            "in_group": chance_metrics(members) if len(members) else {},
        }
    return result
