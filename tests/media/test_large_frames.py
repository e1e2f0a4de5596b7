"""Frames of more pixels than are allowed: refused by the setting's name, read where it allows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from make_clips import make_clip
from ocr_clips import ColourEngine

from tvr_bench.cli import main
from tvr_bench.datamodules.types import Clip
from tvr_bench.files import Ledger
from tvr_bench.media import captioner
from tvr_bench.media.cache import FrameSpec, build_frames
from tvr_bench.media.captioner import WindowSpec, build_windows
from tvr_bench.media.given_text import GivenSpec, build_given
from tvr_bench.media.video import VideoError, probe, read_frames

SMALL, ENOUGH = 3000, 64 * 48  # pixels


@pytest.fixture
def clips(tmp_path: Path) -> list[Clip]:
    return [Clip("a", make_clip(tmp_path / "a.mp4", count=10))]


def test_a_frame_of_17_million_pixels_is_read_where_that_is_allowed(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.avi", "mjpeg", 1, size=(4800, 3600), pix_fmt="yuvj420p")
    with pytest.raises(VideoError, match=r"video\.max_pixels=16777216\. Set"):
        probe(path)
    assert probe(path, 17_280_000).width == 4800
    assert read_frames(path, [0.0], (36, 48), max_pixels=17_280_000).shape == (1, 36, 48, 3)


def test_another_limit_is_another_try_and_no_other_frames(
    clips: list[Clip], tmp_path: Path
) -> None:
    spec = FrameSpec(3, (24, 32), max_pixels=SMALL)
    assert spec.settings == replace(spec, max_pixels=ENOUGH).settings
    for limit, found in ((SMALL, 0), (SMALL, 0), (ENOUGH, 1), (SMALL, 1)):
        ledger = Ledger()
        now = replace(spec, max_pixels=limit)
        assert len(build_frames(clips, now, tmp_path / "cache", ledger=ledger)) == found
        assert [f"video.max_pixels={limit}" in e.message for e in ledger.entries] == [True][found:]


@pytest.mark.parametrize("source", ["engine", "tracks"])
def test_text_is_read_once_the_limit_allows_it(
    source: str, clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captioner, "_engine", lambda *_: ColourEngine())
    monkeypatch.setattr(captioner, "engine_version", lambda *_: "1")
    (tmp_path / "tracks.jsonl").write_text('{"video": "a"}')
    for limit, found in ((SMALL, set()), (ENOUGH, {"a"})):
        spec = WindowSpec(windows=2, max_pixels=limit)
        if source == "engine":
            read = build_windows(clips, spec, tmp_path / "cache", ledger=Ledger())
        else:
            given, names = GivenSpec("tracks", tmp_path), {"a": ("a",)}
            read = build_given(clips, names, given, spec, tmp_path / "cache", ledger=Ledger())
        assert set(read) == found


def test_a_check_names_the_setting_and_heeds_it(
    clips: list[Clip], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.csv").write_text("video,caption,split\na.mp4,a clip,test\n")
    words = [f"data.file={tmp_path / 'own.csv'}", f"paths.cache={tmp_path / 'cache'}"]
    words += ["data=csv", "trainer.prepare_workers=0", "--out", str(tmp_path / "out")]
    for limit, said in ((SMALL, True), (ENOUGH, False)):
        main(["data", "check", f"video.max_pixels={limit}", *words])
        facts = json.loads((tmp_path / "out" / "manifest.jsonl").read_text())
        assert ("video.max_pixels=3000" in facts.get("error", "")) == said
        assert "max_pixels" not in facts
