"""A file that is replaced is read again, whatever its size, its times and its two ends say."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from make_clips import make_clip
from ocr_clips import ColourEngine

from tvr_bench.cli import main
from tvr_bench.datamodules.types import Clip
from tvr_bench.files import Ledger
from tvr_bench.media import captioner
from tvr_bench.media.cache import FrameSpec, build_frames
from tvr_bench.media.captioner import WindowSpec, build_windows

SPEC = FrameSpec(frames=12, size=(24, 32))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of some 270 kB, every frame a key frame."""
    folder = tmp_path_factory.mktemp("good")
    path = make_clip(
        folder / "good.mp4", count=24, size=(256, 192), gop=1, options={"crf": "3", "g": "1"}
    )
    assert path.stat().st_size > 250_000
    return path


@pytest.fixture
def bad(good: Path, tmp_path: Path) -> Path:
    """The same with noise in the middle: its size, time and ends are those of the good one."""
    path = Path(shutil.copy2(good, tmp_path / "clip.mp4"))
    size = path.stat().st_size
    with open(path, "r+b") as file:
        file.seek(size // 3)
        file.write(np.random.default_rng(0).bytes(size // 3))
    _dated_as(path, good)
    return path


def _dated_as(path: Path, other: Path) -> None:
    os.utime(path, ns=(other.stat().st_atime_ns, other.stat().st_mtime_ns))


def _replace(bad: Path, good: Path) -> None:
    with open(bad, "r+b") as file:  # the same inode, too
        file.write(good.read_bytes())
    _dated_as(bad, good)


def test_frames_of_a_replaced_file_are_read(bad: Path, good: Path, tmp_path: Path) -> None:
    clips = [Clip("a", bad)]
    for _ in range(2):
        ledger = Ledger()
        assert "a" not in build_frames(clips, SPEC, tmp_path / "cache", ledger=ledger)
        assert [entry.id for entry in ledger.entries] == ["a"]
    _replace(bad, good)
    ledger = Ledger()
    store = build_frames(clips, SPEC, tmp_path / "cache", ledger=ledger)
    assert not ledger.entries
    right = build_frames([Clip("a", good)], SPEC, tmp_path / "other", ledger=Ledger())
    assert np.array_equal(store.get("a")[0], right.get("a")[0])


def test_text_of_a_replaced_file_is_read(
    bad: Path, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captioner, "_engine", lambda *_: ColourEngine())
    monkeypatch.setattr(captioner, "engine_version", lambda *_: "1")
    clips, spec = [Clip("a", bad)], WindowSpec(windows=6)
    assert build_windows(clips, spec, tmp_path / "cache", ledger=Ledger()) == {}
    _replace(bad, good)
    ledger = Ledger()
    found = build_windows(clips, spec, tmp_path / "cache", ledger=ledger)
    right = build_windows([Clip("a", good)], spec, tmp_path / "other", ledger=Ledger())
    assert found == right and not ledger.entries


def test_a_check_of_a_replaced_file_reads_it(
    bad: Path, good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.csv").write_text("video,caption,split\nclip.mp4,a clip,test\n")
    words = [f"data.file={tmp_path / 'own.csv'}", f"paths.cache={tmp_path / 'cache'}"]
    words += ["trainer.prepare_workers=0", "--out", str(tmp_path / "out")]
    main(["data", "check", "data=csv", *words])
    assert "test, unreadable: clip.mp4" in capsys.readouterr().out
    _replace(bad, good)
    main(["data", "check", "data=csv", *words])
    assert "unreadable:" not in capsys.readouterr().out
    assert "error" not in json.loads((tmp_path / "out" / "manifest.jsonl").read_text())


def test_six_films_with_the_same_ends_are_six(tmp_path: Path) -> None:
    paths = []
    for i in range(6):
        path = make_clip(tmp_path / f"{i}.avi", "rawvideo", count=12, size=(320, 240))
        data = bytearray(path.read_bytes())
        middle = data.index(b"00dc", len(data) // 2) + 8  # where a picture begins
        data[middle : middle + 60_000] = bytes([40 * i]) * 60_000
        path.write_bytes(data)
        paths.append(path)
    clips = [Clip("same", path) for path in paths]
    stores = [build_frames([c], SPEC, tmp_path / "cache", ledger=Ledger()) for c in clips]
    assert len({store.get("same")[0].tobytes() for store in stores}) == 6
