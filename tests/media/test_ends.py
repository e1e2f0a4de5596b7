"""A file ends where its pictures end: not where its sound does, and not before."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from make_clips import make_clip, pictures, slow_frames, x264

from tvr_bench.media.video import open_video, probe

PYRAMID = x264(12, 3, **{"b-pyramid": "normal"})


def with_long_sound(path: Path, fps: int, count: int, seconds: int, **container: str) -> Path:
    """Write reordered pictures and a sound that lasts `seconds`."""
    with av.open(str(path), "w", options=container) as file:
        picture = file.add_stream("libx264", rate=fps, options=PYRAMID)
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        sound = file.add_stream("aac", rate=16000, layout="mono")
        for i, image in enumerate(pictures(count)):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, fps)
            file.mux(picture.encode(frame))
        for i in range(seconds * 16000 // 1024):
            silence = np.zeros((1, 1024), np.float32)
            frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, 1024 * i
            file.mux(sound.encode(frame))
        file.mux([*picture.encode(), *sound.encode()])
    return path


def assert_like_a_plain_decode(path: Path, count: int, duration: float) -> None:
    slow = slow_frames(path)
    assert len(slow) == count
    with open_video(path) as video:
        assert video.times == pytest.approx([float(t) for t, _ in slow])
        assert video.duration == pytest.approx(duration, abs=0.1)
        got = video.read(video.times)
    assert np.array_equal(got, np.stack([image for _, image in slow]))


@pytest.mark.parametrize(("fps", "count"), [(1, 6), (10, 30), (1, 2), (25, 40)])
@pytest.mark.parametrize("name", ["a.mkv", "live.mkv", "a.mp4", "parts.mp4", "a.flv", "a.ts"])
def test_sound_that_outlasts_the_pictures(tmp_path, name, fps, count):
    how: dict[str, dict[str, str]] = {
        "live.mkv": {"live": "1"},
        "parts.mp4": {"movflags": "frag_keyframe+empty_moov+default_base_moof"},
    }
    path = with_long_sound(tmp_path / name, fps, count, 9, **how.get(name, {}))
    assert_like_a_plain_decode(path, count, count / fps)


@pytest.mark.parametrize("suffix", ["ts", "mkv", "flv"])
def test_pictures_at_uneven_times(tmp_path, suffix):
    pts = [*range(20), 25, 26, 30, 31, 40, 41]
    path = make_clip(tmp_path / f"a.{suffix}", count=26, pts=pts, options=PYRAMID)
    with open_video(path) as video:
        assert video.times == pytest.approx([t / 10 for t in pts], abs=1e-3)
        assert video.duration >= 4.15


@pytest.mark.parametrize("lost", [1, 40])
def test_a_matroska_file_that_lost_only_its_tables(tmp_path, lost):
    path = make_clip(tmp_path / "a.mkv", options=PYRAMID)
    data = path.read_bytes()
    path.write_bytes(data[:-lost])
    assert probe(path).frames == 40


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "ts", "flv"])
@pytest.mark.parametrize("share", [0.5, 0.6, 0.7, 0.8, 0.9, 0.97])
def test_a_cut_file_has_no_hole(tmp_path, suffix, share):
    """A picture that is shown early may be stored late, and be lost."""
    how = {"movflags": "frag_keyframe+empty_moov"} if suffix == "mp4" else {}
    whole = make_clip(tmp_path / f"a.{suffix}", options=PYRAMID, count=60, container=how)
    images = [image for _, image in slow_frames(whole)]
    data = whole.read_bytes()
    if suffix == "mp4":
        share = max(share, 0.6)  # the first part ends there
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(data[: round(len(data) * share)])
    with open_video(cut) as video:
        assert video.times == pytest.approx([n / 10 for n in range(len(video.times))], abs=1e-3)
        got = video.read(video.times)
    assert 10 <= len(got) <= 60 and np.array_equal(got, np.stack(images[: len(got)]))
