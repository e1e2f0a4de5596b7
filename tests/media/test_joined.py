"""Recordings appended to one another are shown one after the other, each as long as it is alone."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from make_clips import make_clip, slow_frames, x264

from tvr_bench.media import marks
from tvr_bench.media.joins import find_joins
from tvr_bench.media.video import open_video, segment_centres

OPEN_GOP = x264(12, 3, **{"open-gop": 1})
HOUR = 36_000  # pictures


def part(folder: Path, name: str, start: int, count: int, **how) -> Path:
    return make_clip(folder / name, count=count, pts=range(start, start + count), **how)


def joined(folder: Path, parts: list[Path]) -> Path:
    path = folder / f"joined{parts[0].suffix}"
    path.write_bytes(b"".join(p.read_bytes() for p in parts))
    return path


JOINS = {
    "the clock starts again": [(0, 30), (0, 30)],
    "it starts elsewhere": [(0, 30), (7, 12), (3, 20)],
    "a short second part": [(0, 30), (0, 4)],
    "an hour later": [(0, 30), (HOUR, 20)],
    "an hour earlier": [(HOUR, 20), (0, 30)],
}


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("case", JOINS)
def test_joined_transport_streams(tmp_path, monkeypatch, case, held):
    if not held:
        monkeypatch.setattr(marks, "_KEEP_BYTES", 1000)
    spans = JOINS[case]
    parts = [
        part(tmp_path, f"{i}.ts", start, count, options=OPEN_GOP)
        for i, (start, count) in enumerate(spans)
    ]
    path = joined(tmp_path, parts)
    images = [image for p in parts for _, image in slow_frames(p)]
    with open_video(path) as video:
        assert video.times == pytest.approx([n / 10 for n in range(len(images))])
        assert video.duration == pytest.approx(len(images) / 10)
        got = video.read(video.times)
        some = segment_centres(video.duration, 12)
        picked = video.read(some)
    assert np.array_equal(got, np.stack(images))
    assert np.array_equal(picked, np.stack([images[int(t * 10 + 1e-6)] for t in some]))


def test_joined_program_streams(tmp_path):
    how = {"codec": "mpeg2video", "bframes": 2, "fps": 25}
    parts = [part(tmp_path, f"{i}.mpg", 0, n, **how) for i, n in enumerate((40, 30))]
    images = [image for p in parts for _, image in slow_frames(p)]
    with open_video(joined(tmp_path, parts)) as video:
        assert video.times == pytest.approx([n / 25 for n in range(70)])
        assert np.array_equal(video.read(video.times), np.stack(images))


def restamped(source: Path, target: Path, stamps: list[int]) -> Path:
    """Copy a video without reordered frames, with other stamps in tenths of a second."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for i, packet in enumerate(p for p in old.demux(video=0) if p.size):
            copy = av.Packet(bytes(packet))
            copy.pts, copy.dts, copy.time_base = stamps[i], i - 99, Fraction(1, 10)
            copy.is_keyframe, copy.stream = packet.is_keyframe, stream
            new.mux(copy)
    return target


@pytest.mark.parametrize("codec", ["libx264", "mjpeg"])
def test_a_clock_that_starts_again_in_matroska(tmp_path, codec):
    how = {"options": x264(12, 0)} if codec == "libx264" else {"pix_fmt": "yuvj420p"}
    source = make_clip(tmp_path / "a.mkv", codec, 36, **how)
    path = restamped(source, tmp_path / "b.mkv", [*range(24), *range(12)])
    with open_video(path) as video:
        assert video.times == pytest.approx([n / 10 for n in range(36)])
        got = video.read(video.times)
    assert np.array_equal(got, np.stack([image for _, image in slow_frames(source)]))


def mark(pts: int, key: bool = False) -> marks.Mark:
    return marks.Mark(pts, pts, 1, key, False, True, False)


@pytest.mark.parametrize("spoilt", [6, 7])
@pytest.mark.parametrize("container", ["flv", "mpegts"])
def test_one_spoilt_stamp_starts_no_recording(container, spoilt):
    clock = [mark(10 * n, n % 6 == 0) for n in range(30)]
    clock[spoilt] = mark(400, spoilt % 6 == 0)
    assert find_joins(clock, container, 0.1) == []
    again = [mark(10 * n, n % 6 == 0) for n in range(30)]
    assert [j.position for j in find_joins(clock + again, container, 0.1)] == [30]


def test_frames_of_one_stamp_start_no_recording(tmp_path):
    source = make_clip(tmp_path / "a.mkv", "mjpeg", 6, pix_fmt="yuvj420p")
    path = restamped(source, tmp_path / "b.mkv", [0, 0, 1, 2, 2, 3])
    with open_video(path) as video:
        assert video.times == pytest.approx([0, 0.025, 0.1, 0.15, 0.2, 0.3], abs=1e-3)
        got = video.read(video.times)
    assert np.array_equal(got, np.stack([image for _, image in slow_frames(source)]))


@pytest.mark.parametrize("suffix", ["ts", "mkv"])
def test_slides_that_stay_for_long_are_one_recording(tmp_path, suffix):
    pts = [0, 15, 16, 40, 41, 60, 99]  # seconds
    path = make_clip(tmp_path / f"a.{suffix}", count=7, fps=1, pts=pts, options=x264(1, 0))
    with open_video(path) as video:
        assert video.times == pytest.approx(pts)


def test_a_stamp_that_comes_twice_leaves_every_frame_a_time(tmp_path):
    """A program stream of a disc's layout: its demuxer gives two frames one stamp."""
    path = tmp_path / "a.mpg"
    with av.open(str(path), "w", format="vcd") as file:
        made = make_clip(tmp_path / "b.mkv", "mpeg2video", 60, 25)
        with av.open(str(made)) as source:
            stream = file.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.size:
                    packet.stream = stream
                    file.mux(packet)
    with av.open(str(path)) as file:
        stamps = [f.pts for f in file.decode(video=0)]
    assert len(stamps) == 60
    assert len(set(stamps)) < 60, "this demuxer gives every frame its own stamp: make another file"
    with open_video(path) as video:
        assert all(a < b for a, b in zip(video.times, video.times[1:], strict=False))
        alone = [video.read([t])[0] for t in video.times]
    assert np.array_equal(alone, np.stack([image for _, image in slow_frames(path)]))
