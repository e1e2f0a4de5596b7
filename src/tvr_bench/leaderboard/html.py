"""The leaderboard as one HTML file that needs nothing else, and runs no script but its own.

Captions, names and notes come from data sets and from strangers' records. The template escapes
all of them, and the page forbids (Content-Security-Policy) every script and style but the two
whose hash it names, every request and every form.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tvr_bench.leaderboard.aggregate import Group
from tvr_bench.leaderboard.board import Board, StageCurve, group_name, titles
from tvr_bench.leaderboard.chart import Chart
from tvr_bench.leaderboard.figures import cost_chart, skill_chart, stage_chart, styles_of
from tvr_bench.leaderboard.markdown import skills_of
from tvr_bench.leaderboard.page_cells import hardware, shorten
from tvr_bench.leaderboard.page_tables import (
    cost_table,
    origin_table,
    quality_table,
    reported_table,
    sample_table,
    skill_table,
    stage_table,
)
from tvr_bench.leaderboard.reported import Reported

Row = dict[str, Any]


def render_html(board: Board) -> str:
    """Return the whole page."""
    environment = _environment()
    style, script = (_own(environment, name) for name in ("page.css", "page.js"))
    models = [row["model"] for group in board.groups for row in group.rows]
    styles = styles_of(models)
    return environment.get_template("page.html").render(
        policy="; ".join(
            (
                "default-src 'none'",
                f"style-src '{_digest(style)}'",
                f"script-src '{_digest(script)}'",
                "base-uri 'none'",
                "form-action 'none'",
            )
        ),
        style=style,
        script=script,
        runs=board.runs,
        systems=len(models),
        groups=[
            _group(group, title, styles)
            for group, title in zip(board.groups, titles(board.groups), strict=True)
        ],
        stages=_stages(board.curves, styles),
        reported=_reported(board.reported, {group.rows[0]["data"] for group in board.groups}),
        warnings=[shorten(warning, 400) for warning in board.warnings],
    )


def _group(group: Group, title: str, styles: dict[str, int]) -> dict[str, Any]:
    rows = group.rows
    first = rows[0]
    tables = [quality_table(rows, styles), skill_table(rows, styles), cost_table(rows, styles)]
    folded = [origin_table(rows, styles), sample_table(group.samples, rows)]
    return {
        "anchor": f"group-{first['group']}",
        "title": title,
        "key": first["group"],
        "facts": [f"{first['queries']} queries", f"{first['clips']} videos", *group.protocol],
        "warning": group.warning,
        "tables": [table for table in tables if table],
        "charts": _charts(group, styles),
        "folded": [table for table in folded if table],
        "hardware": _where(rows),
    }


def _charts(group: Group, styles: dict[str, int]) -> list[Chart]:
    rows, skills = group.rows, skills_of(group.rows)
    time = "ms per query, median"
    work = "GFLOPs per query, the gallery being encoded"
    charts = [
        cost_chart(rows, styles, "ms_per_query_p50", "R@1 against time per query", time),
        cost_chart(rows, styles, "gflops_query", "R@1 against operations per query", work),
        skill_chart(rows, styles, skills) if skills else None,
    ]
    return [chart for chart in charts if chart]


def _stages(curves: Sequence[StageCurve], styles: dict[str, int]) -> list[dict[str, Any]]:
    """Return a chart and a table per data set: curves of two are never drawn together."""
    by_data: dict[str, list[StageCurve]] = {}
    for curve in curves:
        by_data.setdefault(group_name(curve.rows), []).append(curve)
    return [
        {"chart": stage_chart(mine, styles, name), "table": stage_table(mine, styles)}
        for name, mine in by_data.items()
    ]


def _where(rows: Sequence[Row]) -> str:
    """Return on which hardware a group was measured, a warning where on several."""
    names = sorted({hardware(row) for row in rows})
    if len(names) == 1:
        return f"Time and memory: {shorten(names[0])}."
    return "Times are of different machines and compare only within one."


def _reported(results: Sequence[Reported], board: set[str]) -> dict[str, Any] | None:
    """Return the papers' results by data set, open for those of the `board`; others' come last."""
    if not results:
        return None
    by_data: dict[str, list[Reported]] = {}
    for one in sorted(results, key=lambda one: one.result.role == "baseline"):
        by_data.setdefault(one.result.data, []).append(one)
    tables = [
        {"open": data in board, "table": reported_table(mine, data)}
        for data, mine in by_data.items()
    ]
    papers = list({one.paper.title: one.paper for one in results}.values())
    return {
        "papers": papers,
        "tables": tables,
    }


def _own(environment: Environment, name: str) -> Markup:
    """Return a file of ours as it is."""
    assert environment.loader is not None
    return Markup(environment.loader.get_source(environment, name)[0])


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("tvr_bench.leaderboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
