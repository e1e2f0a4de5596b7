"""What users really have: each oddity is read right, or refused with a line that says why."""

from __future__ import annotations

import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from bombs import movie, png
from make_clips import make_clip, pictures, rewrap, slow_frames, slow_read, x264
from test_real_files import VIDEOS

from tvr_bench.datamodules.types import Clip
from tvr_bench.files import Ledger
from tvr_bench.media.cache import FrameSpec, build_frames
from tvr_bench.media.video import VideoError, open_video, probe, read_frames

TEN = "yuv420p10le"
X265 = {"preset": "ultrafast", "x265-params": "log-level=none"}
VP9 = {"deadline": "realtime", "cpu-used": "8"}
# how a video of 10 pictures at 10 per second is made, and how far its pixels may be from them
DEEP = {
    "h264.mp4": {"codec": "libx264", "options": {"qp": "1"}, "pix_fmt": TEN},
    "hevc.mkv": {"codec": "libx265", "options": X265 | {"crf": "1"}, "pix_fmt": TEN},
    "av1.mp4": {"codec": "libsvtav1", "options": {"preset": "12", "crf": "1"}, "pix_fmt": TEN},
    "twelve.mkv": {"codec": "libx265", "options": X265 | {"crf": "1"}, "pix_fmt": "yuv420p12le"},
    "prores.mov": {"codec": "prores_ks", "pix_fmt": "yuv422p10le"},
    "444.mp4": {"codec": "libx264", "options": {"qp": "1"}, "pix_fmt": "yuv444p"},
    "422.mp4": {"codec": "libx264", "options": {"qp": "1"}, "pix_fmt": "yuv422p10le"},
    "odd.mp4": {"codec": "libx264", "options": {"qp": "1"}, "pix_fmt": "yuv444p", "size": (65, 49)},
    "png.mov": {"codec": "png", "pix_fmt": "rgb24"},
    "deep.mov": {"codec": "png", "pix_fmt": "rgb48be"},
    "alpha.mov": {"codec": "qtrle", "pix_fmt": "argb"},
    "av1.webm": {"codec": "libsvtav1", "options": {"preset": "12", "crf": "1"}},
    "movie.gif": {"codec": "gif", "pix_fmt": "rgb8"},
    "mjpeg.avi": {"codec": "mjpeg", "options": {"qscale": "2"}, "pix_fmt": "yuvj422p"},
}
LOOSE = {"movie.gif": 40}  # 256 colours


@pytest.mark.parametrize("name", DEEP)
def test_depths_colours_and_containers_give_the_picture_in_8_bits(tmp_path, name):
    path = make_clip(tmp_path / name, **({"count": 10} | DEEP[name]))
    with open_video(path) as video:
        got = video.read(video.times)
    expected = np.stack(pictures(10, DEEP[name].get("size", (64, 48))))
    assert got.dtype == np.uint8 and got.shape == expected.shape
    # the pictures are fine ramps; only their chroma is averaged over 2 x 2 pixels
    assert np.abs(got.astype(int) - expected).mean() < LOOSE.get(name, 12)
    assert np.array_equal(got, np.stack([image for _, image in slow_frames(path)]))


def test_a_matrix_of_another_standard_is_heeded(tmp_path):
    """The same YUV values are another red in the BT.709 of HD, and in the BT.2020 of HDR."""

    def red(matrix: int) -> np.ndarray:
        path = tmp_path / f"{matrix}.mp4"
        with av.open(str(path), "w") as file:
            stream = file.add_stream("libx264", rate=10, options={"qp": "0"})
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            stream.codec_context.colorspace = matrix
            frame = av.VideoFrame(64, 48, "yuv420p")
            for plane, value in zip(frame.planes, (81, 90, 240), strict=True):
                plane.update(bytes([value]) * plane.buffer_size)
            frame.pts, frame.time_base = 0, Fraction(1, 10)
            file.mux([*stream.encode(frame), *stream.encode()])
        return read_frames(path, [0.0])[0, 20, 20]

    assert np.abs(red(5).astype(int) - (254, 0, 0)).max() <= 3
    assert np.abs(red(1).astype(int) - (255, 23, 0)).max() <= 3
    assert np.abs(red(9).astype(int) - (255, 8, 0)).max() <= 3


@pytest.mark.skipif(not VIDEOS.is_dir(), reason="the shared videos are not there")
def test_hdr_looks_as_the_same_film_without():
    hdr, plain = (
        read_frames(VIDEOS / name, [1.0, 5.0, 8.0], (64, 112)).astype(int)
        for name in ("odd/torchcodec_nasa_13013_hdr.mp4", "general/torchcodec_nasa_13013.mp4")
    )
    for one, other in zip(hdr, plain, strict=True):
        assert abs(one.mean() - other.mean()) < 3
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.9


@pytest.mark.skipif(not VIDEOS.is_dir(), reason="the shared videos are not there")
def test_full_range_is_neither_black_nor_grey():
    frames = read_frames(VIDEOS / "general/torchcodec_bt709_full_range.mp4", [0.0, 0.5])
    assert frames.std() > 20 and frames.max() > 200


def test_a_see_through_video_shows_its_colours(tmp_path):
    path = make_clip(tmp_path / "alpha.mov", "png", 3, pix_fmt="rgba")
    assert np.array_equal(read_frames(path, [0.0, 0.2]), np.stack(pictures(3))[[0, 2]])


@pytest.mark.parametrize("suffix", ["webm", "mkv"])
def test_a_file_without_a_duration(tmp_path, suffix):
    """What a browser records, or a stream that was saved: nobody wrote its length at the end."""
    path = make_clip(tmp_path / f"a.{suffix}", "libvpx", 25, options=VP9, container={"live": "1"})
    with av.open(str(path)) as file:
        assert file.duration is None
    assert probe(path).duration == pytest.approx(2.5, abs=0.02)
    slow = slow_frames(path)
    assert np.array_equal(read_frames(path, [0.25, 2.45]), slow_read(slow, [0.25, 2.45]))


def restamped(source: Path, target: Path, stamps: list[int]) -> Path:
    """Copy the packets of `source`, in their order, with other stamps in tenths of a second."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for i, packet in enumerate(p for p in old.demux(video=0) if p.size):
            copy = av.Packet(bytes(packet))
            copy.pts, copy.dts, copy.time_base = stamps[i], i - 9, Fraction(1, 10)
            copy.is_keyframe, copy.stream = packet.is_keyframe, stream
            new.mux(copy)
    return target


def test_stamps_out_of_order_are_shown_in_the_order_of_time(tmp_path):
    stamps = [0, 2, 1, 5, 3, 4, 9, 6, 8, 7]
    source = make_clip(tmp_path / "a.mkv", "mjpeg", 10, pix_fmt="yuvj420p")
    path = restamped(source, tmp_path / "b.mkv", stamps)
    images = [image for _, image in slow_frames(source)]
    with open_video(path) as video:
        got = video.read([0.1 * n + 0.05 for n in range(10)])
    assert np.array_equal(got, np.stack([images[stamps.index(n)] for n in range(10)]))


def test_a_clock_that_starts_again_goes_on(tmp_path):
    """Two recordings in one file: each is as long as it is alone."""
    source = make_clip(tmp_path / "a.mkv", "mjpeg", 10, pix_fmt="yuvj420p")
    path = restamped(source, tmp_path / "b.mkv", [0, 1, 2, 3, 4, 3, 4, 5, 6, 7])
    images = [image for _, image in slow_frames(source)]
    with open_video(path) as video:
        assert video.times == pytest.approx([n / 10 for n in range(10)])
        got = video.read([0.05, 0.15, 0.55, 0.95])
    assert np.array_equal(got, np.stack([images[n] for n in (0, 1, 5, 9)]))


@pytest.mark.parametrize("shift", [-3, 7, 1_000_000])
@pytest.mark.parametrize("suffix", ["mkv", "ts", "avi", "mp4"])
def test_a_clip_starts_at_zero_wherever_its_clock_does(tmp_path, suffix, shift):
    codec = {"avi": "mpeg4"}.get(suffix, "libx264")
    if suffix == "avi" and shift != 7:
        pytest.skip("AVI counts its frames from zero")
    path = make_clip(tmp_path / f"a.{suffix}", codec, 12, pts=range(shift, shift + 12))
    slow = slow_frames(path)
    with open_video(path) as video:
        assert video.times[0] == 0
        got = video.read(video.times[:3])
    assert np.array_equal(got, np.stack([image for _, image in slow[:3]]))


def with_sound(path: Path) -> Path:
    """Write a video with a sound track that is as long."""
    with av.open(str(path), "w") as file:
        picture = file.add_stream("libx264", rate=10, options=x264(12, 2))
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        sound = file.add_stream("aac", rate=16000, layout="mono")
        for i, image in enumerate(pictures(20)):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 10)
            file.mux(picture.encode(frame))
        rng = np.random.default_rng(0)
        for i in range(30):
            noise = rng.uniform(-1, 1, (1, 1024)).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(noise, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, 1024 * i
            file.mux(sound.encode(frame))
        file.mux([*picture.encode(), *sound.encode()])
    return path


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "avi"])
def test_a_broken_sound_track_is_no_concern(tmp_path, suffix):
    path = with_sound(tmp_path / f"a.{suffix}")
    whole = read_frames(path, [0.05, 1.0, 1.95])
    with av.open(str(path)) as file:
        spots = [(p.pos, p.size) for p in file.demux(audio=0) if p.size and p.pos]
    data = bytearray(path.read_bytes())
    for position, size in spots[2:]:
        if suffix != "ts":  # its packets are cut into pieces that lie apart
            data[position + 8 : position + size] = b"\xff" * (size - 8)
    if suffix == "ts":
        for start in range(0, len(data), 188):
            if int.from_bytes(data[start + 1 : start + 3], "big") & 0x1FFF == 0x101:
                data[start + 20 : start + 188] = b"\xff" * 168
    path.write_bytes(data)
    assert np.array_equal(read_frames(path, [0.05, 1.0, 1.95]), whole)


def test_a_sound_track_of_an_unknown_kind_is_no_concern(tmp_path):
    path = with_sound(tmp_path / "a.mp4")
    whole = read_frames(path, [1.0])
    data = path.read_bytes()
    assert data.count(b"mp4a") == 1
    path.write_bytes(data.replace(b"mp4a", b"zzzz"))
    assert np.array_equal(read_frames(path, [1.0]), whole)


def no_frames(path: Path) -> None:
    path.write_bytes(movie([]))


def no_packets(path: Path) -> None:
    source = make_clip(path.with_suffix(".mkv"), count=3)
    rewrap(source, path, lambda i, data: None)


def only_a_cover(path: Path) -> None:
    with av.open(str(path), "w") as file:
        sound = file.add_stream("aac", rate=16000, layout="mono")
        cover = file.add_stream("png", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        image = av.VideoFrame.from_ndarray(pictures(1)[0], format="rgb24")
        image.pts, image.time_base = 0, Fraction(1, 1)
        for i in range(4):
            frame = av.AudioFrame.from_ndarray(
                np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
            )
            frame.sample_rate, frame.pts = 16000, 1024 * i
            file.mux(sound.encode(frame))
        file.mux([*cover.encode(image), *cover.encode(), *sound.encode()])


def unknown_codec(path: Path) -> None:
    path.write_bytes(movie([png(64, 48)], codec=b"zzzz"))


def unreadable_file(path: Path) -> None:
    make_clip(path, count=3)
    path.chmod(0)


REFUSED: dict[str, Callable[[Path], None]] = {
    "no frames": no_frames,
    "no packets": no_packets,
    "only a cover": only_a_cover,
    "unknown codec": unknown_codec,
    "unreadable": unreadable_file,
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_shows_nothing_is_refused_and_named(tmp_path, kind):
    if kind == "unreadable" and os.geteuid() == 0:
        pytest.skip("root may read everything")
    path = tmp_path / "a.mp4"
    REFUSED[kind](path)
    with pytest.raises(VideoError) as error:
        read_frames(path, [0.0])
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    ledger = Ledger()
    clips = [Clip("a", path), Clip("b", make_clip(tmp_path / "b.mp4", count=5))]
    store = build_frames(clips, FrameSpec(2, (8, 8)), tmp_path / "cache", ledger=ledger)
    assert list(store) == ["b"] and [e.id for e in ledger.entries] == ["a"]
