"""Figures: what stands where, and that labels cover neither marks nor each other."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvr_bench.leaderboard.board import StageCurve
from tvr_bench.leaderboard.chart import Chart, Label, Mark, Scale, even_ticks, log_ticks, short
from tvr_bench.leaderboard.figures import (
    cost_chart,
    names_of,
    skill_chart,
    stage_chart,
    styles_of,
)

Row = dict[str, Any]
SHARE = st.floats(0, 100)


def _row(model: str, r1: float, cost: float | None = 1.0, **more: Any) -> Row:
    low, high = max(0.0, r1 - 3), min(100.0, r1 + 3)
    plain = {"backbone": "tiny", "ocr": "none", "settings": "", "two_stage": None, "clips": 100}
    ends = {"t2v_R@1_low": low, "t2v_R@1_high": high}
    return {"model": model, "t2v_R@1": r1, "cost": cost, **ends, **plain, **more}


def _boxes(chart: Chart) -> list[tuple[float, float, float, float]]:
    return [mark.label.box for mark in chart.marks if mark.label]


def _chart(rows: list[Row]) -> Chart | None:
    return cost_chart(rows, styles_of([row["model"] for row in rows]), "cost", "title", "ms")


def test_a_point_stands_at_its_cost_on_a_log_axis() -> None:
    chart = _chart([_row("a", 20.0, 1.0), _row("b", 40.0, 10.0), _row("c", 30.0, 100.0)])
    assert chart is not None
    xs = [mark.x for mark in chart.marks]
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1])
    ys = [mark.y for mark in chart.marks]
    assert ys[0] > ys[2] > ys[1]  # SVG counts downwards
    assert (ys[0] - ys[2]) == pytest.approx(ys[2] - ys[1])
    for mark in chart.marks:
        assert mark.low is not None and mark.high is not None and mark.low > mark.y > mark.high
        assert chart.left < mark.x < chart.right and chart.top <= mark.high
    assert {tick.text for tick in chart.x_ticks} >= {"1", "10", "100"}


def test_rows_without_the_cost_are_counted_and_one_point_is_no_figure() -> None:
    assert _chart([_row("a", 20.0), _row("b", 30.0, None)]) is None
    chart = _chart([_row("a", 20.0), _row("b", 30.0, 2.0), _row("c", 1.0, None)])
    assert chart is not None and chart.note.startswith("1 of 3")


@settings(max_examples=60)
@given(st.lists(st.tuples(SHARE, st.floats(1e-6, 1e6)), min_size=2, max_size=25))
def test_labels_cover_neither_marks_nor_each_other(points: list[tuple[float, float]]) -> None:
    chart = _chart([_row(f"model-{i}", r1, cost) for i, (r1, cost) in enumerate(points)])
    assert chart is not None
    boxes = _boxes(chart)
    for i, box in enumerate(boxes):
        assert box[0] >= chart.left and box[2] <= chart.right
        for other in boxes[:i]:
            assert not _overlap(box, other)
        for mark in chart.marks:
            assert not _overlap(box, (mark.x - 5, mark.y - 5, mark.x + 5, mark.y + 5))


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])


@given(st.floats(0, 99), st.floats(0.5, 60))
def test_even_ticks_are_round_and_inside(low: float, span: float) -> None:
    y = Scale(low, low + span, 300, 20)
    ticks = even_ticks(y)
    assert 2 <= len(ticks) <= 7
    assert all(20 - 1e-6 <= tick.at <= 300 + 1e-6 for tick in ticks)
    assert all(y(float(tick.text)) == pytest.approx(tick.at, abs=1e-6) for tick in ticks)
    assert len(set(np.round(np.diff([float(tick.text) for tick in ticks]), 6))) == 1


@given(st.floats(-7, 7), st.floats(0.2, 9))
def test_log_ticks_are_round_and_inside(start: float, decades: float) -> None:
    x = Scale(10**start, 10 ** (start + decades), 50, 500, log=True)
    ticks = log_ticks(x)
    assert 1 <= len(ticks) <= 8
    ats = [tick.at for tick in ticks]
    assert ats == sorted(ats) and ats[0] >= 50 and ats[-1] <= 500
    assert len({tick.text for tick in ticks}) == len(ticks)


def test_axis_numbers_are_short() -> None:
    values = (0.00002, 0.05, 1.5, 2000, 20_000, 3e6, 5e9)
    assert [short(v) for v in values] == ["2e-05", "0.05", "1.5", "2000", "20k", "3M", "5G"]


def test_a_name_says_what_sets_a_row_apart_and_no_more() -> None:
    rows = [
        _row("tcard", 3, ocr="rapidocr", settings="trainer.epochs=60 model.tau=0.1"),
        _row("tcard", 2, ocr="rapidocr"),
        _row("tcard", 1),
        _row("cret", 1, settings="optim.lr=1e-4"),
        _row("x" * 99, 1),
    ]
    names = names_of(rows)
    assert names[:4] == [
        "tcard, rapidocr, epochs=60 ta…",
        "tcard, rapidocr",
        "tcard, no OCR",
        "cret",
    ]
    assert len(names[4]) == 30


def test_a_model_keeps_its_style_and_many_models_share() -> None:
    assert styles_of(["b", "a", "b"]) == {"a": 0, "b": 1}
    assert set(styles_of([f"m{i}" for i in range(20)]).values()) == set(range(8))


def test_bars_of_the_best_system_of_each_model() -> None:
    rows = [
        _row("a", 3, **{"in_group:order": 80.0, "in_group_sd:order": 5.0, "chance:order": 25.0}),
        _row("a", 2, **{"in_group:order": 10.0, "chance:order": 25.0}),
        _row("b", 1, **{"in_group:order": 40.0, "in_group:sight": 50.0, "chance:order": 25.0}),
    ]
    chart = skill_chart(rows, styles_of(["a", "b"]), ["order", "sight"])
    assert chart is not None
    assert [bar.title for bar in chart.bars] == [
        "a, order: 80.0 ± 5.0",
        "b, order: 40.0",
        "b, sight: 50.0",
    ]
    assert chart.bars[0].height == pytest.approx(2 * chart.bars[1].height)
    assert all(bar.y + bar.height == pytest.approx(chart.bottom) for bar in chart.bars)
    (chance,) = chart.lines
    assert chance.points[0][1] == pytest.approx(chart.bottom - (chart.bottom - chart.top) / 4)
    assert [tick.below for tick in chart.x_ticks] == ["chance 25", ""]
    assert skill_chart([_row("a", 3)], {"a": 0}, ["order"]) is None


def test_a_curve_over_k_with_what_scoring_everything_reaches() -> None:
    rows = [_row("a", r1, two_stage=k) for k, r1 in ((5, 30.0), (50, 39.0))]
    chart = stage_chart([StageCurve(rows, _row("a", 40.0))], {"a": 0}, "data")
    curve, level = chart.lines
    assert level.dashed and not curve.dashed
    assert level.points[0][1] == level.points[1][1] < min(y for _, y in curve.points)
    assert [tick.text for tick in chart.x_ticks] == ["5", "50"]
    assert len(chart.marks) == 2


def test_a_label_knows_what_it_covers() -> None:
    starts = [Label(100, 50, "abcd", anchor).box[0] for anchor in ("start", "middle", "end")]
    assert starts[0] == 100 and starts[0] > starts[1] > starts[2]
    mark = Mark(0, 0, None, None, 0, "")
    assert mark.label is None and math.isfinite(Label(0, 0, "").box[2])
