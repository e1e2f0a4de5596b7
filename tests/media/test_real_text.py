"""The captioner over real files: each is read or named, and large text is found."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from real import DATA
from tvr_bench.datamodules.types import Clip
from tvr_bench.files import Ledger
from tvr_bench.media.captioner import WindowSpec, build_windows, read_windows
from tvr_bench.media.ocr import create_engine, latin_words
from tvr_bench.media.video import probe
from tvr_bench.media.windows import Window

VIDEOS = DATA / "videos"
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


@pytest.fixture(scope="module")
def seen() -> dict[str, list[tuple[float, set[str]]]]:
    """Return, per clip, (second, words that a person noted then): large text only."""
    moments: dict[str, list[tuple[float, set[str]]]] = {}
    with open(TRUTH, encoding="utf-8", newline="") as file:
        for video, frame, visible in list(csv.reader(file, delimiter="\t"))[1:]:
            words = set(latin_words(re.sub(r"\(.*?\)|\|", " ", visible)))
            second = int(frame) / probe(VIDEOS / "datasets" / video).fps
            moments.setdefault(video, []).append((second, words))
    return moments


@pytest.fixture(scope="module")
def read(seen: dict[str, list[tuple[float, set[str]]]]) -> dict[str, list[Window]]:
    """Return the windows of each clip, read as the default has it."""
    spec = WindowSpec()
    engine = create_engine(spec.engine, side=spec.side)
    return {video: read_windows(VIDEOS / "datasets" / video, spec, engine) for video in seen}


def test_the_words_of_a_clip_are_in_its_captions(
    seen: dict[str, list[tuple[float, set[str]]]], read: dict[str, list[Window]]
) -> None:
    """Nine words of ten, and two thirds in the clip whose text is small and moves."""
    found = wanted = 0
    for video, moments in seen.items():
        words = set().union(*(words for _, words in moments))
        said = {word for window in read[video] for word in window.words}
        assert len(words & said) / len(words) > 0.66, words - said
        found, wanted = found + len(words & said), wanted + len(words)
    assert wanted == 40
    assert found / wanted > 0.85


def test_the_words_of_a_moment_are_in_its_window(
    seen: dict[str, list[tuple[float, set[str]]]], read: dict[str, list[Window]]
) -> None:
    """Three quarters; the rest is blurred, slanted or cut at that moment."""
    found = wanted = 0
    for video, moments in seen.items():
        for second, words in moments:
            at_once = [w for w in read[video] if w.start <= second <= w.end]  # two at a border
            found += len(words & {word for window in at_once for word in window.words})
            wanted += len(words)
    assert wanted == 57
    assert found / wanted > 0.75
