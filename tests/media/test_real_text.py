"""The captioner over real files: each is read or named, and large text is found."""

from __future__ import annotations

import csv
import os
import re
from pathlib import Path

import pytest

from tvr_bench.datamodules.types import Clip
from tvr_bench.files import Ledger
from tvr_bench.media.captioner import WindowSpec, build_windows, read_windows
from tvr_bench.media.ocr import create_engine, latin_words
from tvr_bench.media.video import probe

SHARED = Path(os.environ.get("TVR_SHARED", Path(__file__).parents[2].parent / "shared"))
VIDEOS = SHARED / "data" / "videos"
TRUTH = VIDEOS / "datasets" / "textvr_visible_text.tsv"
UNREADABLE = {
    "not_a_video.mp4",
    "trunc50_textvr_5jKLoEt7RBg.mp4",
    "decord_corrupted.mp4",
    "moviepy_zero_bytes.webm",
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not TRUTH.is_file(), reason="the shared videos are not there"),
]


def test_every_real_file_is_captioned_or_in_the_ledger(tmp_path: Path) -> None:
    files = sorted(p for p in VIDEOS.glob("*/*") if p.suffix != ".tsv")
    clips = [Clip(path.name, path) for path in files]
    spec = WindowSpec(windows=4, reads=1, side=320)
    ledger = Ledger()
    captions = build_windows(clips, spec, tmp_path, ledger=ledger)
    assert {e.id for e in ledger.entries} == UNREADABLE
    assert set(captions) == {p.name for p in files} - UNREADABLE
    assert all(len(windows) == 4 for windows in captions.values())
    again = Ledger()
    assert build_windows(clips, spec, tmp_path, ledger=again) == captions
    assert again.entries == ledger.entries


def test_large_text_of_street_scenes_is_found_in_its_window() -> None:
    """Two thirds of the words that a person noted; the rest is blurred, cut or slanted."""
    spec = WindowSpec()
    engine = create_engine(spec.engine, side=spec.side, threads=2)
    read: dict[str, list] = {}
    found = wanted = 0
    with open(TRUTH, encoding="utf-8") as file:
        for video, frame, visible in list(csv.reader(file, delimiter="\t"))[1:]:
            words = set(latin_words(re.sub(r"\(.*?\)|\|", " ", visible)))
            if video not in read:
                read[video] = read_windows(VIDEOS / "datasets" / video, spec, engine)
            time = int(frame) / probe(VIDEOS / "datasets" / video).fps
            window = next(w for w in read[video] if w.start <= time <= w.end)
            found += len(words & set(window.words))
            wanted += len(words)
    assert wanted > 40
    assert found / wanted > 0.65
