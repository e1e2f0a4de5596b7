"""What a place on the leaderboard is worth: intervals, and tests of each lead over the next.

Q queries, S systems of a group, R seeds of a system.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tvr_bench.errors import UserError
from tvr_bench.evaluation.intervals import Floats, difference_intervals, share_intervals
from tvr_bench.evaluation.significance import (
    ALPHA,
    holm,
    seed_error,
    sign_flip_test,
)
from tvr_bench.leaderboard.per_query import Arrays, QueryValues, query_values
from tvr_bench.leaderboard.record import Record, load_ranks

Row = dict[str, Any]
METRIC = "R@1"
_AGREE = 1e-6  # percent; the record's mean and that of its ranks differ by less

SIGNIFICANT = "significant"
ONE_SEED = "significant, but one seed"
WITHIN_SEEDS = "within the spread of seeds"
NOT_SIGNIFICANT = "not significant"
NOT_TESTED = "not tested"


@dataclass(frozen=True)
class Sample:
    """One query to look at: its caption, its skill and its rank in each system, None where unknown.

    A rank is the median over a system's seeds; `found` is a caption of the video that its latest
    seed put first, "" where that is not kept.
    """

    id: str
    text: str
    skill: str
    ranks: tuple[float | None, ...]
    found: tuple[str, ...] = ()


@dataclass(frozen=True)
class QueryStats:
    """A system's values per query by direction, averaged over seeds, and R@1 of each seed.

    `samples` has one rank each.
    """

    values: dict[str, QueryValues]
    by_seed: list[float]
    samples: dict[str, Sample]


def load_stats(runs: Sequence[tuple[Path, Record]]) -> tuple[QueryStats | None, list[str]]:
    """Return what the ranks of a system's seeds say, or None and why they say nothing."""
    directions: dict[str, list[QueryValues]] = {"t2v": [], "v2t": []}
    ranks: list[QueryValues] = []
    arrays: Arrays = {}
    for path, record in runs:
        try:
            arrays = load_ranks(record, path)
            for direction, parts in directions.items():
                parts.append(_checked(record, arrays, direction, path))
                if parts[-1].in_order_of(parts[0].ids) is None:
                    raise UserError(f"the ranks of {path} are of other queries; repeat the run")
            ranks.append(query_values(record, arrays, "t2v_MnR"))
        except UserError as error:
            return None, [f"no interval and no test: {error}"]
    values = {direction: _mean_over_seeds(parts) for direction, parts in directions.items()}
    seeds = [float(part.values.mean()) for part in directions["t2v"]]
    return QueryStats(values, seeds, _samples(arrays, ranks)), []


def add_standing(
    rows: Sequence[Row], stats: Sequence[QueryStats | None]
) -> tuple[list[Sample], list[str]]:
    """Give the ranked rows of one group their intervals and leads; return a few queries.

    A row gets `DIRECTION_R@1_low` and `_high`, and of its lead over the next row: `lead` (percent
    points, with `_low` and `_high`), `lead_p`, `lead_p_holm` and `lead_verdict`. The warnings name
    systems that were not tested on the same queries as the first.
    """
    first = next((found for found in stats if found is not None), None)
    if first is None:
        _verdicts(rows, [], {})
        return [], []
    aligned, warnings = [], []
    for row, found in zip(rows, stats, strict=True):
        kept = found and _aligned(found, first)
        if found and not kept:
            warnings.append(
                f"no interval and no test: the runs {row['run_ids']} have other queries than "
                f"{rows[0]['run_ids']} of the same data; repeat one of them"
            )
        aligned.append(kept)
    known = [i for i, found in enumerate(aligned) if found]
    tables = {d: _table([aligned[i] for i in known], d) for d in first.values}
    for direction, table in tables.items():
        videos = first.values[direction].videos
        for i, (low, high) in zip(known, share_intervals(table, videos), strict=True):
            rows[i][f"{direction}_{METRIC}_low"] = float(low)
            rows[i][f"{direction}_{METRIC}_high"] = float(high)
    pairs = [(i, i + 1) for i in known if i + 1 in known]
    if pairs:
        place = {i: column for column, i in enumerate(known)}
        upper, lower = ([place[pair[side]] for pair in pairs] for side in (0, 1))
        table = tables["t2v"]
        _test(rows, pairs, table[:, upper] - table[:, lower], first.values["t2v"].videos)
    _verdicts(rows, pairs, {i: found.by_seed for i, found in enumerate(aligned) if found})
    return _compared(aligned), warnings


def _test(
    rows: Sequence[Row], pairs: Sequence[tuple[int, int]], table: Floats, videos: Any
) -> None:
    bounds = difference_intervals(table, videos, most=100.0)
    p_values = sign_flip_test(table, videos).tolist()
    adjusted = holm(p_values)
    for (i, _), (low, high), p, p_holm in zip(pairs, bounds, p_values, adjusted, strict=True):
        rows[i] |= {"lead_low": float(low), "lead_high": float(high)}
        rows[i] |= {"lead_p": p, "lead_p_holm": p_holm}


def _verdicts(
    rows: Sequence[Row], pairs: Sequence[tuple[int, int]], seeds: dict[int, list[float]]
) -> None:
    tested = dict(pairs)
    for i, row in enumerate(rows[:-1]):
        row["lead"] = row[f"t2v_{METRIC}"] - rows[i + 1][f"t2v_{METRIC}"]
        if i not in tested:
            row["lead_verdict"] = NOT_TESTED
        elif row["lead_p_holm"] >= ALPHA:
            row["lead_verdict"] = NOT_SIGNIFICANT
        else:
            error = seed_error(seeds[i], seeds[i + 1])
            inside = error is not None and row["lead"] <= 2 * error
            row["lead_verdict"] = WITHIN_SEEDS if inside else SIGNIFICANT
            if error is None:
                row["lead_verdict"] = ONE_SEED


def _checked(record: Record, arrays: Arrays, direction: str, path: Path) -> QueryValues:
    """Return the values of a direction, once they give the record's own number."""
    found = query_values(record, arrays, f"{direction}_{METRIC}")
    stated = getattr(record.metrics, direction)[METRIC]
    if abs(float(found.values.mean()) - stated) > _AGREE:
        raise UserError(
            f"the ranks of {path} give {direction} {METRIC} {found.values.mean():.3f}, its record "
            f"says {stated:.3f}; repeat the run"
        )
    return found


def _mean_over_seeds(parts: Sequence[QueryValues]) -> QueryValues:
    aligned = [part.in_order_of(parts[0].ids) for part in parts]
    values = np.mean([part.values for part in aligned if part is not None], axis=0)
    return replace(parts[0], values=values)


def _aligned(found: QueryStats, first: QueryStats) -> QueryStats | None:
    values = {}
    for direction, part in found.values.items():
        ordered = part.in_order_of(first.values[direction].ids)
        if ordered is None:
            return None
        values[direction] = ordered
    return replace(found, values=values)


def _table(stats: Sequence[QueryStats | None], direction: str) -> Floats:
    """Return the values [Q, S] of the systems of one group."""
    columns = [found.values[direction].values for found in stats if found is not None]
    return np.stack(columns, axis=1)


def _samples(arrays: Arrays, ranks: Sequence[QueryValues]) -> dict[str, Sample]:
    """Return the sampled captions with their median rank over seeds; none in early ranks."""
    names = ("sample_ids", "sample_texts", "query_skills")
    if any(name not in arrays for name in names):
        return {}
    ids, texts, skills = (arrays[name].tolist() for name in names)
    first = arrays.get("sample_found_texts", np.array([""] * len(ids))).tolist()
    places = [{query: i for i, query in enumerate(part.ids.tolist())} for part in ranks]
    samples = {}
    for query, text, best in zip(ids, texts, first, strict=False):
        if query in places[-1] and all(query in place for place in places):
            mine = [part.values[place[query]] for part, place in zip(ranks, places, strict=True)]
            skill = str(skills[places[-1][query]]) if places[-1][query] < len(skills) else ""
            samples[query] = Sample(query, text, skill, (float(np.median(mine)),), (best,))
    return samples


def _compared(stats: Sequence[QueryStats | None]) -> list[Sample]:
    """Return the samples of all systems, each with its rank in every one of them."""
    found: dict[str, Sample] = {}
    for system in stats:
        found |= {
            key: s for key, s in (system.samples if system else {}).items() if key not in found
        }
    return [
        replace(
            sample,
            ranks=tuple(
                system.samples[key].ranks[0] if system and key in system.samples else None
                for system in stats
            ),
            found=tuple(
                system.samples[key].found[0] if system and key in system.samples else ""
                for system in stats
            ),
        )
        for key, sample in found.items()
    ]
