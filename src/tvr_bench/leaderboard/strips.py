"""What was retrieved, as a picture: film strips with their scene text and their scores.

F frames, W windows, H and W (of a frame) height and width in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tvr_bench.leaderboard.canvas import Canvas, Pixels, film, text_width, wrap

_WIDTH, _MARGIN = 1200, 28  # of the page
_STRIP_X, _STRIP_WIDTH = 98, 790
_SCORE_X = 916
_BAR_X, _BAR_WIDTH = 1018, 98
_MOST_FRAMES, _FEWEST_FRAMES = 6, 4
_LARGE, _MIDDLE, _SMALL = 21.0, 16.0, 14.0  # letters, in pixels
_INK, _GREY, _PALE, _RULE = "#22262b", "#6b7280", "#9aa1ab", "#e3e6ea"
_GREEN, _GREEN_TINT, _TEXT_TINT = "#15803d", "#eaf6ee", "#c98a1b"
_SERIES = ("#3b6fb6", "#c98a1b", "#7d5ba6", "#4c9a8f", "#b2554c", "#6b7280")


@dataclass(frozen=True)
class Hit:
    """One retrieved video: its frames uint8 [F, H, W, 3], its window captions and its scores.

    `captions` are in time order and need not be as many as the frames; "" is a window without
    text. `frames` may be empty for a video that could not be read, `parts` for a model without.
    """

    video_id: str
    correct: bool
    frames: Pixels
    score: float
    captions: list[str] = field(default_factory=list)
    parts: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class QueryStrip:
    """A query and its best videos, best first; `gold_rank` is the right one's rank, where known."""

    query: str
    skill: str
    hits: list[Hit]
    gold_rank: float | None = None


def draw_retrieval(path: Path, rows: Sequence[QueryStrip], title: str = "") -> None:
    """Write a PNG of every query with its videos as film strips, the right one framed green.

    Beside a strip stand its score and the score's parts, beneath it the text that was read in
    each of its windows. Raises ValueError where there is no query.
    """
    if not rows:
        raise ValueError("a picture of the retrieval needs at least one query")
    blocks = [_QueryBlock(row) for row in rows]
    top = _MARGIN + (34 if title else 0)
    foot = 44
    page = Canvas(_WIDTH, top + sum(block.height for block in blocks) + foot)
    if title:
        for line in wrap(title, _WIDTH - 2 * _MARGIN, _MIDDLE, 1):
            page.text(_MARGIN, _MARGIN + 8, line, _MIDDLE, color=_GREY)
    y = top
    for block in blocks:
        block.draw(page, y)
        y += block.height
    key = "Green frame: the video that the query describes."
    if any(any(hit.captions) for row in rows for hit in row.hits):
        key += "  Beneath a strip: the text that OCR read in its windows."
    page.text(_MARGIN, y + foot / 2 - 4, key, _SMALL, color=_PALE)
    page.save(path)


class _QueryBlock:
    """One query's part of the page, measured when made."""

    def __init__(self, row: QueryStrip) -> None:
        self.row = row
        self.skill = " ".join(wrap(row.skill, 260, _SMALL, 1, "bold"))
        self.chip = text_width(self.skill, _SMALL, "bold") + 22 if self.skill else 0.0
        room = _WIDTH - 2 * _MARGIN - (self.chip + 14 if self.chip else 0)
        self.lines = wrap(row.query, room, _LARGE, 3, "bold") or ["(empty query)"]
        with_text = any(any(hit.captions) for hit in row.hits)
        self.hits = [_HitRow(hit, with_text, row.hits) for hit in row.hits]
        self.verdict = _verdict(row)
        self.head = 28 * len(self.lines) + (56 if self.verdict else 30)
        self.height = self.head + sum(hit.height for hit in self.hits) + 26

    def draw(self, page: Canvas, y: int) -> None:
        page.box(_MARGIN, y, _WIDTH - 2 * _MARGIN, 1.5, fill=_RULE)
        y += 26
        x = float(_MARGIN)
        if self.skill:
            page.box(x, y - 12, self.chip, 24, fill="#eef1f6", radius=12)
            page.text(
                x + self.chip / 2,
                y,
                self.skill,
                _SMALL,
                ha="center",
                weight="bold",
                color="#44506a",
            )
            x += self.chip + 14
        for line in self.lines:
            page.text(x, y, line, _LARGE, weight="bold")
            y += 28
        if self.verdict:
            page.text(_MARGIN, y, self.verdict, _MIDDLE, color=_GREY)
        y += self.head - 26 - 28 * len(self.lines)
        for rank, hit in enumerate(self.hits, start=1):
            hit.draw(page, y, rank)
            y += hit.height


class _HitRow:
    """One video's line: rank, film strip, scene text, scores; measured when made."""

    def __init__(self, hit: Hit, with_text: bool, group: Sequence[Hit]) -> None:
        self.hit = hit
        self.strip, slots = _strip(hit.frames)
        self.strip_height = self.strip.shape[0] if self.strip is not None else 76
        self.labels = _labels(hit.captions, slots, self._width()) if with_text else []
        self.with_text = with_text
        band = 18 + 17 * max([len(lines) for *_, lines in self.labels], default=1) + 4
        body = self.strip_height + (band if with_text else 0)
        self.height = max(body, 58 + 21 * len(hit.parts)) + 18
        values = [v for other in group for v in other.parts.values() if math.isfinite(v)]
        self.low, self.high = min([0.0, *values]), max([0.0, *values])

    def _width(self) -> int:
        return self.strip.shape[1] if self.strip is not None else 420

    def draw(self, page: Canvas, y: int, rank: int) -> None:
        if self.hit.correct:
            width = _WIDTH - 2 * _MARGIN + 20
            page.box(
                _MARGIN - 10, y - 8, width, self.height - 4, fill=_GREEN_TINT, radius=10, layer=0.5
            )
        self._draw_rank(page, y, rank)
        self._draw_strip(page, y)
        if self.with_text:
            self._draw_text(page, y + self.strip_height)
        self._draw_scores(page, y)

    def _draw_rank(self, page: Canvas, y: int, rank: int) -> None:
        middle = _MARGIN + 26
        color = _GREEN if self.hit.correct else _GREY
        page.text(middle, y + 26, str(rank), 28.0, ha="center", weight="bold", color=color)
        if self.hit.correct:
            page.text(middle, y + 56, "\u2713", 22.0, ha="center", weight="bold", color=_GREEN)
            page.text(middle, y + 76, "correct", _SMALL, ha="center", color=_GREEN)

    def _draw_strip(self, page: Canvas, y: int) -> None:
        width = self._width()
        if self.strip is None:
            page.box(_STRIP_X, y, width, self.strip_height, fill="#f1f2f4", edge=_RULE, line=1.5)
            text = "this video could not be read"
            page.text(_STRIP_X + width / 2, y + self.strip_height / 2, text, _MIDDLE, ha="center")
        else:
            page.image(_STRIP_X, y, self.strip)
        if self.hit.correct:
            height = self.strip_height + 6
            page.box(
                *(_STRIP_X - 3, y - 3, width + 6, height),
                edge=_GREEN,
                line=4.5,
                radius=8,
                layer=4.0,
            )

    def _draw_text(self, page: Canvas, y: int) -> None:
        if not self.labels:
            page.text(_STRIP_X + 4, y + 20, "no text read", _SMALL, color=_PALE, style="italic")
        for start, end, lines in self.labels:
            x, width = _STRIP_X + start + 4, end - start - 8
            page.box(x, y + 9, width, 3, fill=_TEXT_TINT, radius=1.5)
            for i, line in enumerate(lines):
                page.text(x + width / 2, y + 24 + 17 * i, line, _SMALL, ha="center")

    def _draw_scores(self, page: Canvas, y: int) -> None:
        hit = self.hit
        right = _WIDTH - _MARGIN - 2
        name = wrap(hit.video_id, right - _SCORE_X, _SMALL, 1) or [""]
        page.text(_SCORE_X, y + 8, name[0], _SMALL, color=_PALE)
        page.text(_SCORE_X, y + 34, "score", _MIDDLE, weight="bold")
        page.text(right, y + 34, _number(hit.score), 18.0, ha="right", weight="bold")
        span = self.high - self.low
        zero = _BAR_X + (_BAR_WIDTH * -self.low / span if span else 0.0)
        for i, (part, value) in enumerate(hit.parts.items()):
            at = y + 62 + 21 * i
            label = wrap(part, _BAR_X - _SCORE_X - 8, _SMALL, 1) or [""]
            page.text(_SCORE_X, at, label[0], _SMALL, color=_GREY)
            page.box(_BAR_X, at - 4, _BAR_WIDTH, 8, fill="#eceef1", radius=2)
            if math.isfinite(value) and span:
                length = _BAR_WIDTH * value / span
                color = _SERIES[i % len(_SERIES)]
                page.box(zero + min(length, 0.0), at - 4, abs(length), 8, fill=color, layer=2.0)
            page.text(right, at, _number(value), _SMALL, ha="right")


def _verdict(row: QueryStrip) -> str:
    """Return where the right video is when no strip shows it."""
    if any(hit.correct for hit in row.hits):
        return ""
    where = "" if row.gold_rank is None else f", but at rank {row.gold_rank:g}"
    return f"the right video is not among these{where}"


def _strip(frames: Pixels) -> tuple[Pixels | None, int]:
    """Return the film of evenly spread frames that fits the page, and how many they are."""
    if len(frames) == 0:
        return None, _MOST_FRAMES
    aspect = frames.shape[2] / frames.shape[1]
    tallest = min(130.0, max(84.0, 84 * math.sqrt(1.4 / aspect)))
    count = min(_MOST_FRAMES, len(frames))
    while True:
        height = min(tallest, ((_STRIP_WIDTH - 4) / count - 4) / aspect)
        if height >= 80 or count <= _FEWEST_FRAMES:
            break
        count -= 1
    picked = frames[[int((i + 0.5) * len(frames) / count) for i in range(count)]]
    return film(picked, max(12, int(height)), max(12, int(height * aspect))), count


def _labels(
    captions: Sequence[str], slots: int, width: int
) -> list[tuple[float, float, list[str]]]:
    """Return (start, end, lines) of each stretch of `width` pixels in which the text is the same.

    The W windows are gathered into one slot per frame: a slot has the words of all windows whose
    middle lies in it, or of the one window that it lies in.
    """
    windows = len(captions)
    texts: list[str] = []
    for slot in range(slots):
        inside = [i for i in range(windows) if int((i + 0.5) * slots / windows) == slot]
        if windows and not inside:
            inside = [int((slot + 0.5) * windows / slots)]
        words = [word for i in inside for word in captions[i].split()]
        texts.append(" ".join(dict.fromkeys(words)))
    labels, start = [], 0
    for slot in range(1, slots + 1):
        if slot < slots and texts[slot] == texts[start]:
            continue
        if texts[start]:
            left, right = start * width / slots, slot * width / slots
            labels.append((left, right, wrap(texts[start], right - left - 6, _SMALL, 2)))
        start = slot
    return labels


def _number(value: float) -> str:
    if math.isnan(value):
        return "n/a"
    return f"{value:.2f}" if abs(value) < 100 else f"{value:.4g}"
