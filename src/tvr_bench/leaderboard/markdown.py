"""The leaderboard as Markdown: tables of quality and cost per group, and the papers' numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from tvr_bench.leaderboard.board import Board, titles
from tvr_bench.leaderboard.record import STANDARD_METRICS
from tvr_bench.leaderboard.reported import CONFIDENCE, METRICS, Reported, as_printed

Row = dict[str, Any]
Column = tuple[str, Callable[[Row], str]]

_HEAD = """# Leaderboard

Ranks hold inside a group of equal data, split and protocol, by text-to-video R@1. Recalls are in
percent and count tied scores by their expectation; MdR and MnR are the median and mean rank. A row
is a system: the mean of its n seeds +- their standard deviation, in brackets a 95 % interval of the
mean over other test videos. A lead over the next row is tested by 10,000 random sign flips of the
paired hits, video by video; p is corrected for the group's tests (Holm). What is significant on
these weights may still lie within the spread of seeds, and then says so.
"""
_FOOT = """
---
Made from the records of all runs by `make leaderboard`. Do not edit: it is overwritten by the
next run. Every digit and every column is in `leaderboard.csv`, every run in `runs.csv`.
"""
_REPORTED = """
## As the papers report

Copied, not measured here: other data, towers, schedules and choices of weights. Not ranked, not
comparable with the tables above, and no target.
"""
_NAMES = ("model", "settings", "backbone", "OCR", "lead over the next", "device", "runs", "date")


def render_markdown(board: Board) -> str:
    """Return the whole page."""
    parts = [_HEAD]
    for group, title in zip(board.groups, titles(board.groups), strict=True):
        parts.append(_section(title, group.rows, group.protocol, group.warning))
    if not board.groups:
        parts.append("\nNo run has left a record yet.\n")
    if board.reported:
        parts.append(_reported(board.reported))
    if board.warnings:
        lines = [f"- {plain(warning)}" for warning in board.warnings]
        parts.append("\n".join(["\n## Left out\n", *lines]) + "\n")
    return "".join([*parts, _FOOT])


def _section(title: str, rows: list[Row], protocol: Sequence[str], warning: str) -> str:
    first = rows[0]
    lines = [
        f"\n## {plain(title)}\n",
        f"{first['queries']} queries, {first['clips']} videos; {plain(', '.join(protocol))}. "
        f"Group `{first['group']}`.\n",
        *([f"**{warning}.**\n"] if warning else []),
        *_table(rows, [*_named(rows), *_quality()]),
        "",
        *_table(rows, [*_named(rows), *_skills(rows), *_cost()]),
    ]
    return "\n".join(lines) + "\n"


def _named(rows: Sequence[Row]) -> list[Column]:
    columns: list[Column] = [
        ("#", lambda row: str(row["rank"])),
        ("model", lambda row: plain(row["model"])),
        ("backbone", lambda row: plain(row["backbone"])),
        ("OCR", lambda row: plain(row["ocr"])),
    ]
    if any(row["settings"] for row in rows):
        columns.append(("settings", lambda row: plain(row["settings"]) or "-"))
    return [*columns, ("n", lambda row: str(row["seeds"]))]


def _quality() -> list[Column]:
    columns: list[Column] = []
    for direction in ("t2v", "v2t"):
        for metric in STANDARD_METRICS:
            cell = _estimate if metric == "R@1" else _number
            columns.append((f"{direction.upper()} {metric}", cell(f"{direction}_{metric}", 1)))
    return [
        *columns,
        ("RSum", _number("RSum", 1)),
        ("lead over the next", lambda row: plain(lead(row))),
    ]


def _estimate(name: str, digits: int) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        sd, low, high = (row.get(f"{name}_{part}") for part in ("sd", "low", "high"))
        spread = "" if sd is None else f" +- {sd:.{digits}f}"
        interval = "" if low is None else rf" \[{low:.{digits}f}, {high:.{digits}f}\]"
        return f"{row[name]:.{digits}f}{spread}{interval}"

    return cell


def lead(row: Row) -> str:
    """Return a row's lead over the next in words: how large, and whether it means anything."""
    if row.get("lead") is None:
        return "-"
    text = f"+{row['lead']:.1f}, {row['lead_verdict']}"
    p = row.get("lead_p_holm")
    return text if p is None else f"{text} (p {p_value(p)})"


def p_value(p: float) -> str:
    """Return a p-value as it is usually written: three digits, never 0."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}" if p < 0.1 else f"= {p:.2f}"


def _skills(rows: list[Row]) -> list[Column]:
    return [(f"{plain(skill)} in group (chance)", _in_group(skill)) for skill in skills_of(rows)]


def skills_of(rows: Sequence[Row]) -> list[str]:
    """Return the skills that any row has a number in its groups for, sorted."""
    found = {key.split(":", 1)[1] for row in rows for key in row if key.startswith("in_group:")}
    return sorted(found)


def _in_group(skill: str) -> Callable[[Row], str]:
    value, chance = _number(f"in_group:{skill}", 1), _number(f"chance:{skill}", 0)
    return lambda row: f"{value(row)} ({chance(row)})"


def _cost() -> list[Column]:
    return [
        ("M params", _number("params", 2, 1e6)),
        ("GFLOPs text", _number("gflops_text", 3)),
        ("GFLOPs video", _number("gflops_video", 3)),
        ("MFLOPs pair", _number("gflops_pair", 3, 1e-3)),
        ("GFLOPs query", _number("gflops_query", 3)),
        ("pairs scored", _number("pairs_scored", 0)),
        ("ms/query p50", _number("ms_per_query_p50", 2)),
        ("p95", _number("ms_per_query_p95", 2)),
        ("kB/video", _number("gallery_bytes_per_video", 1, 1e3)),
        ("peak MB", _number("peak_mem_mb", 0)),
        ("train s", _number("train_s", 0)),
        ("device", lambda row: plain(row["device"])),
        ("missing", lambda row: str(row["missing"])),
        ("failed", lambda row: str(row["failed"])),
        ("runs", lambda row: plain(row["run_ids"])),
        ("date", lambda row: plain(row["date"])[:10]),
    ]


def _number(name: str, digits: int, unit: float = 1.0) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        value = row.get(name)
        return "-" if value is None else f"{value / unit:.{digits}f}"

    return cell


def _reported(results: Sequence[Reported]) -> str:
    lines = [_REPORTED]
    for _, members in groupby(results, key=lambda one: (one.paper.model, one.paper.title)):
        mine = list(members)
        paper = mine[0].paper
        lines.append(f"### {plain(paper.title)}, {plain(paper.venue)}\n")
        lines += [f"{plain(note)}\n" for note in paper.notes]
        head = [f"{d} {m}" for d in ("T2V", "V2T") for m in METRICS]
        lines += _markdown(
            ["data", "system", "backbone", *head, "source", "confidence", "red flags"],
            [":--", ":--", ":--", *("--:" for _ in head), ":--", ":--", ":--"],
            [_reported_cells(one) for one in mine],
        )
        lines.append("")
    return "\n".join(lines)


def _reported_cells(one: Reported) -> list[str]:
    result = one.result
    values = [as_printed(m, part.get(m)) for part in (result.t2v, result.v2t) for m in METRICS]
    return [
        plain(f"{result.data} {result.split}".strip()),
        plain(result.system) + ("" if result.role == "own" else f" ({result.role})"),
        plain(result.backbone) or "-",
        *values,
        plain(result.source),
        CONFIDENCE[result.confidence],
        plain("; ".join(result.flags)) or "-",
    ]


def _table(rows: list[Row], columns: list[Column]) -> list[str]:
    head = [title for title, _ in columns]
    # numbers to the right, names to the left
    rule = [":--" if title in _NAMES else "--:" for title in head]
    return _markdown(head, rule, [[cell(row) for _, cell in columns] for row in rows])


def _markdown(head: Sequence[str], rule: Sequence[str], body: Sequence[list[str]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (head, rule, *body)]


def plain(text: str) -> str:
    """Return `text` as one line that Markdown shows letter by letter: no markup, link or cell."""
    line = " ".join(str(text).split())
    return re.sub(r"([\\`*\[\]<>|~#$])", r"\\\1", line.replace("&", "&amp;"))
