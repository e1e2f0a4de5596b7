"""The reader over real files: every frame it gives equals a plain decode's, the rest is named."""

from __future__ import annotations

import os
from pathlib import Path

import av
import numpy as np
import pytest
from make_clips import slow_frames

from tvr_bench.media.video import VideoError, open_video, segment_centres

SHARED = Path(os.environ.get("TVR_SHARED", Path(__file__).parents[2].parent / "shared"))
VIDEOS = SHARED / "data" / "videos"
FILES = sorted(p for p in VIDEOS.glob("*/*") if p.suffix != ".tsv") if VIDEOS.is_dir() else []
UNREADABLE = {
    "derived/not_a_video.mp4",
    "derived/trunc50_textvr_5jKLoEt7RBg.mp4",
    "odd/decord_corrupted.mp4",
    "odd/moviepy_zero_bytes.webm",
}

pytestmark = pytest.mark.skipif(not FILES, reason="the shared videos are not there")


def name_of(path: Path) -> str:
    return path.relative_to(VIDEOS).as_posix()


def is_large(path: Path) -> bool:
    return path.stat().st_size > 600_000


PARAMS = [
    pytest.param(p, id=name_of(p), marks=[pytest.mark.slow] * is_large(p))
    for p in FILES
    if name_of(p) not in UNREADABLE
]


@pytest.mark.parametrize("path", PARAMS)
def test_sampled_frames_equal_a_plain_decode(path):
    with open_video(path) as video:
        times = sorted({*segment_centres(video.duration, 12), *video.times[:2], video.times[-1]})
        got = video.read(times, (48, 64))
        quarters = video.info().rotation // 90
    stored = (48, 64) if quarters % 2 == 0 else (64, 48)
    slow = _decoded(path, stored)
    for time, image in zip(times, got, strict=True):
        shown = [frame for when, frame in slow if when <= time + 1e-9][-1]
        assert np.array_equal(image, np.rot90(shown, -quarters)), f"at {time:.3f} s"


def _decoded(path: Path, size: tuple[int, int]):
    """Decode the whole file; a cut one up to the packet that is broken."""
    try:
        return slow_frames(path, size)
    except av.error.InvalidDataError:
        assert "trunc50" in path.name
        return slow_frames(path, size, stop_at_error=True)


@pytest.mark.parametrize("name", sorted(UNREADABLE))
def test_what_cannot_be_read_is_named(name):
    with pytest.raises(VideoError, match=Path(name).name), open_video(VIDEOS / name) as video:
        video.read(segment_centres(video.duration, 12), (48, 64))


def test_the_main_stream_of_two_is_read():
    with open_video(VIDEOS / "general" / "torchcodec_nasa_13013.mp4") as video:
        info = video.info()
    assert (info.width, info.height, info.frames) == (480, 270, 390)
