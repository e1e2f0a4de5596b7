"""How models learn to tell videos apart: accuracy per skill in validation, over training steps."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tvr_bench.evaluation.significance import mean_sd
from tvr_bench.leaderboard.canvas import COLORS, MARKERS, Canvas, readable
from tvr_bench.leaderboard.skills import PerSkill

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

Curve = Mapping[int, float]  # percent by training step
Curves = Mapping[str, Curve]  # by skill

METRICS = Path("csv") / "metrics.csv"  # in a run's folder
CHANCE = "chance"
_INK, _RULE = "#22262b", "#e3e6ea"
_WIDTH, _HEIGHT = 1150, 390  # pixels
_LEGEND = 7  # names in a row


def read_curves(run: Path, skills: Sequence[str]) -> dict[str, dict[int, float]]:
    """Return R@1 in percent inside the groups of hard negatives, by skill and step, of validation.

    Skills that were never validated are left out, so a run that trained nothing has none.
    """
    found: dict[str, dict[int, float]] = {}
    if not (run / METRICS).exists():
        return found
    with open(run / METRICS, newline="") as file:
        for row in csv.DictReader(file):
            for skill in skills:
                if value := row.get(f"val/{skill}/in_group_R@1"):
                    # Lightning counts the steps from 0, so this many and one more were made
                    found.setdefault(skill, {})[int(row["step"]) + 1] = float(value)
    return found


def draw_learning(path: Path, models: Mapping[str, Sequence[Curves]], chance: PerSkill) -> None:
    """Write a PNG with a panel per skill of `chance` and a line per model, its seeds' mean.

    `models` maps a model to the curves of its seeds; the band is one standard deviation over them.
    Raises ValueError where no seed has a curve.
    """
    if not any(curves for seeds in models.values() for curves in seeds):
        raise ValueError("a picture of the learning needs at least one curve")
    page = Canvas(_WIDTH, _HEIGHT)
    page.figure.set_layout_engine("constrained")
    grid = page.figure.subplots(1, len(chance), squeeze=False, sharey=True)[0]
    for axes, (skill, level) in zip(grid, chance.items(), strict=True):
        for i, (model, seeds) in enumerate(models.items()):
            curves = [one[skill] for one in seeds if skill in one]
            if curves:
                _line(axes, i, readable(model), curves)
        axes.axhline(level, color=_INK, linestyle="--", linewidth=1.2, label=CHANCE, zorder=1)
        _style(axes, readable(skill))
    grid[0].set_ylabel("right inside the group, %", fontsize=9)
    _legend(page, grid, [*map(readable, models), CHANCE])
    page.save(path)


def mean_curve(curves: Sequence[Curve]) -> list[tuple[int, float, float]]:
    """Return (step, mean, standard deviation) of the steps that all seeds have; NaN for one."""
    shared = set(curves[0]).intersection(*curves[1:])
    points = ((step, *mean_sd([curve[step] for curve in curves])) for step in sorted(shared))
    return [(step, mean, math.nan if sd is None else sd) for step, mean, sd in points]


def _line(axes: Axes, i: int, name: str, curves: Sequence[Curve]) -> None:
    points = mean_curve(curves)
    color = COLORS[i % len(COLORS)]
    steps, means = [step for step, _, _ in points], [mean for _, mean, _ in points]
    if len(curves) > 1:
        low, high = ([mean + side * sd for _, mean, sd in points] for side in (-1, 1))
        axes.fill_between(steps, low, high, color=color, alpha=0.14, linewidth=0)
    axes.plot(
        steps,
        means,
        color=color,
        marker=MARKERS[i % len(MARKERS)],
        markersize=3.5,
        linewidth=1.6,
        label=name,
    )


def _legend(page: Canvas, grid: Sequence[Axes], names: Sequence[str]) -> None:
    """Write the names above the panels, those that some panel has a line of."""
    found: dict[str, Artist] = {}
    for axes in grid:
        handles, labels = axes.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    shown = [name for name in names if name in found]
    page.figure.legend(
        [found[name] for name in shown],
        shown,
        loc="outside upper left",
        ncols=min(len(shown), _LEGEND),
        frameon=False,
        fontsize=9,
    )


def _style(axes: Axes, skill: str) -> None:
    axes.set_title(skill, fontsize=10, loc="left", color=_INK)
    axes.set_ylim(0, 104)
    axes.set_xlim(left=0)
    axes.set_yticks(range(0, 101, 25))
    axes.set_xlabel("training steps", fontsize=9)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0, labelsize=9)
    axes.grid(axis="y", color=_RULE, linewidth=0.8)
    axes.set_axisbelow(True)
