"""What is read of a file beside FFmpeg: boxes of MP4, the index of AVI, the bits of MPEG-4.

These readers see every file of a stranger first: whatever they meet they answer, in bounded time.
"""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from bombs import box, full, movie
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from make_clips import make_clip, pictures, rewrap, x264

from tvr_bench.media import boxes
from tvr_bench.media.boxes import why_unsafe
from tvr_bench.media.mpeg4 import is_coded, time_bits
from tvr_bench.media.riff import indexed_pictures
from tvr_bench.media.video import VideoError, open_video, read_frames

MANY = 30_000_000
any_bytes = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def track(handler: bytes, samples: int, ticks: int, runs: int = 1) -> bytes:
    """Return the header of one track of equal samples that last `ticks` each."""
    head = full(b"hdlr", struct.pack(">I4s12x", 0, handler), b"\0")
    table = box(
        b"stbl",
        full(b"stsz", struct.pack(">II", 1, samples)),  # before what it needs to be judged by
        full(b"stts", struct.pack(">III", runs, samples, ticks)),
    )
    return box(b"trak", box(b"mdia", head, box(b"minf", table)))


HEADERS = {
    "nothing": (b"", None),
    "seven bytes": (b"\0\0\0\x08moo", None),
    "an empty moov": (box(b"moov"), None),
    "a box of no size": (b"\0\0\0\0moov" + track(b"vide", MANY, 1), "30,000,000"),
    "a box smaller than its head": (b"\0\0\0\x03moov" + track(b"vide", MANY, 1), None),
    "a box past the end": (b"\xff\xff\xff\xffmoov" + track(b"vide", MANY, 1), "30,000,000"),
    "a long box": (
        struct.pack(">I4sQ", 1, b"moov", 1 << 60) + track(b"vide", MANY, 1),
        "30,000,000",
    ),
    "a long box cut short": (b"\0\0\0\x01moov\0\0", None),
    "another box first": (box(b"abcd", bytes(99)) + box(b"moov", track(b"vide", MANY, 1)), "30"),
    "pictures": (box(b"moov", track(b"vide", MANY, 1)), "30,000,000"),
    "sound by the sample": (box(b"moov", track(b"soun", MANY, 1)), None),
    "packed sound": (box(b"moov", track(b"soun", MANY, 1024)), "30,000,000"),
    "sound of several clocks": (box(b"moov", track(b"soun", MANY, 1, runs=2)), "30,000,000"),
    "many tracks": (box(b"moov", *[track(b"vide", 500_000, 1)] * 9), "4,500,000"),
    "a day of pictures": (box(b"moov", track(b"vide", 3_900_000, 1)), None),
    "a short table": (box(b"moov", box(b"trak", box(b"stsz", b"\0" * 6))), None),
    "a packed header": (box(b"moov", box(b"cmov")), "packed"),
    "fragments": (box(b"moof", box(b"traf", full(b"trun", struct.pack(">I", MANY)))) * 2, "60,"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_boxes_are_judged_by_what_they_unfold_to(tmp_path, name):
    data, cause = HEADERS[name]
    (tmp_path / "a.mp4").write_bytes(data)
    found = why_unsafe(tmp_path / "a.mp4")
    assert found is None if cause is None else cause in str(found)


def test_endless_boxes_end(tmp_path, monkeypatch):
    monkeypatch.setattr(boxes, "_MAX_BOXES", 1000)
    (tmp_path / "a.mp4").write_bytes(box(b"free") * 5000)
    assert "more than 1,000 boxes" in str(why_unsafe(tmp_path / "a.mp4"))


@any_bytes
@given(data=st.data())
def test_boxes_of_any_bytes_are_walked(tmp_path, data):
    whole = bytearray(movie([b"abc"] * 3))
    for _ in range(data.draw(st.integers(0, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "a.mp4").write_bytes(
        bytes(whole) if data.draw(st.booleans()) else bytes(whole)[::2]
    )
    said = why_unsafe(tmp_path / "a.mp4")
    assert said is None or said.startswith(("it has more than", "its header "))


def test_a_long_recording_of_plain_sound_is_read(tmp_path):
    """A MOV with an hour of uncompressed sound has 170 million samples, and nothing wrong."""
    path = make_clip(tmp_path / "a.mov", count=5, options=x264(12, 0))
    data = path.read_bytes()
    at = data.index(b"moov")
    size = int.from_bytes(data[at - 4 : at], "big")
    extra = track(b"soun", 170_000_000, 1)
    new = data[: at - 4] + struct.pack(">I", size + len(extra)) + data[at : at - 4 + size] + extra
    path.write_bytes(new + data[at - 4 + size :])
    assert why_unsafe(path) is None


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("size", [(64, 48), (160, 120)], ids=str)
@pytest.mark.parametrize("rate", [Fraction(10), Fraction(25), Fraction(30000, 1001)], ids=str)
@pytest.mark.parametrize("suffix", ["avi", "mp4"])
def test_a_picture_that_stands_still_is_a_picture(tmp_path, suffix, rate, size, threads):
    """An encoder says "all as before" in a few bytes; that is a frame, unlike "not coded"."""
    path = tmp_path / f"a.{suffix}"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.gop_size, stream.codec_context.thread_count = 12, threads
        for i in range(30):
            frame = av.VideoFrame.from_ndarray(pictures(1, size)[0], format="rgb24")
            frame.pts, frame.time_base = i, 1 / rate
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    with av.open(str(path)) as file:
        context = file.streams.video[0].codec_context
        packets = [bytes(p) for p in file.demux(video=0) if p.size]
        bits = time_bits((context.extradata or b"") + packets[0])
    assert bits == max(1, (rate.numerator - 1).bit_length())
    assert threads == 2 or any(len(p) <= 19 for p in packets)
    assert all(is_coded(p, bits) for p in packets)
    with open_video(path) as video:
        assert len(video.times) == 30


def test_bits_that_say_not_coded_are_found():
    not_coded = bytes([0, 0, 1, 0xB6, 0b01010011, 0b10011111])
    assert not is_coded(not_coded, 4)
    assert is_coded(not_coded[:5] + b"\xdf", 4)
    assert not is_coded(b"", 4) and not is_coded(b"\0\0\1\xb6", 4)
    assert time_bits(b"") is None and time_bits(b"\0\0\1\xb6abc") is None


@any_bytes
@given(data=st.binary(max_size=80), bits=st.integers(1, 16))
def test_any_bits_are_read(data, bits):
    is_coded(b"\0\0\1\xb6" + data, bits)
    found = time_bits(b"\0\0\1\x20" + data)
    assert found is not None and 1 <= found <= 16


@pytest.fixture
def film(tmp_path) -> Path:
    return make_clip(tmp_path / "film.avi", "mpeg4", 40)


def test_the_index_of_an_avi_counts_its_pictures(film):
    assert indexed_pictures(film, 0, 40) == 40
    assert indexed_pictures(film, 1, 40) == 0


@pytest.mark.parametrize("damage", ["cut", "none", "odd size", "long"])
def test_an_index_that_is_not_whole_says_nothing(film, damage):
    data = film.read_bytes()
    at = data.rindex(b"idx1")
    if damage == "cut":
        data = data[:-16]
    elif damage == "none":
        data = data.replace(b"idx1", b"JUNK")
    else:
        size = 16 * 40 + (3 if damage == "odd size" else 1600)
        data = data[: at + 4] + struct.pack("<I", size) + data[at + 8 :]
    film.write_bytes(data)
    assert indexed_pictures(film, 0, 40) is None
    with open_video(film) as video:
        assert len(video.times) == 40


def test_pictures_lost_in_the_middle_of_an_avi_are_missed(film):
    """It has no time stamps: all that came later would be shown too early."""
    data = film.read_bytes()
    middle = [i for i in range(len(data)) if data.startswith(b"00dc", i)][20]
    film.write_bytes(data[: middle + 4] + data[middle + 9 :])
    with pytest.raises(VideoError, match="missing in the middle"):
        read_frames(film, [0.0])


def test_a_header_that_counts_too_many_is_no_loss(film):
    data = film.read_bytes()
    at = data.index(b"strh") + 8 + 32
    assert int.from_bytes(data[at : at + 4], "little") == 40
    film.write_bytes(data[:at] + struct.pack("<I", 43) + data[at + 4 :])
    with open_video(film) as video:
        assert len(video.times) == 40


def test_pictures_that_repeat_the_last_are_no_loss(tmp_path, film):
    held = rewrap(film, tmp_path / "held.avi", lambda i, data: None if i in (5, 6) else data)
    with open_video(held) as video:
        got = video.read([0.45, 0.65, 0.75])
    assert np.array_equal(got[0], got[1]) and not np.array_equal(got[1], got[2])


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_cut_matroska_ends_where_every_frame_is_certain(tmp_path, share):
    """B-frames come after what they are made from: the last ones of a cut file may be missing."""
    path = make_clip(tmp_path / "a.mkv", options=x264(12, 3, **{"b-pyramid": "normal"}))
    with open_video(path) as video:
        whole = video.read(video.times)
    data = path.read_bytes()
    path.write_bytes(data[: round(len(data) * share)])
    with open_video(path) as video:
        got = video.read(video.times)
        assert video.times == pytest.approx([i / 10 for i in range(len(got))])
    assert 1 <= len(got) < len(whole) and np.array_equal(got, whole[: len(got)])
