"""The figures of the HTML page: R@1 against cost, skills, and what a second stage needs.

Every model has one colour and one shape on the whole page; all that a figure says is also in a
table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tvr_bench.leaderboard.board import StageCurve
from tvr_bench.leaderboard.chart import (
    Bar,
    Chart,
    Label,
    Line,
    Mark,
    Scale,
    Tick,
    even_ticks,
    log_scale,
    log_ticks,
    percent_scale,
    place_labels,
    whole_ticks,
)
from tvr_bench.leaderboard.page_cells import shorten

Row = dict[str, Any]
STYLES = 8  # colours, each with its own shape
_LONGEST_NAME = 30


def styles_of(models: Sequence[str]) -> dict[str, int]:
    """Return the style of each model, from 0; more than `STYLES` models share some."""
    return {model: i % STYLES for i, model in enumerate(sorted(set(models)))}


def names_of(rows: Sequence[Row]) -> list[str]:
    """Return a short name for each row: its model, and of the rest what tells it from others."""
    names = [str(row["model"]) for row in rows]
    for part in ("backbone", "ocr", "settings"):
        for name in {n for n in names if names.count(n) > 1}:
            mine = [i for i, n in enumerate(names) if n == name]
            values = {i: _short_value(part, str(rows[i][part])) for i in mine}
            if len(set(values.values())) > 1:
                for i in mine:
                    names[i] = f"{name}, {values[i]}" if values[i] else name
    return [_cut(name) for name in names]


def cost_chart(
    rows: Sequence[Row], styles: dict[str, int], cost: str, title: str, x_label: str
) -> Chart | None:
    """Return R@1 against a cost on a log axis; None where fewer than two rows have the cost."""
    known = [row for row in rows if (row.get(cost) or 0) > 0]
    if len(known) < 2:
        return None
    chart = Chart(title, x_label, "R@1, text to video", [], [])
    x = log_scale([row[cost] for row in known], chart.left, chart.right)
    y = percent_scale(_r1(known), chart.bottom, chart.top)
    marks = []
    for row, name in zip(known, names_of(known), strict=True):
        low, high = (None if end is None else y(end) for end in _bounds(row))
        text = f"{name}: R@1 {row['t2v_R@1']:.1f}, {row[cost]:.3g} {x_label}"
        at, style = (x(row[cost]), y(row["t2v_R@1"])), styles[row["model"]]
        marks.append(Mark(*at, low, high, style, text, Label(0, 0, name)))
    left_out = len(rows) - len(known)
    return replace(
        chart,
        x_ticks=log_ticks(x),
        y_ticks=even_ticks(y),
        marks=place_labels(marks, chart),
        note=f"{left_out} of {len(rows)} systems have no such figure." if left_out else "",
    )


def skill_chart(rows: Sequence[Row], styles: dict[str, int], skills: Sequence[str]) -> Chart | None:
    """Return bars of R@1 inside the groups per skill, the best system of each model, with chance.

    None where no row has skills.
    """
    best: dict[str, Row] = {}
    for row in rows:
        if any(f"in_group:{skill}" in row for skill in skills):
            best.setdefault(row["model"], row)
    if not best:
        return None
    chart = Chart(
        "What a model can tell apart",
        "",
        "right inside the group, %",
        [],
        [],
        width=1140,
        height=316,
        right=1124,
        top=24,
        bottom=266,
    )
    y = Scale(0, 100, chart.bottom, chart.top)
    slot = (chart.right - chart.left) / len(skills)
    width = min(58.0, 0.8 * slot / len(best))
    bars, lines, ticks = [], [], []
    for i, skill in enumerate(skills):
        centre = chart.left + (i + 0.5) * slot
        start = centre - width * len(best) / 2
        for j, row in enumerate(best.values()):
            if f"in_group:{skill}" in row:
                bars.append(_bar(row, skill, start + j * width, width, y, styles))
        chance = next((r[f"chance:{skill}"] for r in rows if r.get(f"chance:{skill}")), None)
        if chance is None:
            ticks.append(Tick(centre, _cut(skill)))
            continue
        ticks.append(Tick(centre, _cut(skill), f"chance {chance:.0f}"))
        ends = (centre - 0.45 * slot, centre + 0.45 * slot)
        lines.append(Line(tuple((x, y(chance)) for x in ends), None, dashed=True))
    return replace(
        chart,
        x_ticks=ticks,
        y_ticks=[Tick(y(v), str(v)) for v in (0, 25, 50, 75, 100)],
        bars=bars,
        lines=lines,
        legend=[(styles[model], _cut(model)) for model in best],
        note=(
            "The best system of each model. Dashed: what guessing reaches. Thin lines: standard "
            "deviation over seeds."
        ),
    )


def stage_chart(curves: Sequence[StageCurve], styles: dict[str, int], title: str) -> Chart:
    """Return R@1 against k of a two-stage search, with what scoring everything reaches, dashed.

    The curves are of one data set and split.
    """
    rows = [row for curve in curves for row in curve.rows]
    everything = [curve.whole for curve in curves if curve.whole]
    chart = Chart(
        title,
        "videos per query that the model scores (k)",
        "R@1, text to video",
        [],
        [],
        width=440,
        height=320,
        right=430,
        bottom=266,
    )
    x = log_scale([row["two_stage"] for row in rows], chart.left, chart.right)
    y = percent_scale([row["t2v_R@1"] for row in (*rows, *everything)], chart.bottom, chart.top)
    marks, lines = [], []
    for curve in curves:
        style = styles[curve.rows[0]["model"]]
        points = tuple((x(row["two_stage"]), y(row["t2v_R@1"])) for row in curve.rows)
        lines.append(Line(points, style))
        if curve.whole:
            level = y(curve.whole["t2v_R@1"])
            lines.append(Line(((chart.left, level), (chart.right, level)), style, dashed=True))
        for row, (at, level) in zip(curve.rows, points, strict=True):
            text = f"{_cut(row['model'])}, k = {row['two_stage']}: R@1 {row['t2v_R@1']:.1f}"
            marks.append(Mark(at, level, None, None, style, text))
    return replace(
        chart,
        x_ticks=whole_ticks(sorted({int(row["two_stage"]) for row in rows}), x),
        y_ticks=even_ticks(y),
        marks=marks,
        lines=lines,
        legend=[(styles[m], _cut(m)) for m in dict.fromkeys(c.rows[0]["model"] for c in curves)],
        note="Dashed: the model scores every video.",
    )


def _bar(row: Row, skill: str, left: float, width: float, y: Scale, styles: dict[str, int]) -> Bar:
    value, sd = row[f"in_group:{skill}"], row.get(f"in_group_sd:{skill}")
    error = None if sd is None else abs(y(sd) - y(0))
    top = y(value)
    above = Label(left + width / 2, top - 5 - (error or 0.0), f"{value:.0f}", "middle")
    text = f"{_cut(row['model'])}, {_cut(skill)}: {value:.1f}" + (
        "" if sd is None else f" ± {sd:.1f}"
    )
    return Bar(left + 2, top, width - 4, y(0) - top, styles[row["model"]], text, above, error)


def _bounds(row: Row) -> tuple[float | None, float | None]:
    return row.get("t2v_R@1_low"), row.get("t2v_R@1_high")


def _r1(rows: Sequence[Row]) -> list[float]:
    """Return R@1 of the rows and the ends of its intervals."""
    ends = [end for row in rows for end in _bounds(row) if end is not None]
    return [*(row["t2v_R@1"] for row in rows), *ends]


def _short_value(part: str, value: str) -> str:
    """Return a value as a name has room for it: settings without the sections of their keys."""
    if part == "ocr":
        return "no OCR" if value == "none" else value
    pairs = (setting.partition("=") for setting in value.split())
    return " ".join(f"{key.rpartition('.')[2]}{sign}{what}" for key, sign, what in pairs)


def _cut(name: str) -> str:
    return shorten(name, _LONGEST_NAME)
