"""The leaderboard for people: two Markdown tables per group, quality and cost."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from tvr_bench.leaderboard.record import STANDARD_METRICS

Row = dict[str, Any]
Column = tuple[str, Callable[[Row], str]]

_HEAD = """# Leaderboard

Ranks hold inside a group of equal data, split and protocol, by text-to-video R@1. Recalls are in
percent and count tied scores by their expectation; MdR and MnR are the median and mean rank.
"""
_FOOT = """
---
Made from the records of all runs by `make leaderboard`. Do not edit: it is overwritten by the
next run. Every digit and every column is in `leaderboard.csv`.
"""
_SELECTION = {
    "best_val": "best on validation",
    "last": "after the last step",
    "best_test": "best on test (only to repeat a paper's protocol)",
}


def render_markdown(rows: Sequence[Row]) -> str:
    """Return the whole page for rows that are already ranked and in order, group after group."""
    parts = [_HEAD]
    for _, members in groupby(rows, key=lambda row: row["group"]):
        parts.append(_section(list(members)))
    if not rows:
        parts.append("\nNo run has left a record yet.\n")
    return "".join([*parts, _FOOT])


def _section(rows: list[Row]) -> str:
    first = rows[0]
    name = " ".join(plain(first[key]) for key in ("data", "variant") if first[key])
    lines = [
        f"\n## {name}, {plain(first['split'])}\n",
        f"{first['queries']} queries, {first['clips']} videos; {_protocol(first['protocol'])}. "
        f"Group `{first['group']}`.\n",
        *_table(rows, [*_named(), *_quality()]),
        "",
        *_table(rows, [*_named(), *_skills(rows), *_cost()]),
    ]
    return "\n".join(lines) + "\n"


def _protocol(key: str) -> str:
    captions, frames, size, words, selection, *rest = key.split("|")
    text = (
        f"{captions} caption per query, {frames[:-1]} frames of {size} pixels (height x width), "
        f"{words[:-1]} words, weights {_SELECTION[selection]}"
    )
    return ", ".join([text, *rest])


def _named() -> list[Column]:
    return [
        ("#", lambda row: str(row["rank"])),
        ("model", lambda row: plain(row["model"])),
        ("OCR", lambda row: plain(row["ocr"])),
        ("seed", lambda row: str(row["seed"])),
    ]


def _quality() -> list[Column]:
    names = [(d, m) for d in ("t2v", "v2t") for m in STANDARD_METRICS]
    columns = [(f"{d.upper()} {m}", _number(f"{d}_{m}", 1)) for d, m in names]
    return [*columns, ("RSum", _number("RSum", 1))]


def _skills(rows: list[Row]) -> list[Column]:
    skills = sorted({k.split(":", 1)[1] for row in rows for k in row if k.startswith("in_group:")})
    return [(f"{plain(skill)} in group (chance)", _in_group(skill)) for skill in skills]


def _in_group(skill: str) -> Callable[[Row], str]:
    value, chance = _number(f"in_group:{skill}", 1), _number(f"chance:{skill}", 0)
    return lambda row: f"{value(row)} ({chance(row)})"


def _cost() -> list[Column]:
    return [
        ("M params", _number("params", 2, 1e6)),
        ("GFLOPs text", _number("gflops_text", 3)),
        ("GFLOPs video", _number("gflops_video", 3)),
        ("pairs scored", _number("pairs_scored", 0)),
        ("ms/query p50", _number("ms_per_query_p50", 2)),
        ("p95", _number("ms_per_query_p95", 2)),
        ("kB/video", _number("gallery_bytes_per_video", 1, 1e3)),
        ("peak MB", _number("peak_mem_mb", 0)),
        ("train s", _number("train_s", 0)),
        ("device", lambda row: plain(row["device"])),
        ("failed", lambda row: str(row["failed"])),
        ("run", lambda row: plain(row["run_id"])),
        ("date", lambda row: plain(row["date"])[:10]),
    ]


def _number(name: str, digits: int, unit: float = 1.0) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        value = row.get(name)
        return "-" if value is None else f"{value / unit:.{digits}f}"

    return cell


def _table(rows: list[Row], columns: list[Column]) -> list[str]:
    head = [title for title, _ in columns]
    # numbers to the right, names to the left
    names = {"model", "OCR", "device", "run", "date"}
    rule = [":--" if title in names else "--:" for title in head]
    body = [[cell(row) for _, cell in columns] for row in rows]
    return ["| " + " | ".join(cells) + " |" for cells in (head, rule, *body)]


def plain(text: str) -> str:
    """Return `text` as one line that Markdown shows letter by letter: no markup, link or cell."""
    line = " ".join(str(text).split())
    return re.sub(r"([\\`*\[\]<>|~#$])", r"\\\1", line.replace("&", "&amp;"))
