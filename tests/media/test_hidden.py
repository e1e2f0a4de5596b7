"""Packets of VP9 whose picture is not shown, or that show one decoded before."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from make_clips import make_clip, slow_frames

from tvr_bench.media.video import open_video
from tvr_bench.media.vp9 import shown_pictures

REALTIME = {"deadline": "realtime", "cpu-used": "8"}
AGAIN = bytes([0b10001000])  # "show the picture kept in the first place"


def hidden(packet: bytes) -> bytes:
    """Return a key frame that is decoded and not shown."""
    assert packet[0] >> 2 & 3 == 0
    return bytes([packet[0] & ~2]) + packet[1:]


def packed(*pictures: bytes) -> bytes:
    """Return one packet of several pictures, with their sizes in an index of 2 bytes each."""
    mark = bytes([0b11001000 | len(pictures) - 1])
    sizes = b"".join(len(p).to_bytes(2, "little") for p in pictures)
    return b"".join(pictures) + mark + sizes + mark


@pytest.mark.parametrize("way", ["before its copy", "shown later", "packed"])
def test_a_hidden_picture_has_no_time(tmp_path, way):
    source = make_clip(tmp_path / "a.webm", "libvpx-vp9", 40, options=REALTIME)
    path = tmp_path / "b.mkv"
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for i, packet in enumerate(p for p in old.demux(video=0) if p.size):
            data = bytes(packet)
            parts = [data]
            if packet.is_keyframe and i:
                parts = {
                    "before its copy": [hidden(data), data],
                    "shown later": [hidden(data), AGAIN],
                    "packed": [packed(hidden(data), AGAIN)],
                }[way]
            for n, part in enumerate(parts):
                copy = av.Packet(part)
                copy.pts = copy.dts = packet.pts - 30 * (len(parts) - 1 - n)
                copy.time_base, copy.stream = Fraction(1, 1000), stream
                copy.is_keyframe = packet.is_keyframe and n == 0
                new.mux(copy)
    slow = slow_frames(path)
    assert len(slow) == 40
    with open_video(path) as video:
        assert video.times == pytest.approx([float(t) for t, _ in slow])
        got = video.read(video.times)
        alone = [video.read([video.times[n]])[0] for n in (39, 12, 13, 25)]
    assert np.array_equal(got, np.stack([image for _, image in slow]))
    assert np.array_equal(alone, got[[39, 12, 13, 25]])


def test_pictures_are_counted():
    shown, not_shown = bytes([0b10000010]) + b"ab", bytes([0b10000000]) + b"cde"
    assert shown_pictures(shown) == shown_pictures(AGAIN) == 1
    assert shown_pictures(not_shown) == 0
    assert shown_pictures(packed(not_shown, shown)) == 1
    assert shown_pictures(packed(shown, not_shown, AGAIN)) == 2
    assert shown_pictures(packed(not_shown, not_shown)) == 0
    assert shown_pictures(bytes([0b10110001])) == 1  # the fourth profile has a bit more


@settings(max_examples=60, deadline=None)
@given(packet=st.binary(min_size=1, max_size=60))
def test_any_bytes_are_read(packet):
    assert 0 <= shown_pictures(packet) <= 8
