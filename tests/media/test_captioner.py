"""Window captions of clips, and the cache that makes a second run free."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ocr_clips import ColourEngine, clip, draw, font, write
from PIL import Image, ImageDraw

from tvr_bench.datamodules.types import Clip
from tvr_bench.errors import UserError
from tvr_bench.files import Ledger
from tvr_bench.media import captioner
from tvr_bench.media.captioner import WindowSpec, build_windows, read_windows
from tvr_bench.media.ocr import create_engine
from tvr_bench.media.windows import read_times

SPEC = WindowSpec(windows=4, reads=2)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four seconds: hotel all the time, bakery in the second half, museum in the last second."""

    def signs(frame: int) -> list[tuple[str, int, int]]:
        shown = [("hotel", 20, 100)]
        shown += [("bakery", 30, 20)] if frame >= 20 else []
        return shown + ([("museum", 120, 100)] if frame >= 30 else [])

    return clip(tmp_path_factory.mktemp("clips") / "street.mp4", signs)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> ColourEngine:
    """Put a counting engine in the place of the real one."""
    fake = ColourEngine()
    monkeypatch.setattr(captioner, "_engine", lambda *_: fake)
    monkeypatch.setattr(captioner, "engine_version", lambda *_: fake.version)
    return fake


def test_each_window_says_what_stands_in_it_in_order(video: Path) -> None:
    windows = read_windows(video, SPEC, ColourEngine())
    assert [w.caption for w in windows] == ["hotel", "hotel", "hotel bakery", "hotel bakery museum"]
    assert [w.words for w in windows][2] == ("hotel", "bakery")
    assert [(w.start, w.end) for w in windows] == [(0, 1), (1, 2), (2, 3), (3, 4)]


def test_windows_need_not_equal_anything_else(video: Path) -> None:
    windows = read_windows(video, WindowSpec(windows=13, reads=1), ColourEngine())
    assert [w.caption for w in windows][::6] == ["hotel", "hotel bakery", "hotel bakery museum"]


def test_xi_narrows_what_a_window_sees(tmp_path: Path) -> None:
    path = clip(tmp_path / "edge.mp4", lambda i: [("hotel", 20, 60)] if i < 5 else [])
    wide = WindowSpec(windows=1, xi=1.0, reads=10)
    assert read_windows(path, wide, ColourEngine())[0].caption == "hotel"
    assert read_windows(path, replace(wide, xi=0.2), ColourEngine())[0].caption == ""


def test_a_clip_without_text_has_empty_captions(tmp_path: Path) -> None:
    path = clip(tmp_path / "bare.mp4", lambda _: [], count=10)
    windows = read_windows(path, SPEC, ColourEngine())
    assert [w.caption for w in windows] == [""] * 4
    assert all(w.words == () for w in windows)


def test_words_are_said_once_and_cut_at_the_limit(tmp_path: Path) -> None:
    signs = [("lotto 777", 20, 20), ("bakery", 20, 60), ("bakery", 20, 110)]
    path = clip(tmp_path / "twice.mp4", lambda _: signs, count=10)
    one = WindowSpec(windows=1)
    assert read_windows(path, one, ColourEngine())[0].caption == "lotto 777 bakery"
    assert read_windows(path, replace(one, max_words=2), ColourEngine())[0].caption == "lotto 777"


def test_a_span_is_read_as_a_clip_of_its_own(video: Path) -> None:
    windows = read_windows(video, WindowSpec(windows=2), ColourEngine(), start=1.0, end=3.0)
    assert [w.caption for w in windows] == ["hotel", "hotel bakery"]


def test_a_second_run_asks_the_engine_nothing(
    video: Path, engine: ColourEngine, tmp_path: Path
) -> None:
    clips = [Clip("a", video), Clip("b", video, 0.0, 2.0)]
    first = build_windows(clips, SPEC, tmp_path, ledger=Ledger())
    assert first["a"] == ["hotel", "hotel", "hotel bakery", "hotel bakery museum"]
    assert first["b"] == ["hotel"] * 4
    asked = (engine.frames, engine.crops)
    assert build_windows(clips, SPEC, tmp_path, ledger=Ledger()) == first
    assert (engine.frames, engine.crops) == asked


def test_text_is_read_again_where_what_was_kept_is_damaged(
    video: Path, engine: ColourEngine, tmp_path: Path
) -> None:
    first = build_windows([Clip("a", video)], SPEC, tmp_path, ledger=Ledger())
    (kept,) = tmp_path.glob("*/*.json")
    kept.write_bytes(kept.read_bytes()[:-20])
    asked = engine.frames
    for _ in range(2):
        assert build_windows([Clip("a", video)], SPEC, tmp_path, ledger=Ledger()) == first
    assert asked < engine.frames <= 2 * asked


@pytest.mark.parametrize(("cards", "asked", "made"), [(0, 8, 8), (1, 8, 1), (2, 8, 2), (2, 0, 0)])
def test_an_engine_on_cards_has_one_process_for_each(
    cards: int,
    asked: int,
    made: int,
    video: Path,
    engine: ColourEngine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []
    monkeypatch.setattr(captioner, "engine_cards", lambda name: cards)
    monkeypatch.setattr(captioner, "run_shards", lambda *_, workers, **__: seen.append(workers))
    build_windows([Clip("a", video)], SPEC, tmp_path, workers=asked, ledger=Ledger())
    assert seen == [made]


def test_the_cache_follows_content_and_not_names(
    video: Path, engine: ColourEngine, tmp_path: Path
) -> None:
    build_windows([Clip("a", video)], SPEC, tmp_path / "cache", ledger=Ledger())
    asked = engine.frames
    copy = Path(shutil.copy(video, tmp_path / "renamed.mp4"))
    same = build_windows([Clip("z", copy)], SPEC, tmp_path / "cache", ledger=Ledger())
    assert same["z"][0] == "hotel" and engine.frames == asked
    other = clip(tmp_path / "other.mp4", lambda _: [("library", 20, 60)], count=10)
    both = [Clip("a", video), Clip("o", other)]
    found = build_windows(both, SPEC, tmp_path / "cache", ledger=Ledger())
    assert found["o"] == ["library"] * 4
    assert 0 < engine.frames - asked <= 8  # only the new one was read


def test_other_settings_or_another_engine_read_again(
    video: Path, engine: ColourEngine, tmp_path: Path
) -> None:
    clips = [Clip("a", video)]
    for spec, version in ((SPEC, "1"), (replace(SPEC, windows=2), "1"), (SPEC, "2")):
        before, engine.version = engine.frames, version
        build_windows(clips, spec, tmp_path, ledger=Ledger())
        assert engine.frames > before


def test_where_the_weights_lie_does_not_matter_to_the_cache(
    video: Path, engine: ColourEngine, tmp_path: Path
) -> None:
    build_windows([Clip("a", video)], SPEC, tmp_path, ledger=Ledger())
    asked = engine.frames
    build_windows([Clip("a", video)], replace(SPEC, weights="/x"), tmp_path, ledger=Ledger())
    assert engine.frames == asked


def test_what_cannot_be_read_is_a_ledger_line_each_time(
    video: Path, engine: ColourEngine, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"not a video at all")
    clips = [Clip("ok", video), Clip("bad", broken), Clip("gone", tmp_path / "gone.mp4")]
    clips.append(Clip("late", video, 90.0, 95.0))
    for _ in range(2):
        ledger = Ledger()
        captions = build_windows(clips, SPEC, tmp_path / "cache", ledger=ledger)
        assert set(captions) == {"ok"}
        lines = {e.id: e for e in ledger.entries}
        assert set(lines) == {"bad", "gone", "late"}
        assert {e.stage for e in ledger.entries} == {"ocr"}
        assert lines["bad"].exception == "VideoError" and lines["bad"].path == str(broken)
        assert lines["gone"].exception == "FileNotFoundError"
        assert lines["late"].exception == "UserError"


def test_a_failure_that_may_pass_is_tried_again(
    video: Path, engine: ColourEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(*_: object) -> None:
        raise MemoryError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(engine, "detect", out_of_memory)
        ledger = Ledger()
        assert build_windows([Clip("a", video)], SPEC, tmp_path, ledger=ledger) == {}
        assert ledger.entries[0].message == "MemoryError: no room"
    again = build_windows([Clip("a", video)], SPEC, tmp_path, ledger=Ledger())
    assert again["a"][0] == "hotel"


def test_a_killed_run_keeps_its_finished_shards(
    video: Path, engine: ColourEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = [Clip(f"c{i}", video, 0.0, 1.0 + i / 10) for i in range(8)]
    read = captioner.read_windows

    def killed(path: Path, spec: WindowSpec, engine: ColourEngine, *span: float) -> object:
        if span[1] > 1.55:
            raise KeyboardInterrupt
        return read(path, spec, engine, *span)

    with monkeypatch.context() as patch:
        patch.setattr(captioner, "read_windows", killed)
        with pytest.raises(KeyboardInterrupt):
            build_windows(clips, SPEC, tmp_path, ledger=Ledger())
    before = engine.frames
    assert len(build_windows(clips, SPEC, tmp_path, ledger=Ledger())) == 8
    assert engine.frames > 0 and engine.frames - before < before


def test_an_engine_that_is_not_there_stops_the_run(video: Path, tmp_path: Path) -> None:
    spec = replace(SPEC, engine="tesseract")
    with pytest.raises(UserError, match="rapidocr or easyocr"):
        build_windows([Clip("a", video)], spec, tmp_path, ledger=Ledger())


@pytest.mark.slow
def test_processes_read_the_same_as_one(video: Path, tmp_path: Path) -> None:
    spec = replace(SPEC, side=224)
    clips = [Clip(f"c{i}", video, 0.0, 2.0 + i / 2) for i in range(4)]
    alone = build_windows(clips, spec, tmp_path / "one", ledger=Ledger())
    shared = build_windows(clips, spec, tmp_path / "two", workers=2, ledger=Ledger())
    assert shared == alone
    assert alone["c3"][0] == "hotel"


def _ticker(path: Path, text: str, start: int, step: int, count: int) -> Path:
    """Write a film of 10 frames per second with `text` moving by `step` pixels a frame."""
    frames = []
    for i in range(count):
        image = Image.fromarray(draw([]))
        pen = ImageDraw.Draw(image)
        pen.rectangle((0, 116, 224, 150), fill=(200, 20, 20))
        pen.text((start + step * i, 122), text, font=font(18), fill=(255, 255, 255))
        frames.append(np.asarray(image))
    return write(path, frames)


def _share_shown(text: str, word: str, left: float) -> float:
    """Return how much of a word is in a frame of 224 pixels where the text begins at `left`."""
    before, after = (font(18).getlength(text[: text.index(word) + n]) for n in (0, len(word)))
    return (min(224, left + after) - max(0, left + before)) / (after - before)


@pytest.mark.parametrize(
    ("text", "start", "step", "count"),
    [
        ("BREAKING NEWS", 214, -3, 80),
        ("BREAKING NEWS", -180, 3, 80),
        ("BREAKING NEWS FROM THE HARBOUR TODAY", 214, -4, 140),
    ],
)
def test_a_window_of_a_ticker_says_what_its_own_frames_show(
    text: str, start: int, step: int, count: int, tmp_path: Path
) -> None:
    path = _ticker(tmp_path / "ticker.mp4", text, start, step, count)
    spec = WindowSpec(windows=8, reads=2, side=224)
    read = read_windows(path, spec, create_engine("rapidocr", side=224))
    times = read_times([(w.start, w.end) for w in read], 2)
    for window in read:
        shown = [int(t * 10) for t in times if window.start <= t <= window.end]
        most = {
            word.lower(): max(_share_shown(text, word, start + step * i) for i in shown)
            for word in text.split()
        }
        assert set(window.words) <= {word for word, share in most.items() if share > 0.4}
        assert set(window.words) >= {word for word, share in most.items() if share == 1}
