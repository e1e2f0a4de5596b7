"""What a model can tell apart, as a picture: bars of its accuracy per skill, with chance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tvr_bench.leaderboard.canvas import COLORS, Canvas, readable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PerSkill = Mapping[str, float]  # percent

_INK, _RULE = "#22262b", "#e3e6ea"


def draw_skills(
    path: Path,
    models: Mapping[str, PerSkill],
    chance: PerSkill,
    spread: Mapping[str, PerSkill] | None = None,
) -> None:
    """Write a PNG of bars: R@1 inside the groups of hard negatives, per skill and model.

    `models` maps a model to its percent per skill, `chance` is what guessing reaches, and
    `spread` maps a model to half the lengths of its error bars. Raises ValueError without a model.
    """
    if not models:
        raise ValueError("a picture of the skills needs at least one model")
    page = Canvas(1000, 420)
    axes = page.figure.add_axes((0.075, 0.12, 0.9, 0.72))
    skills = list(dict.fromkeys(skill for values in models.values() for skill in values))
    width = 0.78 / len(models)
    for i, (model, values) in enumerate(models.items()):
        shift = (i - (len(models) - 1) / 2) * width
        errors = (spread or {}).get(model, {})
        label, color = readable(model), COLORS[i % len(COLORS)]
        known = [(x, values[s], errors.get(s, 0.0)) for x, s in enumerate(skills) if s in values]
        xs, heights = [x + shift for x, _, _ in known], [height for _, height, _ in known]
        axes.bar(xs, heights, width * 0.9, color=color, label=label)
        for x, height, error in known:
            _mark(axes, x + shift, height, error)
    _draw_chance(axes, [chance.get(skill, math.nan) for skill in skills])
    axes.set_xticks(range(len(skills)), [readable(skill) for skill in skills])
    _style(axes, len(models))
    page.save(path)


def _mark(axes: Axes, x: float, height: float, error: float) -> None:
    """Write a bar's value above it, and above its error bar where it has one."""
    if error:
        axes.errorbar(x, height, error, color=_INK, capsize=3, linewidth=1)
    axes.annotate(
        f"{height:.0f}",
        (x, height + error),
        (0, 3),
        textcoords="offset points",
        ha="center",
        fontsize=8,
    )


def _draw_chance(axes: Axes, levels: list[float]) -> None:
    starts = [x - 0.45 for x in range(len(levels))]
    ends = [x + 0.45 for x in range(len(levels))]
    axes.hlines(
        levels, starts, ends, color=_INK, linestyles="--", linewidth=1.2, label="chance", zorder=3
    )


def _style(axes: Axes, models: int) -> None:
    axes.set_ylim(0, 112)
    axes.set_yticks(range(0, 101, 25))
    axes.set_ylabel("right inside the group, %")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0)
    axes.grid(axis="y", color=_RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    columns = min(models + 1, 6)
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1.02), ncols=columns, frameon=False, fontsize=9
    )
