"""Several threads read what one reads: each decodes groups of pictures that the others leave."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from make_clips import make_clip, x264

from tvr_bench.media import marks
from tvr_bench.media.decode import Decoder
from tvr_bench.media.video import VideoError, open_video, read_frames

KINDS = {
    "closed.mp4": {"options": x264(12, 3)},
    "open.mkv": {"options": x264(12, 3, **{"open-gop": 1, "b-pyramid": "none"})},
    "one_group.mp4": {"options": x264(250, 2)},
    "no_clock.avi": {"codec": "mpeg4", "bframes": 2},
    "hevc.mp4": {"codec": "libx265", "options": {"x265-params": "keyint=12:log-level=none"}},
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("threads", [2, 3])
def test_the_same_frames(tmp_path, name, threads):
    path = make_clip(tmp_path / name, count=60, **KINDS[name])
    with open_video(path) as one, open_video(path, threads) as more:
        times = [one.times[n] for n in (3, 50, 17, 18, 59, 0, 31)]
        assert np.array_equal(one.read(times, (24, 32)), more.read(times, (24, 32)))


def test_a_stream_too_large_to_hold(tmp_path, monkeypatch):
    path = make_clip(tmp_path / "a.mp4", count=60, options=x264(12, 3))
    times = [0.05, 3.35, 5.95]
    one = read_frames(path, times)
    monkeypatch.setattr(marks, "_KEEP_BYTES", 1000)
    assert np.array_equal(one, read_frames(path, times, threads=2))


@pytest.mark.parametrize("group", [0, 2, 4])
def test_damage_is_found_by_whichever_thread(tmp_path, group):
    path = make_clip(tmp_path / "a.mp4", count=60, options=x264(12, 3))
    damage(path, 12 * group + 1)
    with pytest.raises(VideoError, match=r"a\.mp4: "):
        read_frames(path, [1.15 + 1.2 * g for g in range(5)], threads=2)


def damage(path: Path, number: int) -> None:
    with av.open(str(path)) as file:
        spots = [p.pos for p in file.demux(video=0) if p.size]
    data = bytearray(path.read_bytes())
    data[spots[number] : spots[number] + 4] = b"\x7f" * 4  # the length of what follows
    path.write_bytes(data)


def test_the_work_is_shared_evenly(tmp_path):
    path = make_clip(tmp_path / "a.mp4", count=60, options=x264(12, 0))
    with open_video(path) as video:
        shares = Decoder(video._index, None).shares([11, 23, 35, 47, 59, 0], 2)
        assert sorted(map(sorted, shares)) == [[0, 11, 35, 59], [23, 47]]
        assert Decoder(video._index, None).shares([3, 4], 5) == [[3, 4]]
        assert Decoder(video._index, None).shares([], 2) == []
