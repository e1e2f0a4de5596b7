"""Pictures of the retrieval: hostile text and odd videos draw, and the right one stands out."""

from __future__ import annotations

import io
import math
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tvr_bench.leaderboard.canvas import Pixels, film, readable, text_width, wrap
from tvr_bench.leaderboard.skills import draw_skills
from tvr_bench.leaderboard.strips import Hit, QueryStrip, _labels, _strip, draw_retrieval

GREEN = (21, 128, 61)


def _frames(count: int = 6, height: int = 80, width: int = 112) -> Pixels:
    shade = np.linspace(40, 220, count).astype(np.uint8)
    return np.broadcast_to(shade[:, None, None, None], (count, height, width, 3)).copy()


def _hit(correct: bool = False, **changes: object) -> Hit:
    values: dict[str, object] = {
        "video_id": "v1",
        "correct": correct,
        "frames": _frames(),
        "score": 0.5,
        "captions": ["", "gold cafe", "gold cafe", ""],
        "parts": {"text-video": 0.4, "text-OCR": -0.2},
    }
    return Hit(**{**values, **changes})  # type: ignore[arg-type]


def _draw(path: Path, *rows: QueryStrip, title: str = "") -> Pixels:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a missing glyph is a warning of matplotlib's
        draw_retrieval(path, rows, title)
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _green_rows(picture: Pixels) -> np.ndarray:
    """Return which lines of pixels have a long green edge, i.e. the top or bottom of a frame."""
    return np.flatnonzero((picture == GREEN).all(axis=2).sum(axis=1) > 300)


def test_only_the_right_video_is_framed_green(tmp_path: Path) -> None:
    hits = [_hit(), _hit(correct=True), _hit()]
    picture = _draw(tmp_path / "a.png", QueryStrip("a query", "scene_text", hits))
    edges = _green_rows(picture)
    assert len(edges) and len(picture) / 3 < edges.min() and edges.max() < len(picture) * 2 / 3
    wrong = _draw(tmp_path / "b.png", QueryStrip("a query", "scene_text", [_hit()] * 3))
    assert len(_green_rows(wrong)) == 0


def test_right_is_told_apart_without_colour(tmp_path: Path) -> None:
    picture = _draw(tmp_path / "a.png", QueryStrip("q", "", [_hit(correct=True), _hit()]))
    grey = picture.mean(axis=2)
    strips = np.flatnonzero((grey[:, 100:800] < 40).sum(axis=1) > 300)
    beside = (grey[strips.min() : strips.max(), 28:82] < 160).any(axis=1)
    marks = np.diff(beside.astype(int)) > 0
    # the rank, a check mark and the word "correct", then the rank of the other
    assert marks.sum() == 3 + 1


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    row = QueryStrip("a query", "temporal", [_hit(correct=True), _hit()])
    for name in ("a.png", "b.png"):
        _draw(tmp_path / name, row)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.png"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\t ",
        "costs $5 and $x^2$ \\frac{1}{",
        "\N{GRINNING FACE}\N{VARIATION SELECTOR-16} \u65e5\u672c\u8a9e \U0001f9d1\u200d\U0001f680",
        "\x1b[31m\x00\u202ereversed",
        "word " * 3000,
        "x" * 10_000,
        "100 % {} {0} %s <b>",
    ],
)
def test_hostile_text_draws(tmp_path: Path, text: str) -> None:
    hit = _hit(video_id=text, captions=[text, "a", text], parts={text: 0.1})
    picture = _draw(tmp_path / "a.png", QueryStrip(text, text, [hit]), title=text)
    assert picture.shape[1] == 1200 and picture.shape[0] < 500


@pytest.mark.parametrize(
    "frames",
    [
        _frames(1),
        _frames(30),
        _frames(6, 160, 90),
        _frames(6, 90, 160),
        _frames(5, 10, 1000),
        _frames(5, 1000, 10),
        _frames(3, 1, 1),
        np.zeros((0, 8, 8, 3), np.uint8),
    ],
    ids=lambda frames: "x".join(str(n) for n in frames.shape[:3]),
)
def test_any_shape_of_video_stays_on_the_page(tmp_path: Path, frames: Pixels) -> None:
    strip, count = _strip(frames)
    if strip is not None:
        assert strip.shape[1] <= 790 and strip.shape[0] <= 160
        assert count == min(len(frames), 6) or len(frames) > count >= 4
    rows = [QueryStrip("q", "", [_hit(frames=frames, correct=right)]) for right in (True, False)]
    assert len(_draw(tmp_path / "a.png", *rows)) < 760


def test_rows_without_text_or_parts_are_lower(tmp_path: Path) -> None:
    plain = [QueryStrip("q", "", [_hit(captions=[], parts={})] * 2)] * 6
    full = [QueryStrip("q", "", [_hit()] * 2)] * 6
    low, high = _draw(tmp_path / "a.png", *plain), _draw(tmp_path / "b.png", *full)
    assert len(low) + 2 * 6 * 20 < len(high)


def test_odd_numbers_draw(tmp_path: Path) -> None:
    parts = {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 0.0}
    hits = [_hit(score=s, parts=parts) for s in (math.nan, -math.inf, 1e9, -0.004)]
    _draw(tmp_path / "a.png", QueryStrip("q", "", hits), QueryStrip("q", "", []))
    with pytest.raises(ValueError, match="at least one"):
        draw_retrieval(tmp_path / "b.png", [])


def test_frames_of_a_strip_are_spread_over_the_clip() -> None:
    strip, count = _strip(_frames(12))
    assert strip is not None and count == 6
    shades = [int(strip[60, 4 + i * (strip.shape[1] - 4) // 6 + 50, 0]) for i in range(6)]
    assert shades == [int(frame[0, 0, 0]) for frame in _frames(12)[1::2]]


def test_film_has_holes_and_keeps_its_frames() -> None:
    strip = film(_frames(2, 40, 60), 40, 60)
    assert strip.shape == (40 + 28, 2 * 64 + 4, 4)
    assert (strip[20:50, 10:60, :3] == 40).all() and (strip[20:50, 10:60, 3] == 255).all()
    margin = strip[7, :, 3]
    assert (margin == 0).any() and (margin == 255).any()
    assert strip[0, 0, 3] == 0  # a round corner


def _spans(captions: list[str], slots: int) -> list[tuple[float, float, str]]:
    return [(a, b, " ".join(lines)) for a, b, lines in _labels(captions, slots, slots * 100)]


def test_equal_neighbours_share_a_label() -> None:
    assert _spans(["", "ab", "ab", "", "ab", "c"], 6) == [
        (100, 300, "ab"),
        (400, 500, "ab"),
        (500, 600, "c"),
    ]
    assert _spans(["ab"] * 6, 6) == [(0, 600, "ab")]
    assert _spans(["", " "], 6) == []
    assert _spans([], 6) == []


def test_windows_and_frames_need_not_be_as_many() -> None:
    # twelve windows in six slots: the words of both, each once
    twelve = ["a", "a b", *[""] * 8, "c", "c"]
    assert _spans(twelve, 6) == [(0, 100, "a b"), (500, 600, "c")]
    # two windows in six slots: each fills its half
    assert _spans(["a", "b"], 6) == [(0, 300, "a"), (300, 600, "b")]
    assert _spans(["a", "", "b"], 1) == [(0, 100, "a b")]


def test_wrapped_lines_fit_and_lose_only_the_end() -> None:
    text = "the quick brown fox jumps over the lazy dog " * 5
    lines = wrap(text, 300, 13, 100)
    assert " ".join(lines) == text.strip()
    assert all(text_width(line, 13) <= 300 for line in lines)
    cut = wrap(text, 300, 13, 2)
    assert len(cut) == 2 and cut[1].endswith("\u2026") and cut[0] == lines[0]
    assert all(text_width(line, 13) <= 301 for line in cut)
    hard = wrap("x" * 200, 300, 13, 100)
    assert "".join(hard) == "x" * 200 and all(text_width(line, 13) <= 300 for line in hard)


def test_readable_text() -> None:
    assert readable(" a\n\tb \x00c\u200d") == "a b c"
    assert readable("\u65e5\u672c!") == "\u25af!"
    assert readable("\u00fc\u0416\u2713") == "\u00fc\u0416\u2713"


def test_skills_show_every_value_against_chance(tmp_path: Path) -> None:
    models = {"tcard": {"temporal": 61.0, "scene_text": 96.0}, "$meanpool$": {"temporal": 26.0}}
    chance = {"temporal": 25.0, "scene_text": 25.0}
    draw_skills(tmp_path / "a.png", models, chance, {"tcard": {"temporal": 4.0}})
    draw_skills(tmp_path / "b.png", models, {})
    pictures = []
    for name in ("a.png", "b.png"):
        with Image.open(io.BytesIO((tmp_path / name).read_bytes())) as image:
            pictures.append(np.asarray(image.convert("RGB")).astype(int))
    blue = (pictures[0] == (0x00, 0x72, 0xB2)).all(axis=2).sum(axis=0)
    heights = sorted({int(h) for h in blue if h > 100})
    assert heights[-1] / heights[0] == pytest.approx(96 / 61, rel=0.1)
    assert (pictures[0] != pictures[1]).any()
    with pytest.raises(ValueError, match="at least one"):
        draw_skills(tmp_path / "c.png", {}, chance)


def test_importing_the_pictures_does_not_import_matplotlib() -> None:
    code = (
        "import sys, tvr_bench.leaderboard.strips, tvr_bench.leaderboard.skills;"
        "print('matplotlib' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
