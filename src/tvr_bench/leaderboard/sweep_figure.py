"""A sweep's figure: what was measured, and beside it, with an axis of its own, the paper's curve.

A line over the one axis of numbers, bars otherwise. Lines differ by their markers too, bars by
their order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvr_bench.launch.grid import Cell, Sweep, Value
from tvr_bench.leaderboard.canvas import COLORS, MARKERS, Canvas, readable, wrap
from tvr_bench.leaderboard.grouping import data_name
from tvr_bench.leaderboard.sweep_report import (
    Measured,
    Summary,
    metric_label,
    number,
    summarise,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _SOFT, _RULE = "#22262b", "#6b7280", "#e3e6ea"
_WIDTH, _ROW, _BAR, _MARGIN = 1150, 400, 24, 150  # pixels
_LABEL, _SIZE = 230.0, 15.0  # pixels: of a bar's label, and of its letters
_LEGEND = 120  # letters of a line of the legend
_DODGE = 0.05  # of a tick's distance between two lines, so that their error bars stay apart


@dataclass(frozen=True)
class _Panel:
    """One source of numbers: the metrics it has, and by cell and metric a summary."""

    title: Sequence[str]
    metrics: Sequence[str]
    values: Mapping[tuple[str, str], Summary]
    reported: bool = False


def draw_sweep(path: Path, sweep: Sweep, measured: Sequence[Measured]) -> None:
    """Write the PNG of a sweep; raises ValueError where no cell has a record."""
    if not any(one.records for one in measured):
        raise ValueError("a figure needs at least one record")
    panels = [_measured_panel(sweep, measured), *_paper_panels(sweep)]
    cells = [one.cell for one in measured]
    if sweep.x is None:
        _draw_bars(path, sweep, cells, panels)
    else:
        _draw_lines(path, sweep, sweep.x, cells, panels)


def _page(
    sweep: Sweep, height: int, rows: int, columns: int, sharey: bool = False
) -> tuple[Canvas, Any]:
    """Return a titled page and its axes [rows, columns], kept apart by their labels' sizes."""
    page = Canvas(_WIDTH, height)
    page.figure.set_layout_engine("constrained")
    page.figure.suptitle(_lines(sweep.file.title, _WIDTH - 150), fontsize=11, color=_INK)
    return page, page.figure.subplots(rows, columns, squeeze=False, sharey=sharey)


def _measured_panel(sweep: Sweep, measured: Sequence[Measured]) -> _Panel:
    values = {}
    for one in measured:
        for metric in sweep.plot:
            if (found := summarise(one.records, metric)) is not None:
                values[one.cell.label, metric] = found
    first = next(record for one in measured for record in one.records.values())
    counts = sorted({len(one.records) for one in measured if one.records})
    seeds = "-".join(str(n) for n in dict.fromkeys((counts[0], counts[-1])))
    data = data_name(first)
    shown = "mean ± s.d." if counts[-1] > 1 else "one run each"
    title = (f"measured here: {data}", f"{shown}, {seeds} seed{'' if seeds == '1' else 's'}")
    return _Panel(title, sweep.plot, values)


def _paper_panels(sweep: Sweep) -> list[_Panel]:
    panels = []
    for table in sweep.file.paper:
        values = {
            (label, metric): Summary(float(value), None)
            for label, row in table.rows.items()
            for metric, value in zip(table.columns, row, strict=True)
            if metric in sweep.plot and value is not None
        }
        if values:
            shown = [m for m in sweep.plot if any(metric == m for _, metric in values)]
            title = (f"reported: {table.data}", table.source)
            panels.append(_Panel(title, shown, values, reported=True))
    return panels


def _draw_lines(
    path: Path, sweep: Sweep, x: str, cells: Sequence[Cell], panels: Sequence[_Panel]
) -> None:
    ticks = {_key(cell.place[x]): sweep.value_label(x, cell.place[x]) for cell in cells}
    series: dict[str, dict[str, str]] = {}  # its name -> tick -> label of the cell
    for cell in cells:
        series.setdefault(_series(sweep, cell, x), {})[_key(cell.place[x])] = cell.label
    page, grid = _page(sweep, _ROW * len(sweep.plot) + _MARGIN // 2, len(sweep.plot), len(panels))
    for row, metric in enumerate(sweep.plot):
        for axes, panel in zip(grid[row], panels, strict=True):
            if metric not in panel.metrics:
                axes.set_axis_off()
                continue
            for i, (name, labels) in enumerate(series.items()):
                found = [panel.values.get((labels.get(tick, ""), metric)) for tick in ticks]
                shift = _DODGE * (i - (len(series) - 1) / 2)
                _line(axes, i, name, shift, found, panel.reported)
            axes.set_xticks(range(len(ticks)), [_text(label) for label in ticks.values()])
            axes.set_xlim(-0.35, len(ticks) - 0.65)
            axes.set_xlabel(_text(sweep.axis_label(x)), fontsize=9)
            _style(axes, panel, "y", len(panels))
        grid[row][0].set_ylabel(_unit(metric), fontsize=9)
    _legend(page, grid[0][0])
    page.save(path)


def _line(
    axes: Axes,
    i: int,
    name: str,
    shift: float,
    found: Sequence[Summary | None],
    reported: bool,
) -> None:
    """Draw series `i`: a gap where a number is missing, and a small dot for every seed."""
    color, marker = COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)]
    axes.errorbar(
        [x + shift for x in range(len(found))],
        [s.mean if s else math.nan for s in found],
        [s.deviation or 0.0 if s else math.nan for s in found],
        color=color,
        marker=marker,
        markersize=6,
        markerfacecolor="white" if reported else color,
        linestyle="--" if reported else "-",
        linewidth=1.6,
        capsize=3,
        label=_text(name),
    )
    dots = [
        (x + shift, v) for x, s in enumerate(found) if s and len(s.values) > 1 for v in s.values
    ]
    axes.plot(
        *zip(*dots, strict=True), ".", color=color, alpha=0.45, markersize=4
    ) if dots else None
    for chance in {s.chance for s in found if s and s.chance is not None}:
        axes.axhline(chance, color=_INK, linestyle=":", linewidth=1.4, label="chance")


def _draw_bars(path: Path, sweep: Sweep, cells: Sequence[Cell], panels: Sequence[_Panel]) -> None:
    height = _BAR * (len(sweep.plot) + 0.7) * len(cells) + _MARGIN
    page, grid = _page(sweep, round(max(height, 300)), 1, len(panels), sharey=True)
    for axes, panel in zip(grid[0], panels, strict=True):
        for i, metric in enumerate(sweep.plot):
            _bars(axes, i, metric, cells, panel, len(sweep.plot))
        longest = max((s.mean + (s.deviation or 0) for s in panel.values.values()), default=1)
        axes.set_xlim(0, (1.2 + 0.1 * len(panels)) * max(longest, 1e-9))  # room for the numbers
        axes.set_xlabel(_unit(*panel.metrics), fontsize=9)
        _style(axes, panel, "x", len(panels))
    grid[0][0].set_yticks(range(len(cells)), [_label(cell.label) for cell in cells])
    grid[0][0].invert_yaxis()
    _legend(page, grid[0][0])
    page.save(path)


def _bars(
    axes: Axes, i: int, metric: str, cells: Sequence[Cell], panel: _Panel, metrics: int
) -> None:
    thick = 0.8 / metrics
    shift = (i - (metrics - 1) / 2) * thick
    color = COLORS[i % len(COLORS)]
    known = [(y, panel.values.get((cell.label, metric))) for y, cell in enumerate(cells)]
    axes.barh(
        [y + shift for y, s in known if s],
        [s.mean for _, s in known if s],
        thick * 0.88,
        color="white" if panel.reported else color,
        edgecolor=color,
        hatch="///" if panel.reported else None,
        label=_text(metric_label(metric)),
    )
    for y, found in known:
        if found is None:
            if metric in panel.metrics:
                _note(axes, 0.0, y + shift, "not reported" if panel.reported else "no record")
            continue
        if found.deviation is not None:
            axes.errorbar(
                found.mean, y + shift, xerr=found.deviation, color=_INK, capsize=3, linewidth=1
            )
            dots = [y + shift] * len(found.values)
            axes.plot(found.values, dots, ".", color=_INK, alpha=0.5, markersize=4)
        if found.chance is not None:
            ends = [y + shift - thick / 2, y + shift + thick / 2]
            axes.plot([found.chance] * 2, ends, ":", color=_INK, linewidth=1.4, label="chance")
        spread = f" ± {number(metric, found.deviation)}" if found.deviation is not None else ""
        end = max(found.mean + (found.deviation or 0.0), *(found.values or (0.0,)))
        _note(axes, end, y + shift, number(metric, found.mean) + spread)


def _note(axes: Axes, x: float, y: float, text: str) -> None:
    axes.annotate(
        text, (x, y), (5, 0), textcoords="offset points", va="center", fontsize=8, color=_INK
    )


def _style(axes: Axes, panel: _Panel, grid: str, panels: int) -> None:
    title = "\n".join(_lines(line, (_WIDTH - _LABEL) / panels) for line in panel.title)
    axes.set_title(title, fontsize=9, loc="left", color=_SOFT if panel.reported else _INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=0, labelsize=9)
    axes.grid(axis="y" if grid == "y" else "x", color=_RULE, linewidth=0.8)
    axes.set_axisbelow(True)


def _legend(page: Canvas, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))  # chance is drawn on every bar
    if len(once) > 1:
        columns = max(1, min(len(once), _LEGEND // max(map(len, once))))
        page.figure.legend(
            once.values(),
            once.keys(),
            loc="outside lower center",
            ncols=columns,
            frameon=False,
            fontsize=9,
        )


def _series(sweep: Sweep, cell: Cell, x: str) -> str:
    """Return the name of the line that a cell is on: its label without the place on the axis."""
    point = f"{sweep.axis_label(x)}={sweep.value_label(x, cell.place[x])}"
    return ", ".join(part for part in cell.label.split(", ") if part != point)


def _key(value: Value) -> str:
    return repr(value)


def _unit(*metrics: str) -> str:
    recalls = all("R@" in m or ":" in m for m in metrics)
    names = metric_label(metrics[0]) if len(metrics) == 1 else "recall" if recalls else "value"
    return _text(f"{names}, %" if recalls else names)


def _lines(text: str, width: float) -> str:
    """Return `text` on up to three lines of `width` pixels."""
    return "\n".join(_text(line) for line in wrap(text, width, _SIZE, 3))


def _label(label: str) -> str:
    """Return a cell's label, one line per part where it is too long for one."""
    whole = _lines(label, _LABEL)
    return "\n".join(_lines(part, _LABEL) for part in label.split(", ")) if "\n" in whole else whole


def _text(text: str) -> str:
    return readable(text).replace("$", r"\$")  # a dollar sign is a dollar sign
