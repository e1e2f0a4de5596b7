"""All that a leaderboard page shows, in any format."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from tvr_bench.leaderboard.aggregate import Group, Row, System
from tvr_bench.leaderboard.page_cells import shorten
from tvr_bench.leaderboard.reported import Reported


@dataclass(frozen=True)
class StageCurve:
    """One system searched in two stages: its rows by k, and the one that scores everything."""

    rows: list[Row]
    whole: Row | None


@dataclass(frozen=True)
class Board:
    """Ranked groups of `runs` runs, curves over k, the papers' numbers, what was left out."""

    groups: list[Group]
    runs: int
    curves: list[StageCurve]
    reported: list[Reported]
    warnings: list[str]


def group_name(rows: Sequence[Row]) -> str:
    """Return what was tested: the data set, its edition, what its users call it, and the split."""
    first = rows[0]
    called = sorted({str(row["title"]) for row in rows if row["title"]})
    parts = [first["data"], first["variant"], " = ".join(called)]
    return f"{' '.join(shorten(part) for part in parts if part)}, {shorten(first['split'])}"


def titles(groups: Sequence[Group]) -> list[str]:
    """Return the names of groups with, where some share one, the phrases that set these apart.

    Where no phrase does, it is the annotations, by their hash.
    """
    names = [group_name(group.rows) for group in groups]
    shared: dict[str, set[str]] = {}
    for name, group in zip(names, groups, strict=True):
        shared[name] = shared.get(name, set(group.protocol)) & set(group.protocol)
    found = [
        ", ".join([name, *(shorten(p) for p in group.protocol if p not in shared[name])])
        for name, group in zip(names, groups, strict=True)
    ]
    marks = [f"annotations {str(group.rows[0]['annotations'])[:8]}" for group in groups]
    return [
        title if found.count(title) == 1 else f"{title}, {mark}"
        for title, mark in zip(found, marks, strict=True)
    ]


def stage_curves(groups: Sequence[Group], systems: Sequence[System]) -> list[StageCurve]:
    """Return a curve for every system that was searched in two stages with two k or more.

    Scoring everything counts as one of them.
    """
    rows = {row["system"]: row for group in groups for row in group.rows}
    families: dict[str, list[Row]] = defaultdict(list)
    for system in systems:
        run = system.runs[0]
        families[run.family].append(rows[run.system])
    curves = []
    for members in families.values():
        staged = sorted((r for r in members if r["two_stage"]), key=lambda r: r["two_stage"])
        whole = next((r for r in members if not r["two_stage"]), None)
        if staged and len(members) > 1:
            curves.append(StageCurve(staged, whole))
    return sorted(curves, key=lambda curve: [str(curve.rows[0][k]) for k in ("data", "model")])
