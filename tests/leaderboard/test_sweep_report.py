"""A sweep's table and figure: the numbers against a slow computation, the picture against paper."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from launch.fakes import fake_record
from tvr_bench.errors import UserError
from tvr_bench.launch.grid import Sweep, parse_sweep
from tvr_bench.leaderboard.sweep_figure import draw_sweep
from tvr_bench.leaderboard.sweep_report import (
    Measured,
    check_metrics,
    csv_table,
    markdown_page,
    metric_value,
    spread,
    summarise,
    write_report,
)

BLUE, ORANGE = (0, 114, 178), (230, 159, 0)
CONTENT: dict[str, Any] = {
    "title": "a sweep",
    "grid": {"model.tau": [0.5, 1.0, 5.0]},
    "metrics": ["t2v_R@1", "t2v_R@5", "in_group:temporal", "RSum", "train_s", "params"],
    "notes": ["A note with a | in it."],
    "paper": [
        {
            "source": "Table 5",
            "data": "TextVR",
            "columns": ["t2v_R@1", "t2v_MdR"],
            "rows": {"tau=0.5": [34.25, 5], "tau=5": [36.6, None]},
            "other_rows": {"another model": [20, 9.5]},
            "flags": ["probably a misprint"],
        }
    ],
}


def _sweep(**changes: Any) -> Sweep:
    return parse_sweep("own", {**CONTENT, **changes}, Path("own.yaml"))


def _measured(sweep: Sweep, seeds: int = 3) -> list[Measured]:
    random = np.random.default_rng(0)
    return [
        Measured(
            cell,
            {s: fake_record("x", seed=s, r1=float(random.uniform(20, 60))) for s in range(seeds)},
        )
        for cell in sweep.cells
    ]


def test_mean_and_deviation_equal_a_slow_computation() -> None:
    sweep = _sweep()
    measured = _measured(sweep)
    rows = list(csv.DictReader(io.StringIO(csv_table(sweep, measured))))
    assert [row["cell"] for row in rows] == ["tau=0.5", "tau=1", "tau=5"]
    assert [row["model.tau"] for row in rows] == ["0.5", "1", "5"]
    for row, one in zip(rows, measured, strict=True):
        records = one.records.values()
        slow = {
            "t2v_R@1": [r.metrics.t2v["R@1"] for r in records],
            "t2v_R@5": [r.metrics.t2v["R@5"] for r in records],
            "in_group:temporal": [r.metrics.by_skill["temporal"].in_group["R@1"] for r in records],
            "RSum": [
                r.metrics.t2v["R@1"]
                + r.metrics.t2v["R@5"]
                + r.metrics.t2v["R@10"]
                + r.metrics.v2t["R@1"]
                + r.metrics.v2t["R@5"]
                + r.metrics.v2t["R@10"]
                for r in records
            ],
            "train_s": [200.0] * 3,
            "params": [1_000_000, 1_000_001, 1_000_002],
        }
        for metric, values in slow.items():
            mean = sum(values) / 3
            deviation = (sum((v - mean) ** 2 for v in values) / 2) ** 0.5
            assert float(row[metric]) == pytest.approx(mean, abs=1e-9)
            assert float(row[f"{metric}_sd"]) == pytest.approx(deviation, abs=1e-9)
        assert (row["n"], row["seeds"]) == ("3", "0 1 2")


def test_one_seed_has_no_deviation_and_none_has_a_dash() -> None:
    records = {4: fake_record("x", r1=40.04)}
    found = summarise(records, "t2v_R@1")
    assert found is not None and (found.deviation, found.values) == (None, (40.04,))
    assert spread("t2v_R@1", found) == "40.0"
    assert spread("t2v_R@1", summarise({}, "t2v_R@1")) == "-"
    assert summarise(records, "in_group:no such skill") is None
    assert summarise(records, "gflops_pair") is None  # a cost that was not measured


def test_the_chance_of_a_skill_comes_with_it() -> None:
    found = summarise({0: fake_record()}, "in_group:relation")
    assert found is not None and (found.mean, found.chance) == (50.0, 25.0)
    overall = summarise({0: fake_record()}, "t2v_R@1")
    assert overall is not None and overall.chance is None


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        ("t2v_R@1", 40.0),
        ("v2t_R@1", 38.0),
        ("t2v_MdR", 2.0),
        ("t2v:scene_text", 37.0),
        ("in_group:scene_text", 55.0),
        ("ms_per_query_p50", 1.5),
        ("params", 1_000_000),
    ],
)
def test_metrics_go_by_the_leaderboards_names(metric: str, value: float) -> None:
    assert metric_value(fake_record(), metric) == value


@pytest.mark.parametrize("metric", ["t2v_R1", "R@1", "ingroup:temporal", "device"])
def test_an_unknown_metric_is_refused(metric: str) -> None:
    with pytest.raises(UserError, match=metric):
        check_metrics(_sweep(metrics=[metric]))
    with pytest.raises(UserError, match=metric):
        check_metrics(_sweep(paper=[{**CONTENT["paper"][0], "columns": ["t2v_R@1", metric]}]))


def test_the_page_keeps_measured_and_reported_apart() -> None:
    sweep = _sweep()
    page = markdown_page(sweep, _measured(sweep), ["trainer.epochs=3"], ["run x: boom"], "f.png")
    measured, reported = page.split("## As reported")
    assert "`tvr-bench sweep own trainer.epochs=3`" in measured
    assert "| tau=0.5 | 3 |" in measured and "+-" in measured
    assert "34.25" not in measured and "34.25" in reported
    assert "| tau=5 | 36.6 | - |" in reported and "| another model | 20 | 9.5 |" in reported
    assert "probably a misprint" in reported
    assert "- run x: boom" in measured and r"a \| in it" in measured
    assert "![a sweep](f.png)" in measured


def test_a_sweep_of_ones_own_is_made_again_by_its_path() -> None:
    sweep = replace(_sweep(), place="my tables/own.yaml")
    page = markdown_page(sweep, _measured(sweep), ["seeds=2"], [], "f.png")
    assert "Made by `tvr-bench sweep 'my tables/own.yaml' seeds=2`." in page


def test_labels_from_a_file_break_neither_page_nor_terminal_nor_figure(tmp_path: Path) -> None:
    label = "a|b <script>$x_1$ [red]\x1b[31m\u4e2d"
    sweep = _sweep(grid={}, cells={label: {}, "plain": {"seedless": 1}}, paper=[], plot=["t2v_R@1"])
    console = Console(file=io.StringIO(), width=200)
    write_report(sweep, _measured(sweep), tmp_path, console=console)
    text = (tmp_path / "table.md").read_text()
    assert r"a\|b \<script\>\$x_1\$ \[red\]" in text and "<script>" not in text
    assert "[red]" in console.file.getvalue()  # type: ignore[attr-defined]
    assert Image.open(tmp_path / "figure.png").size[0] > 1000


def test_a_narrow_terminal_says_what_it_leaves_out(tmp_path: Path) -> None:
    sweep = _sweep()
    narrow, wide = (Console(file=io.StringIO(), width=width) for width in (60, 200))
    for console in (narrow, wide):
        write_report(sweep, _measured(sweep), tmp_path, console=console)
    texts = [console.file.getvalue() for console in (narrow, wide)]  # type: ignore[attr-defined]
    assert "columns that only the file shows" in texts[0]
    assert "columns that only the file shows" not in texts[1]
    rows = [line for line in texts[0].splitlines() if not line.startswith(("reported", "! "))]
    assert max(map(len, rows)) <= 60


def _pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def _count(pixels: np.ndarray, color: tuple[int, int, int]) -> int:
    return int((np.abs(pixels - np.array(color)).sum(-1) < 30).sum())


def test_a_line_is_drawn_beside_the_papers_own(tmp_path: Path) -> None:
    sweep = _sweep()
    assert sweep.x == "model.tau"
    draw_sweep(tmp_path / "f.png", sweep, _measured(sweep))
    pixels = _pixels(tmp_path / "f.png")
    half = pixels.shape[1] // 2
    assert _count(pixels[:, :half], BLUE) > 300 and _count(pixels[:, half:], BLUE) > 20
    assert _count(pixels, ORANGE) == 0  # one series
    draw_sweep(tmp_path / "again.png", sweep, _measured(sweep))
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "f.png").read_bytes()


def test_every_series_has_a_line_of_its_own(tmp_path: Path) -> None:
    sweep = _sweep(cells={"with": {}, "without": {"ocr.enabled": False}}, paper=[])
    draw_sweep(tmp_path / "f.png", sweep, _measured(sweep))
    pixels = _pixels(tmp_path / "f.png")
    assert _count(pixels, BLUE) > 300 and _count(pixels, ORANGE) > 300


def test_bars_are_as_long_as_their_numbers(tmp_path: Path) -> None:
    cells = {"low": {}, "high": {"ocr.enabled": False}}
    sweep = _sweep(grid={}, cells=cells, paper=[])
    measured = [
        Measured(cell, {0: fake_record("x", r1=r1)})
        for cell, r1 in zip(sweep.cells, (20.0, 60.0), strict=True)
    ]
    draw_sweep(tmp_path / "f.png", sweep, measured)
    pixels = _pixels(tmp_path / "f.png")
    lengths = [int((np.abs(row - np.array(BLUE)).sum(-1) < 30).sum()) for row in pixels]
    middle = len(lengths) // 2
    assert max(lengths[middle:]) == pytest.approx(3 * max(lengths[:middle]), rel=0.05)


def test_missing_cells_leave_a_gap_and_no_records_no_figure(tmp_path: Path) -> None:
    cells = {"a": {}, "b": {"x": 1}, "c": {"y": 1}}
    for changes in ({}, {"grid": {}, "cells": cells, "paper": []}):
        sweep = _sweep(**changes)
        measured = _measured(sweep)
        measured[1] = Measured(measured[1].cell, {})
        draw_sweep(tmp_path / "f.png", sweep, measured)
        with pytest.raises(ValueError, match="at least one record"):
            draw_sweep(tmp_path / "f.png", sweep, [Measured(m.cell, {}) for m in measured])


def test_no_label_of_a_figure_lies_on_another(tmp_path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from tvr_bench.launch.grid import load_sweep, sweep_names
    from tvr_bench.leaderboard import canvas

    pages = []
    save = canvas.Canvas.save

    def keep(page: canvas.Canvas, path: Path) -> None:
        pages.append(page)
        save(page, path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(canvas.Canvas, "save", keep)
        for name in [n for n in sweep_names() if n in ("claims", "tcard/tau", "cret/share")]:
            sweep = load_sweep(name)
            draw_sweep(tmp_path / "f.png", sweep, _measured(sweep))
    for page in pages:
        surface = page.figure.canvas
        assert isinstance(surface, FigureCanvasAgg)
        renderer = surface.get_renderer()
        for axes in page.figure.axes:
            for axis in (axes.xaxis, axes.yaxis):
                low, high = sorted(axis.get_view_interval())
                shown = [t.label1 for t in axis.get_major_ticks() if low <= t.get_loc() <= high]
                boxes = [t.get_window_extent(renderer) for t in shown if t.get_visible()]
                assert not any(one.overlaps(other) for one, other in pairwise(boxes))
                for box in boxes:
                    assert box.x0 >= 0 and box.x1 <= page.width and box.y0 >= 0
            title = axes._left_title  # type: ignore[attr-defined]
            assert title.get_window_extent(renderer).x1 <= page.width + 1
