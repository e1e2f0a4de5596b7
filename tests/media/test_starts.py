"""A file that begins in the middle of a stream shows what a plain decode of it shows."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from make_clips import make_clip, rewrap, slow_frames, x264

from tvr_bench.media.video import VideoError, open_video, probe

X265 = "keyint=12:min-keyint=12:bframes=3:b-adapt=0:scenecut=0:log-level=none"
KINDS: dict[str, dict] = {
    "leading pictures that decode": {
        "codec": "libx265",
        "options": {"preset": "ultrafast", "x265-params": f"{X265}:radl=2:open-gop=0"},
    },
    "leading pictures that do not": {
        "codec": "libx265",
        "options": {"preset": "ultrafast", "x265-params": f"{X265}:open-gop=1"},
    },
    "an open group of H.264": {"options": x264(12, 3, **{"open-gop": 1, "b-pyramid": "none"})},
    "an open group of MPEG-2": {"codec": "mpeg2video", "bframes": 2},
    "a refresh": {"options": x264(20, 0, **{"intra-refresh": 1})},
    "one group": {"options": x264(12, 3)},
}


def without_start(source: Path, target: Path, count: int) -> Path:
    """Copy a video without its first `count` packets."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for i, packet in enumerate(p for p in old.demux(video=0) if p.size):
            if i < count:
                continue
            copy = av.Packet(bytes(packet))
            copy.pts, copy.dts, copy.time_base = packet.pts, i - 1000, packet.time_base
            copy.is_keyframe, copy.stream = packet.is_keyframe, stream
            new.mux(copy)
    return target


@pytest.fixture(scope="module")
def wholes(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("wholes")
    return {
        kind: make_clip(folder / f"{n}.mkv", **({"count": 60} | how))
        for n, (kind, how) in enumerate(KINDS.items())
    }


@pytest.mark.parametrize("count", [5, 9, 10, 12, 20, 24])
@pytest.mark.parametrize("kind", KINDS)
def test_what_a_plain_decode_shows(wholes, tmp_path, kind, count):
    path = without_start(wholes[kind], tmp_path / "cut.mkv", count)
    slow = slow_frames(path)
    assert len(slow) >= 18
    with open_video(path) as video:
        assert video.times == pytest.approx([float(t) for t, _ in slow])
        got = video.read(video.times)
        alone = [video.read([video.times[n]])[0] for n in (0, 1, 2, 3, 16)]
    assert np.array_equal(got, np.stack([image for _, image in slow]))
    assert np.array_equal(alone, got[[0, 1, 2, 3, 16]])


def test_pictures_that_a_decoder_shows_are_not_left_out(wholes, tmp_path):
    path = without_start(wholes["leading pictures that decode"], tmp_path / "cut.mkv", 10)
    with av.open(str(path)) as file:
        first, second = [p for p in file.demux(video=0) if p.size][:2]
        assert first.is_keyframe and second.pts < first.pts
    with open_video(path) as video:
        assert len(video.times) == 50


@pytest.mark.parametrize("codec", ["mpeg4", "msmpeg4"])
def test_pictures_made_from_nothing_are_named(tmp_path, codec):
    """These decoders invent what is missing, and show it."""
    whole = make_clip(tmp_path / "a.mkv", codec, 40)
    path = without_start(whole, tmp_path / "cut.mkv", 5)
    with pytest.raises(VideoError, match="starts between key frames, and 7 pictures"):
        probe(path)


@pytest.mark.parametrize("lost", [4, 8, 9, 13])
def test_a_lost_packet_leaves_every_frame_as_a_plain_decode_has_it(tmp_path, lost):
    """A decoder makes up what is missing, from pictures that may not be left out then."""
    whole = make_clip(tmp_path / "a.mkv", options=x264(12, 3))
    path = rewrap(whole, tmp_path / "b.mkv", lambda i, data: None if i == lost else data)
    slow = slow_frames(path)
    with open_video(path) as video:
        alone = [video.read([t])[0] for t in video.times]
    assert np.array_equal(alone, np.stack([image for _, image in slow]))
