"""The value of every query, from the ranks that each run keeps: what statistics are made of.

Values are in the unit of the metric: recalls in percent, so that their mean is the record's own
number. Q queries (of v2t: videos), R runs, which are the seeds of one system.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvr_bench.errors import UserError
from tvr_bench.evaluation.intervals import (
    Floats,
    median_interval,
    rank_interval,
    share_intervals,
)
from tvr_bench.evaluation.significance import (
    Comparison,
    compare_values,
    mean_sd,
)
from tvr_bench.leaderboard.record import Record, load_ranks, load_record

Texts = NDArray[np.str_]
Arrays = Mapping[str, NDArray[Any]]
_METRIC = re.compile(r"(t2v|v2t|in_group)_(R@[1-9][0-9]{0,5}|MnR|RSum)")


@dataclass(frozen=True)
class QueryValues:
    """One value [Q] per query, with the queries' ids [Q] and what they share their luck with [Q].

    That is their video, or whatever else the data set names as its unit.
    """

    ids: Texts
    videos: Texts
    values: Floats

    def in_order_of(self, ids: Texts) -> QueryValues | None:
        """Return the same in the order of `ids`; None where these are not the same queries."""
        if np.array_equal(self.ids, ids):
            return self
        if len(ids) != len(self.ids):
            return None
        mine, theirs = np.argsort(self.ids), np.argsort(ids)
        if not np.array_equal(self.ids[mine], ids[theirs]):
            return None
        place = np.empty_like(mine)
        place[theirs] = mine
        return QueryValues(ids, self.videos[place], self.values[place])


@dataclass(frozen=True)
class Estimate:
    """A system's number: the mean over its seeds, and how far it can be trusted.

    `sd` is the standard deviation over seeds, None for one; `low` and `high` bound the mean over
    other test videos.
    """

    mean: float
    sd: float | None
    low: float
    high: float
    seeds: int
    queries: int
    videos: int


def compare(
    runs_a: Sequence[Path | str],
    runs_b: Sequence[Path | str],
    metric: str = "t2v_R@1",
    skill: str | None = None,
) -> Comparison:
    """Return how system A differs from system B, each given by the run folders of its seeds.

    `metric` is a direction (`t2v`, `v2t`, `in_group`) with `_R@k`, `_RSum` or `_MnR`; `skill`
    keeps the queries of one skill. The difference is A less B, in the metric's unit, with an
    interval and a p that are not corrected for other comparisons (`significance.holm` does).
    Raises UserError where a run cannot be read or the two did not answer the same queries.
    """
    if not runs_a or not runs_b:
        raise UserError("a comparison needs runs of two systems; give at least one folder of each")
    parts = load_values([*runs_a, *runs_b], metric, skill)
    values = np.stack([part.values for part in parts])
    first, second = values[: len(runs_a)], values[len(runs_a) :]
    return compare_values(first, second, parts[0].videos, most=most_of(metric))


def estimate(
    runs: Sequence[Path | str], metric: str = "t2v_R@1", skill: str | None = None
) -> Estimate:
    """Return the number of one system, given by the run folders of its seeds.

    Arguments and errors are those of `compare`; `metric` may end in `_MdR` too.
    """
    middle = metric.endswith("_MdR")
    parts = load_values(runs, metric.replace("_MdR", "_MnR"), skill)
    reduce = np.median if middle else np.mean
    mean, sd = mean_sd([float(reduce(part.values)) for part in parts])
    values, units = np.mean([part.values for part in parts], axis=0), parts[0].videos
    if middle:
        low, high = median_interval(values, units)
    elif metric.endswith("_MnR"):
        low, high = rank_interval(values, units)
    else:
        low, high = share_intervals(values[:, None], units, most=most_of(metric))[0].tolist()
    return Estimate(mean, sd, low, high, len(parts), len(values), len(np.unique(units)))


def most_of(metric: str) -> float:
    """Return the greatest value that a query can have."""
    return {"RSum": 300.0, "MnR": np.inf}.get(metric.rpartition("_")[2], 100.0)


def load_values(
    runs: Sequence[Path | str], metric: str, skill: str | None = None
) -> list[QueryValues]:
    """Return the values of each run, all in the order of the first one's queries.

    Raises UserError where there is no run, one cannot be read, or they differ in their queries.
    """
    if not runs:
        raise UserError("there is no run to measure; give at least one run folder")
    parts: list[QueryValues] = []
    tests: list[tuple[str, ...]] = []
    for run in map(Path, runs):
        record = load_record(run)
        found = query_values(record, load_ranks(record, run), metric, skill)
        tests.append((record.data.name, record.data.annotations_sha256, record.protocol.split))
        aligned = found.in_order_of(parts[0].ids) if parts else found
        if aligned is None or tests[-1] != tests[0]:
            raise UserError(
                f"{runs[0]} and {run} were not tested on the same queries; "
                "give runs of the same data set and split"
            )
        parts.append(aligned)
    return parts


def query_values(
    record: Record, arrays: Arrays, metric: str, skill: str | None = None
) -> QueryValues:
    """Return the value of each query of one run, from the arrays of its ranks file.

    Raises UserError for an unknown metric or skill, and where the arrays do not say it.
    """
    direction, name = _parse(metric)
    run = record.run.id
    try:
        ids, videos, kept = _rows(record, arrays, direction, skill)
        values = _values(arrays, direction, name)
    except KeyError as error:
        raise UserError(
            f"the ranks of run {run} lack {error.args[0]}; repeat the run with this version"
        ) from error
    if not len(ids) == len(videos) == len(values):
        raise UserError(f"the ranks of run {run} do not fit each other; repeat the run")
    if kept is not None:
        ids, videos, values = ids[kept], videos[kept], values[kept]
    if not len(ids):
        where = f" of skill '{skill}'" if skill else ""
        raise UserError(f"run {run} has no query{where} for {metric}; choose another")
    return QueryValues(ids, videos, values)


def _parse(metric: str) -> tuple[str, str]:
    found = _METRIC.fullmatch(metric)
    if found is None:
        raise UserError(
            f"'{metric}' has no value per query; use t2v_, v2t_ or in_group_ with R@k, RSum or MnR"
        )
    return found[1], found[2]


def _rows(
    record: Record, arrays: Arrays, direction: str, skill: str | None
) -> tuple[Texts, Texts, NDArray[np.bool_] | None]:
    """Return the ids and the units of a direction's rows, and which of them a skill keeps."""
    queries = arrays["query_ids"]
    clips = _clips(record, arrays) if direction != "v2t" or skill else queries
    units = arrays.get("query_units", clips)
    mine = None if skill is None else arrays["query_skills"] == skill
    if direction == "v2t":
        ids = arrays["clip_ids"]
        kept = None if mine is None else np.isin(ids, clips[mine])
        return ids, arrays.get("clip_units", ids), kept
    if direction == "t2v":
        return queries, units, mine
    place = {query: i for i, query in enumerate(queries.tolist())}
    inside = np.array([place[query] for query in arrays["in_group_ids"].tolist()], dtype=np.int64)
    return queries[inside], units[inside], None if mine is None else mine[inside]


def _clips(record: Record, arrays: Arrays) -> Texts:
    """Return the clip of each query; early ranks lack it, and need none for one caption each."""
    single = record.protocol.captions == "single" and "query_clip_ids" not in arrays
    return arrays["query_ids" if single else "query_clip_ids"]


def _values(arrays: Arrays, direction: str, name: str) -> Floats:
    # importing torch takes longer than the whole leaderboard of a few runs
    from tvr_bench.evaluation.ranks import Ranks

    ranks = Ranks(
        **{
            key: arrays[f"{direction}_{key}"].astype(np.int64)
            for key in ("ahead", "tied", "gold", "items")
        },
        nan=arrays[f"{direction}_nan"].astype(np.bool_),
    )
    if name == "MnR":
        return ranks.expected
    recalls = (1, 5, 10) if name == "RSum" else (int(name[2:]),)
    values: Floats = 100 * np.sum([ranks.hits(k) for k in recalls], axis=0)
    return values
