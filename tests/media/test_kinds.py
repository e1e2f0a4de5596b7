"""What the folder lists as a video the reader reads, held to a plain decode."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from make_clips import make_clip, rewrap, slow_frames, slow_read, x264

from tvr_bench.datamodules.folder import VIDEO_SUFFIXES
from tvr_bench.media.video import open_video, read_frames

B_FRAMES = {"options": x264(12, 3)}
VP8 = {"codec": "libvpx", "options": {"deadline": "realtime", "cpu-used": "8"}}
PROGRAM = {"codec": "mpeg2video", "fps": 25, "bframes": 2}
# suffix -> the muxer, and how its pictures are coded in files that people have
KINDS: dict[str, list[tuple[str, dict]]] = {
    ".mp4": [("mp4", B_FRAMES)],
    ".m4v": [("mp4", B_FRAMES)],
    ".mov": [("mov", B_FRAMES)],
    ".qt": [("mov", {"codec": "mjpeg", "pix_fmt": "yuvj420p"})],
    ".3gp": [("3gp", {"codec": "h263", "size": (176, 144)})],
    ".3gpp": [("3gp", {"codec": "mpeg4"})],
    ".3g2": [("3g2", {"codec": "mpeg4"})],
    ".webm": [("webm", VP8)],
    ".mkv": [("matroska", B_FRAMES)],
    ".avi": [("avi", {"codec": "mpeg4"}), ("avi", {"codec": "msmpeg4"})],
    ".divx": [("avi", {"codec": "mpeg4", "bframes": 1})],
    ".mpg": [("mpeg", PROGRAM)],
    ".mpeg": [("mpeg", {"codec": "mpeg1video", "fps": 25})],
    ".vob": [("vob", PROGRAM)],
    ".ts": [("mpegts", B_FRAMES)],
    ".mts": [("mpegts", {"options": x264(12, 2, interlaced=1)})],
    ".m2ts": [("mpegts", B_FRAMES | {"container": {"mpegts_m2ts_mode": "1"}})],
    ".wmv": [("asf", {"codec": "wmv2"}), ("asf", {"codec": "wmv1"}), ("asf", B_FRAMES)],
    ".asf": [("asf", {"codec": "msmpeg4"}), ("asf", {"codec": "mpeg4", "bframes": 2})],
    ".flv": [
        ("flv", {"codec": "flv"}),
        ("flv", B_FRAMES),
        ("flv", {"codec": "flashsv", "pix_fmt": "bgr24"}),
    ],
    ".ogv": [("ogg", VP8)],
    ".gif": [("gif", {"codec": "gif", "pix_fmt": "rgb8"})],
}
CASES = [(suffix, n) for suffix, ways in KINDS.items() for n in range(len(ways))]


def test_every_kind_that_is_listed_is_tried():
    assert set(KINDS) == set(VIDEO_SUFFIXES)


@pytest.mark.parametrize(("suffix", "number"), CASES)
def test_a_listed_kind_is_read(tmp_path, suffix, number):
    muxer, how = KINDS[suffix][number]
    path = make_clip(tmp_path / f"a{suffix}", muxer=muxer, **({"count": 30} | how))
    slow = slow_frames(path)
    assert len(slow) == 30
    with open_video(path) as video:
        times = video.times
        stored = slow[0][1].shape[:2]  # whatever the shape of its pixels
        got = video.read(times, stored)
        alone = [video.read([times[n]], stored)[0] for n in (17, 3, 29, 0)]
    assert times == pytest.approx([float(t) for t, _ in slow], abs=2e-3)
    assert np.array_equal(got, np.stack([image for _, image in slow]))
    assert np.array_equal(alone, got[[17, 3, 29, 0]])


def exif(orientation: int | None) -> bytes:
    """Return the segment of a JPEG that says how the camera was held, or something else."""
    tag, value = (0x128, 2) if orientation is None else (0x112, orientation)
    entry = struct.pack(">HHIHH", tag, 3, 1, value, 0)
    tiff = b"MM" + struct.pack(">HIH", 42, 8, 1) + entry + bytes(4)
    data = b"Exif\0\0" + tiff
    return b"\xff\xe1" + struct.pack(">H", 2 + len(data)) + data


@pytest.mark.parametrize("suffix", ["mov", "mkv", "avi"])
@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: np.rot90(a, 2)),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.transpose(1, 0, 2)),
        (6, lambda a: np.rot90(a, -1)),
        (8, lambda a: np.rot90(a)),
    ],
)
def test_pictures_of_a_camera_that_says_how_it_was_held(tmp_path, suffix, orientation, turn):
    """What lies beside them includes kinds that the library has no name for."""
    plain = make_clip(tmp_path / f"plain.{suffix}", "mjpeg", 5, pix_fmt="yuvj420p")
    path = rewrap(plain, tmp_path / f"a.{suffix}", lambda i, d: d[:2] + exif(orientation) + d[2:])
    got = read_frames(path, [0.05, 0.35])
    expected = slow_read(slow_frames(plain), [0.05, 0.35])
    assert np.array_equal(got, np.stack([turn(image) for image in expected]))


def test_a_turned_container_of_pictures_with_unknown_company(tmp_path):
    """As a phone's: the container turns the picture, and every frame has something beside it."""
    plain = make_clip(tmp_path / "plain.mkv", "mjpeg", 5, pix_fmt="yuvj420p")
    path = rewrap(plain, tmp_path / "a.mov", lambda i, d: d[:2] + exif(None) + d[2:])
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    data[at : at + 20] = struct.pack(">5i", 0, 1 << 16, 0, -(1 << 16), 0)  # x to y, y to -x
    path.write_bytes(data)
    image = slow_frames(plain)[2][1]
    assert np.array_equal(read_frames(path, [0.25])[0], np.rot90(image, -1))
