"""Curves of learning: read from a run's metrics, and the mean of what its seeds share."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from PIL import Image

from tvr_bench.leaderboard.learning import draw_learning, mean_curve, read_curves
from tvr_bench.rows import RowLogger


def _log(run: Path, values: dict[int, float]) -> Path:
    logger = RowLogger(run / "csv")
    for step, value in values.items():
        logger.log_metrics({"train/loss": 2.0}, step)
        logger.log_metrics({"val/temporal/in_group_R@1": value, "val/t2v_R@1": 9.0}, step)
    return run


def test_curves_are_what_was_validated(tmp_path: Path) -> None:
    run = _log(tmp_path, {9: 25.0, 19: 50.0})
    assert read_curves(run, ["temporal", "relation"]) == {"temporal": {10: 25.0, 20: 50.0}}
    assert read_curves(tmp_path / "tested_only", ["temporal"]) == {}


def test_a_mean_is_of_the_steps_that_all_seeds_have() -> None:
    points = mean_curve([{10: 20.0, 20: 40.0}, {10: 30.0, 20: 44.0, 30: 90.0}])
    assert [point[:2] for point in points] == [(10, 25.0), (20, 42.0)]
    assert points[0][2] == pytest.approx(math.sqrt(50.0))
    assert math.isnan(mean_curve([{10: 20.0}])[0][2])


def test_a_panel_per_skill_and_no_picture_of_nothing(tmp_path: Path) -> None:
    chance = {"temporal": 25.0, "relation": 25.0}
    one = read_curves(_log(tmp_path / "a", {9: 25.0, 19: 50.0}), list(chance))
    two = read_curves(_log(tmp_path / "b", {9: 35.0, 19: 60.0}), list(chance))
    draw_learning(tmp_path / "two.png", {"CRET": [one, two], "untrained": [{}]}, chance)
    draw_learning(tmp_path / "one.png", {"CRET": [one]}, chance)
    pixels = [Image.open(tmp_path / name).tobytes() for name in ("one.png", "two.png")]
    assert pixels[0] != pixels[1]
    with pytest.raises(ValueError, match="at least one curve"):
        draw_learning(tmp_path / "none.png", {"CRET": [{}]}, chance)
