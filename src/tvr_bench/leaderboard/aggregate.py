"""From runs to the rows of the leaderboard: seeds become one system, systems get their rank.

Systems are ranked only inside a group of equal data, split and protocol. Each is tested against
the next one in rank and no other, so n systems cost n - 1 tests, for which Holm's correction pays.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

from tvr_bench.evaluation.intervals import few_queries
from tvr_bench.evaluation.significance import mean_sd
from tvr_bench.files import settings_hash
from tvr_bench.leaderboard.apart import made_of, said, tell_apart
from tvr_bench.leaderboard.grouping import group_hash, protocol_key, protocol_words
from tvr_bench.leaderboard.record import STANDARD_METRICS, Efficiency, Record
from tvr_bench.leaderboard.run_settings import RunSettings
from tvr_bench.leaderboard.standing import QueryStats, Sample, add_standing, load_stats

Row = dict[str, Any]
DIRECTIONS = ("t2v", "v2t")
_HARDWARE = ("device", "dtype", "threads")
_COSTS = tuple(name for name in Efficiency.model_fields if name not in _HARDWARE)


@dataclass(frozen=True)
class Run:
    """One record with its folder (`name` is it below the root of all runs) and its settings."""

    path: Path
    name: str
    record: Record
    settings: RunSettings

    @cached_property
    def group(self) -> str:
        """16 hex digits that two runs share only where their numbers may be compared."""
        return group_hash(self.record)

    @cached_property
    def system(self) -> str:
        """12 hex digits that two runs share only where they are one system but for the seed."""
        return settings_hash([self.group, *self._model(), self.parts], 12)

    @property
    def parts(self) -> dict[str, str]:
        """All that makes it another system than the next run: settings and hashes of inputs."""
        return made_of(self.record, self.settings)

    @cached_property
    def family(self) -> str:
        """12 hex digits that two runs share only where no more than the second stage differs."""
        group = group_hash(self.record, without=frozenset({"two_stage"}))
        parts = made_of(self.record, self.settings.without_two_stages())
        return settings_hash([group, *self._model(), parts], 12)

    def _model(self) -> list[Any]:
        return [self.record.model.name, self.record.model.backbone]


@dataclass(frozen=True)
class System:
    """The runs of one system, one per seed and by seed; `repeats` were left aside.

    Of several runs of one seed the latest counts: a second run of a seed is no further evidence.
    """

    runs: tuple[Run, ...]
    repeats: int = 0

    @property
    def records(self) -> list[Record]:
        """The records of the seeds."""
        return [run.record for run in self.runs]


@dataclass(frozen=True)
class Group:
    """The systems that may be compared, best first, with a few of their queries.

    `protocol` says in phrases how their numbers were made, `warning` why they say little.
    """

    rows: list[Row]
    samples: list[Sample]
    protocol: list[str]
    warning: str = ""


def systems_of(runs: Iterable[Run]) -> list[System]:
    """Return the systems that the runs are seeds of, in the order of their first run."""
    members: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        members[run.system].append(run)
    systems = []
    for mine in members.values():
        by_seed: dict[int, Run] = {}
        for run in sorted(mine, key=lambda r: (r.record.run.date, r.record.run.id)):
            by_seed[run.record.run.seed] = run
        seeds = tuple(by_seed[seed] for seed in sorted(by_seed))
        systems.append(System(seeds, len(mine) - len(seeds)))
    return systems


def rank_groups(systems: Sequence[System]) -> tuple[list[Group], list[str]]:
    """Return the groups with ranked rows, and a line for each run whose ranks say nothing.

    The order is R@1 text to video, then RSum, then the mean rank, each the mean over seeds; rows
    equal in all three share a rank. Names only make their order the same every time.
    """
    pairs = [(system_row(system), system) for system in systems]
    pairs.sort(key=lambda pair: (*_place(pair[0]), *_merit(pair[0]), *_name(pair[0])))
    groups: list[Group] = []
    warnings: list[str] = []
    for _, found in groupby(pairs, key=lambda pair: _place(pair[0])):
        members = list(found)
        rows = [row for row, _ in members]
        tell_apart(rows, [system.runs[-1].parts for _, system in members])
        stats: list[QueryStats | None] = []
        for _, system in members:
            values, faults = load_stats([(run.path, run.record) for run in system.runs])
            stats.append(values)
            warnings += faults
        _number(rows)
        samples, faults = add_standing(rows, stats)
        warnings += faults
        words = protocol_words(members[0][1].records[0])
        groups.append(Group(rows, samples, words, few_queries(rows[0]["queries"])))
    return groups, warnings


def identity(run: Run) -> Row:
    """Return what a run was: its test, model and settings."""
    record = run.record
    data, ocr = record.data, record.protocol.ocr
    return {
        "group": run.group,
        "data": data.name,
        "variant": data.variant,
        "title": data.title,
        "annotations": data.annotations_sha256,
        "split": record.protocol.split,
        "protocol": protocol_key(record),
        "model": record.model.name,
        "backbone": record.model.backbone,
        "ocr": ocr.engine if ocr.enabled else "none",
        "settings": said(record, run.settings),
        "system": run.system,
    }


def system_row(system: System) -> Row:
    """Return what a system's records say of it: means over seeds, every digit."""
    run, records = system.runs[-1], system.records
    record = run.record
    data = record.data
    row: Row = {
        "kind": "measured",
        **identity(run),
        "folders": [run.path for run in system.runs],
        "two_stage": record.protocol.two_stage,
        "seeds": len(records),
        "seed_list": " ".join(str(r.run.seed) for r in records),
        "repeats": system.repeats,
        **_quality(records),
        **_skills(records),
        **_cost(records),
        "clips": data.clips,
        "queries": data.queries,
        "missing": len(data.missing_ids),
        "failed": max(len(r.data.failed) for r in records),
        "wall_s": _mean([r.run.wall_s for r in records]),
        "git": _joined(r.run.git for r in records),
        "dirty": any(bool(r.run.dirty) for r in records),
        "run_ids": " ".join(r.run.id for r in records),
        "date": max(r.run.date for r in records).isoformat(timespec="seconds"),
    }
    return row


def rsum(record: Record) -> float:
    """Return R@1 + R@5 + R@10 of both directions, at most 600."""
    metrics = (record.metrics.t2v, record.metrics.v2t)
    return sum(values[f"R@{k}"] for values in metrics for k in (1, 5, 10))


def _quality(records: Sequence[Record]) -> Row:
    row: Row = {}
    for direction in DIRECTIONS:
        for name in STANDARD_METRICS:
            values = [getattr(r.metrics, direction)[name] for r in records]
            row |= _with_sd(f"{direction}_{name}", values)
        ties = [r.metrics.tied_queries.get(direction) for r in records]
        row[f"tied_{direction}"] = _mean(ties)
    return row | _with_sd("RSum", [rsum(r) for r in records])


def _skills(records: Sequence[Record]) -> Row:
    """Return R@1 per skill, over the gallery and in the group; of skills that all seeds have."""
    row: Row = {}
    common = set.intersection(*(set(r.metrics.by_skill) for r in records))
    for skill in sorted(common):
        found = [r.metrics.by_skill[skill] for r in records]
        if all("R@1" in f.t2v for f in found):
            row |= _with_sd("t2v_R@1", [f.t2v["R@1"] for f in found], f":{skill}")
        if all("R@1" in f.in_group for f in found):
            row |= _with_sd("in_group", [f.in_group["R@1"] for f in found], f":{skill}")
            row[f"chance:{skill}"] = found[0].in_group.get("chance_R@1")
    return row


def _cost(records: Sequence[Record]) -> Row:
    row: Row = {"params": records[0].model.params}
    row["trainable_params"] = records[0].model.trainable_params
    for name in _HARDWARE:
        row[name] = _joined(getattr(r.efficiency, name) for r in records)
    for name in _COSTS:
        row[name] = _mean([getattr(r.efficiency, name) for r in records])
    row["gflops_query"] = _gflops_query(records[0], row)
    return row


def _gflops_query(record: Record, row: Row) -> float | None:
    """Return 10^9 operations of answering one text query, the gallery being encoded.

    It encodes the text and scores the gallery, or, after a dot product with each video, the
    candidates.
    """
    text, pair, clips = row["gflops_text"], row["gflops_pair"], record.data.clips
    if text is None or pair is None:
        return None
    pairs = min(record.protocol.two_stage or clips, clips)
    cost: float = text + pairs * pair + clips * (row["gflops_recall_pair"] or 0.0)
    return cost


def _with_sd(name: str, values: Sequence[float], of: str = "") -> Row:
    mean, sd = mean_sd(values)
    return {f"{name}{of}": mean, f"{name}_sd{of}": sd}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    return known[0] if len(set(known)) == 1 else mean_sd(known)[0]


def _joined(values: Iterable[object]) -> str | None:
    known = {str(value) for value in values if value is not None}
    return " / ".join(sorted(known)) or None


def _number(rows: Sequence[Row]) -> None:
    rank, before = 0, None
    for position, row in enumerate(rows, start=1):
        if _merit(row) != before:
            rank, before = position, _merit(row)
        row["rank"] = rank


def _place(row: Row) -> tuple[str, ...]:
    return tuple(row[name] for name in ("data", "variant", "split", "protocol", "group"))


def _merit(row: Row) -> tuple[float, float, float]:
    return -row["t2v_R@1"], -row["RSum"], row["t2v_MnR"]


def _name(row: Row) -> tuple[str, ...]:
    return row["model"], row["backbone"], row["ocr"], row["settings"], row["system"]
