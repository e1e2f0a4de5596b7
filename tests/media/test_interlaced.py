"""A frame of two fields in two packets is one frame, wherever it is read."""

from __future__ import annotations

import random

import numpy as np
import pytest
from fields import make_fields
from hypothesis import given, settings
from hypothesis import strategies as st
from make_clips import make_clip, slow_frames, x264

from tvr_bench.media.h264 import Fields, units
from tvr_bench.media.video import open_video


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("suffix", ["ts", "mp4", "mkv", "flv"])
def test_two_fields_make_one_frame(tmp_path, suffix, together):
    path = make_fields(tmp_path / f"a.{suffix}", 20, together)
    slow = slow_frames(path)
    assert 19 <= len(slow) <= 20  # the edit list of an MP4 may end with the last field
    with open_video(path) as video:
        assert video.times == pytest.approx([float(t) for t, _ in slow])
        assert video.duration == pytest.approx(len(slow) / 25, abs=1e-6)
        for n in random.Random(1).sample(range(len(slow)), len(slow)):
            assert np.array_equal(video.read([video.times[n]])[0], slow[n][1]), n


def test_a_frame_of_both_kinds_of_lines_is_not_split(tmp_path):
    path = make_clip(tmp_path / "a.ts", count=20, options=x264(12, 2, interlaced=1))
    slow = slow_frames(path)
    with open_video(path) as video:
        got = video.read(video.times)
    assert np.array_equal(got, np.stack([image for _, image in slow]))


@settings(max_examples=60, deadline=None)
@given(header=st.binary(max_size=60), packet=st.binary(max_size=60), length=st.booleans())
def test_any_bits_are_read(header, packet, length):
    start = b"\1\x4d\0\x1e\xff\xe1" if length else b"\0\0\1"
    fields = Fields(start + header, start + packet)
    assert fields.completes(packet) in (True, False)
    assert all(units(packet, 4)) and all(units(packet, 0))
