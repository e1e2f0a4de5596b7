"""What a drawing is made of: scales, ticks, marks, labels that cover nothing.

Nothing is drawn here: a template writes these numbers and texts, escaped, as SVG, in whose units
all positions are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

LETTER = 7.2  # mean width of a letter of a label, in a wide font
_LINE = 14.0  # height of a label
# from a mark to its label: the first place where it covers nothing is taken
_AROUND = (
    *((11.0, 4.0, "start"), (-11.0, 4.0, "end"), (11.0, -9.0, "start"), (-11.0, -9.0, "end")),
    *((11.0, 17.0, "start"), (-11.0, 17.0, "end"), (11.0, -22.0, "start"), (-11.0, -22.0, "end")),
    *((11.0, 30.0, "start"), (-11.0, 30.0, "end")),
)
_GRID = (12, 7)  # pixels between places that are tried further away


Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Tick:
    """A mark on an axis, with a smaller line of text below the text."""

    at: float
    text: str
    below: str = ""


@dataclass(frozen=True)
class Label:
    """A text at (x, y), `anchor` being SVG's."""

    x: float
    y: float
    text: str
    anchor: str = "start"

    @property
    def box(self) -> Box:
        """What it covers, about."""
        width = LETTER * len(self.text)
        left = self.x - {"start": 0.0, "middle": width / 2, "end": width}[self.anchor]
        return left, self.y - 0.75 * _LINE, left + width, self.y + 0.25 * _LINE


@dataclass(frozen=True)
class Mark:
    """A system at (x, y) with its interval from `low` to `high`, and what it says when touched."""

    x: float
    y: float
    low: float | None
    high: float | None
    style: int
    title: str
    label: Label | None = None

    @property
    def leader(self) -> bool:
        """Whether a line must lead from it to its label, which lies elsewhere."""
        if self.label is None:
            return False
        return abs(self.label.x - self.x) > 12 or abs(self.label.y - self.y) > 31


@dataclass(frozen=True)
class Bar:
    """A bar from `y` down to the axis, with an error bar of half the length `error`."""

    x: float
    y: float
    width: float
    height: float
    style: int
    title: str
    value: Label
    error: float | None


@dataclass(frozen=True)
class Line:
    """A line through points, in a model's style, or plain where that is None."""

    points: tuple[tuple[float, float], ...]
    style: int | None
    dashed: bool = False

    @property
    def path(self) -> str:
        """The points as SVG writes them."""
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in self.points)


@dataclass(frozen=True)
class Chart:
    """A drawing of `width` x `height` whose plot is the box from (left, top) to (right, bottom)."""

    title: str
    x_label: str
    y_label: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    width: int = 560
    height: int = 350
    left: int = 54
    top: int = 18
    right: int = 544
    bottom: int = 296
    marks: list[Mark] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    legend: list[tuple[int, str]] = field(default_factory=list)
    note: str = ""


@dataclass(frozen=True)
class Scale:
    """From values to positions: `low` stands at `start`, `high` at `end`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the position of a value."""
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = math.log(low), math.log(high), math.log(value)
        return self.start + (self.end - self.start) * (at - low) / (high - low)


def log_scale(values: Sequence[float], start: float, end: float) -> Scale:
    """Return a logarithmic scale that holds all values, with some room on both sides."""
    low, high = min(values), max(values)
    room = max((high / low) ** 0.12, 1.25)
    return Scale(low / room, high * room, start, end, log=True)


def percent_scale(values: Sequence[float], start: float, end: float) -> Scale:
    """Return a scale that holds all values, with some room, but nothing beyond 0 and 100."""
    low, high = min(values), max(values)
    room = max(0.06 * (high - low), 0.5)
    return Scale(max(0.0, low - room), min(100.0, high + room), start, end)


def even_ticks(y: Scale) -> list[Tick]:
    """Return at most seven round numbers, evenly spread over a linear scale."""
    span = y.high - y.low
    step = next(s for s in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if span / s <= 6)
    first = math.ceil(y.low / step - 1e-9)
    count = int((y.high - first * step) / step + 1e-9) + 1
    digits = 1 if step < 1 else 0
    return [Tick(y(v), f"{v:.{digits}f}") for v in ((first + i) * step for i in range(count))]


def log_ticks(x: Scale) -> list[Tick]:
    """Return at most eight round numbers on a logarithmic scale."""
    decades = range(math.floor(math.log10(x.low)), math.ceil(math.log10(x.high)) + 1)
    found: list[float] = []
    for digits in ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 5), (1, 3), (1,)):
        found = [d * 10.0**n for n in decades for d in digits if x.low <= d * 10.0**n <= x.high]
        if len(found) <= 8:
            break
    return [Tick(x(v), short(v)) for v in found[:: math.ceil(len(found) / 8)]]


def whole_ticks(values: Sequence[int], x: Scale) -> list[Tick]:
    """Return the values that stand far enough from the one before."""
    kept: list[Tick] = []
    for value in values:
        if not kept or x(value) - kept[-1].at > (2 + len(str(value))) * LETTER:
            kept.append(Tick(x(value), str(value)))
    return kept


def place_labels(marks: Sequence[Mark], chart: Chart) -> list[Mark]:
    """Give each mark its label at the nearest place where it covers nothing, or least of all."""
    taken = [(m.x - 7, m.y - 7, m.x + 7, m.y + 7) for m in marks]
    taken += [
        (m.x - 2, m.high, m.x + 2, m.low) for m in marks if m.low is not None and m.high is not None
    ]
    placed = []
    for mark in marks:
        free = _free_place(mark, chart, taken)
        if free is not None:
            taken.append(free.box)
        placed.append(replace(mark, label=free))
    return placed


def _free_place(mark: Mark, chart: Chart, taken: Sequence[Box]) -> Label | None:
    if mark.label is None:
        return None
    near = [Label(mark.x + dx, mark.y + dy, mark.label.text, side) for dx, dy, side in _AROUND]
    far = [
        Label(float(x), float(y), mark.label.text)
        for x in range(int(chart.left) + 4, int(chart.right), _GRID[0])
        for y in range(int(chart.top) + 8, int(chart.bottom), _GRID[1])
    ]
    far.sort(key=lambda label: (label.x - mark.x) ** 2 + (label.y - mark.y) ** 2)
    inside = [label for label in (*near, *far) if _inside(label, chart)]
    for label in inside:
        if not any(_meet(label.box, other) for other in taken):
            return label
    covered = [sum(_meet(label.box, other) for other in taken) for label in inside]
    return inside[covered.index(min(covered))] if inside else None


def _inside(label: Label, chart: Chart) -> bool:
    left, top, right, bottom = label.box
    across = left >= chart.left + 2 and right <= chart.right
    return across and top >= chart.top - 8 and bottom <= chart.bottom - 2


def _meet(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def short(value: float) -> str:
    """Return a round number as an axis shows it: 0.05, 2000, 50k, 3M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size and (unit != "k" or value >= 1e4):
            return f"{value / size:g}{unit}"
    return f"{value:.6g}"
