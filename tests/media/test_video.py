"""Every frame read by time equals the one a plain decode of the whole file shows then."""

from __future__ import annotations

import os
import random
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from make_clips import make_clip, make_sound, pictures, rewrap, slow_frames, slow_read, x264
from PIL import Image

from tvr_bench.errors import UserError
from tvr_bench.media import marks
from tvr_bench.media.decode import Decoder
from tvr_bench.media.video import VideoError, open_video, probe, read_frames, segment_centres

VP9 = {"deadline": "realtime", "cpu-used": "8"}
X265 = {"preset": "ultrafast", "x265-params": "keyint=12:bframes=3:log-level=none:open-gop=1"}
NVOP = bytes([0, 0, 1, 0xB6, 0b01010011, 0b10011111])  # MPEG-4's "not coded" picture
# name -> how it is made; 120 frames unless it says otherwise
KINDS: dict[str, dict] = {
    "gop12.mp4": {
        "options": x264(12, 3, **{"b-pyramid": "normal"}),
        "container": {"movflags": "faststart"},
    },
    "gop60.mp4": {"options": x264(60, 2)},
    "gop250.mp4": {"options": x264(250, 3), "count": 260},
    "open_gop.mkv": {"options": x264(12, 3, **{"open-gop": 1, "b-pyramid": "none"})},
    "pyramid_open_gop.ts": {"options": x264(12, 5, **{"open-gop": 1, "b-pyramid": "normal"})},
    "no_b.mp4": {"options": x264(12, 0)},
    "h264.avi": {"options": x264(12, 2)},
    "asp.mp4": {"codec": "mpeg4", "bframes": 2},
    "asp.avi": {"codec": "mpeg4", "bframes": 2},
    "sp.avi": {"codec": "mpeg4"},
    "vp9.webm": {"codec": "libvpx-vp9", "options": VP9},
    "vp8.webm": {"codec": "libvpx", "options": VP9, "count": 30},
    "hevc.mp4": {"codec": "libx265", "options": X265},
    "av1.mp4": {"codec": "libsvtav1", "options": {"preset": "11"}, "count": 30},
    "mpeg2.mpg": {"codec": "mpeg2video", "bframes": 2, "fps": 25},
    "ten_bit.mp4": {"options": x264(12, 2), "pix_fmt": "yuv420p10le", "count": 30},
    "odd.mp4": {"codec": "libvpx-vp9", "options": VP9, "size": (65, 49), "count": 30},
    "movie.gif": {"codec": "gif", "pix_fmt": "rgb8", "count": 30},
}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("clips"), {}

    def get(name: str):
        if name not in made:
            path = make_clip(folder / name, **({"count": 120} | KINDS[name]))
            made[name] = path, slow_frames(path)
        return made[name]

    return get


@pytest.mark.parametrize("name", KINDS)
def test_every_frame_of_every_kind(clips, name):
    path, slow = clips(name)
    with open_video(path) as video:
        assert video.times == pytest.approx([float(t) for t, _ in slow])
        got = video.read(video.times)
    assert np.array_equal(got, np.stack([image for _, image in slow]))
    info = probe(path)
    assert (info.frames, info.height, info.width) == (len(slow), *slow[0][1].shape[:2])
    assert info.duration == pytest.approx(len(slow) / info.fps)


@settings(max_examples=25, deadline=None)
@given(data=st.data(), name=st.sampled_from(sorted(KINDS)))
def test_any_times_in_any_order(clips, data, name):
    path, slow = clips(name)
    # away from the instant of a change, where seconds and ticks may round differently
    steps = st.integers(0, len(slow) * 4 - 1).map(lambda n: n // 4 + (0.01, 0.3, 0.6, 0.9)[n % 4])
    step = float(slow[1][0])
    times = [n * step for n in data.draw(st.lists(steps, min_size=1, max_size=8))]
    assert np.array_equal(read_frames(path, times), slow_read(slow, times))


def test_the_exact_instant_shows_the_new_frame(clips):
    path, slow = clips("gop12.mp4")
    times = [float(t) for t, _ in slow]
    assert np.array_equal(read_frames(path, times), np.stack([image for _, image in slow]))
    just_before = [t - 0.001 for t in times[1:]]
    assert np.array_equal(read_frames(path, just_before), np.stack([i for _, i in slow[:-1]]))


def test_jumps_only_where_a_key_frame_lies_between(clips):
    path, _ = clips("gop12.mp4")
    with open_video(path) as video:
        runs = Decoder(video._index, None)._runs([1, 5, 30, 100, 101])
    assert [r.start.position for r in runs] == [0, 24, 96]
    assert [sorted(r.wanted.values()) for r in runs] == [[1, 5], [30], [100, 101]]


def test_a_stream_too_large_to_hold_is_read_twice(clips, monkeypatch):
    path, slow = clips("gop12.mp4")
    monkeypatch.setattr(marks, "_KEEP_BYTES", 1000)
    times = [0.25, 7.1, 3.3]
    assert np.array_equal(read_frames(path, times), slow_read(slow, times))


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_variable_frame_rate(tmp_path, suffix):
    pts = [0, 40, 50, 60, 500, 510, 900, 1500, 1510, 2000]
    path = make_clip(
        tmp_path / f"v.{suffix}", count=10, pts=pts, time_base=Fraction(1, 1000), options=x264(5, 2)
    )
    with open_video(path) as video:
        assert video.times == pytest.approx([t / 1000 for t in pts], abs=1e-3)
    times = [0.03, 0.45, 0.6, 1.4, 1.505, 1.9]
    assert np.array_equal(read_frames(path, times), slow_read(slow_frames(path), times))


@pytest.mark.parametrize("suffix", ["mkv", "ts", "mp4"])
def test_time_counts_from_the_first_frame(tmp_path, suffix):
    late = make_clip(tmp_path / f"late.{suffix}", count=20, pts=range(50, 70), options=x264(5, 2))
    slow = slow_frames(late)
    assert np.array_equal(read_frames(late, [0.0, 0.55, 1.95]), slow_read(slow, [0.0, 0.55, 1.95]))
    assert probe(late).duration == pytest.approx(2.0, abs=0.01)


def test_frames_cut_away_by_an_edit_list_are_not_shown(tmp_path):
    """An MP4 whose clock starts below zero hides the frames before zero."""
    path = make_clip(tmp_path / "edit.mp4", count=30, pts=range(-7, 23), options=x264(10, 2))
    slow = slow_frames(path)
    assert probe(path).frames == len(slow)
    times = [0.05, 0.75, 1.5]
    assert np.array_equal(read_frames(path, times), slow_read(slow, times))


def test_hidden_vp8_frames_are_not_shown(tmp_path):
    """Clearing the show bit makes an alternative reference frame: time stamp but no picture."""
    source = make_clip(tmp_path / "a.mkv", "libvpx", 20, options=VP9)
    hidden = {4, 9}
    path = rewrap(
        source,
        tmp_path / "b.mkv",
        lambda i, data: bytes([data[0] & ~16]) + data[1:] if i in hidden else data,
    )
    slow = slow_frames(path)
    assert len(slow) == 18 == probe(path).frames
    times = [0.35, 0.45, 0.55, 0.95, 1.2]
    assert np.array_equal(read_frames(path, times), slow_read(slow, times))


def test_mpeg4_packets_without_a_picture_repeat_the_last(tmp_path):
    source = make_clip(tmp_path / "a.avi", "mpeg4", 20)
    path = rewrap(source, tmp_path / "b.avi", lambda i, data: NVOP if i in (5, 6) else data)
    slow = slow_frames(path)
    assert len(slow) == 18
    times = [0.45, 0.55, 0.65, 0.75]
    assert np.array_equal(read_frames(path, times), slow_read(slow, times))


def test_packed_avi_frames_come_in_the_order_they_are_shown(tmp_path):
    """DivX packs a B-frame behind its reference, then sends an empty packet in its place."""
    options = {"sc_threshold": "1000000000", "b_strategy": "0"}
    source = make_clip(tmp_path / "a.avi", "mpeg4", 21, options=options, gop=100, bframes=1)
    vop = b"\0\0\1\xb6"
    with av.open(str(source)) as file:
        data = [bytes(p) for p in file.demux(video=0) if p.size]
    is_b = [d[d.index(vop) + 4] >> 6 == 2 for d in data]

    def pack(i: int, packet: bytes) -> bytes:
        if i == 0:
            return packet.replace(vop, b"\0\0\1\xb2DivX503b1393p" + vop)
        if is_b[i]:
            return NVOP
        return packet + data[i + 1] if i + 1 < len(data) and is_b[i + 1] else packet

    assert sum(is_b) == 10
    packed = rewrap(source, tmp_path / "b.avi", pack)
    with open_video(packed) as video:
        got = video.read(video.times)
    assert np.array_equal(got, np.stack([image for _, image in slow_frames(source)]))


def test_a_stream_cut_before_an_open_gop_starts_at_its_first_key_frame(tmp_path):
    options = x264(12, 3, **{"open-gop": 1, "b-pyramid": "none"})
    source = make_clip(tmp_path / "a.mkv", options=options, count=60)
    # the key frame at 1.2 s is packet 9, and the frames at 0.9, 1.0 and 1.1 s come after it
    path = rewrap(source, tmp_path / "b.mkv", lambda i, data: None if i < 9 else data)
    with open_video(path) as video:
        got = video.read(video.times)
    assert np.array_equal(got, np.stack([image for _, image in slow_frames(source)[12:]]))


@pytest.mark.parametrize(
    ("matrix", "turn"),
    [
        ((1, 0, 0, 1), lambda a: a),
        ((0, 1, -1, 0), lambda a: np.rot90(a, -1)),
        ((-1, 0, 0, -1), lambda a: np.rot90(a, 2)),
        ((0, -1, 1, 0), lambda a: np.rot90(a)),
        ((-1, 0, 0, 1), lambda a: a[:, ::-1]),
        ((0, 1, 1, 0), lambda a: a.transpose(1, 0, 2)),
    ],
)
@pytest.mark.parametrize("size", [None, (40, 30)])
def test_the_display_matrix_is_applied(tmp_path, matrix, turn, size):
    path = make_clip(tmp_path / "a.mp4", count=5)
    stored = slow_frames(path, None if size is None else turn(np.zeros((*size, 1))).shape[:2])
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # version 0: the matrix is 40 bytes in
    a, b, c, d = (round(v * 65536).to_bytes(4, "big", signed=True) for v in matrix)
    zero = bytes(4)
    data[at : at + 36] = a + b + zero + c + d + zero + zero + zero + (1 << 30).to_bytes(4, "big")
    path.write_bytes(data)
    got = read_frames(path, [0.25], size)[0]
    assert np.array_equal(got, turn(stored[2][1]))
    info = probe(path)
    assert (info.height, info.width) == turn(
        stored[2][1] if size is None else pictures(1)[0]
    ).shape[:2]
    expected = {(0, 1, -1, 0): 90, (-1, 0, 0, -1): 180, (0, -1, 1, 0): 270}.get(matrix)
    assert expected in (None, info.rotation)


def test_one_frame_is_shown_from_start_to_end(tmp_path):
    path = make_clip(tmp_path / "one.mp4", count=1)
    info = probe(path)
    assert (info.frames, info.duration) == (1, pytest.approx(0.1))
    got = read_frames(path, segment_centres(info.duration, 4))
    assert got.shape == (4, 48, 64, 3)
    assert (got == slow_frames(path)[0][1]).all()


def test_exact_resize_is_bicubic_over_the_native_frame(clips):
    path, slow = clips("gop60.mp4")
    got = read_frames(path, [1.05], (20, 30), "exact")[0]
    native = Image.fromarray(slow_read(slow, [1.05])[0])
    assert np.array_equal(got, np.asarray(native.resize((30, 20), Image.Resampling.BICUBIC)))


def test_fast_resize_is_close_to_exact(clips):
    path, _ = clips("gop60.mp4")
    fast, exact = (
        read_frames(path, [2.05], (24, 32), how).astype(int) for how in ("fast", "exact")
    )
    assert fast.shape == exact.shape == (1, 24, 32, 3)
    assert np.abs(fast - exact).mean() < 6


def test_no_times_give_no_frames(clips):
    assert read_frames(clips("gop60.mp4")[0], [], (8, 9)).shape == (0, 8, 9, 3)


@pytest.mark.parametrize("time", [-0.1, 12.1, float("nan"), float("inf")])
def test_a_time_outside_the_video_is_an_error(clips, time):
    with pytest.raises(VideoError, match="no frame is shown at"):
        read_frames(clips("gop60.mp4")[0], [time])


@pytest.mark.parametrize(("size", "resize"), [((0, 4), "fast"), ((4, 4), "smooth")])
def test_a_senseless_request_is_an_error(clips, size, resize):
    with pytest.raises(UserError):
        read_frames(clips("gop60.mp4")[0], [0.0], size, resize)


UNREADABLE = {
    "missing": lambda p: None,
    "folder": lambda p: p.mkdir(),
    "pipe": os.mkfifo,
    "empty": lambda p: p.write_bytes(b""),
    "text": lambda p: p.write_text("<html>404 not found</html>\n" * 200),
    "noise": lambda p: p.write_bytes(random.Random(3).randbytes(50_000)),
    "sound": lambda p: make_sound(p.with_suffix(".mp4")),
    "playlist": lambda p: p.write_text("#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"),
    "script": lambda p: p.write_text("ffconcat version 1.0\nfile /etc/passwd\n"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_is_no_video_is_one_line_that_names_it(tmp_path, kind):
    path = tmp_path / f"{kind}.mp4"
    UNREADABLE[kind](path)
    for read in (probe, lambda p: read_frames(p, [0.0])):
        with pytest.raises(VideoError) as error:
            read(path)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)


def test_a_name_that_is_not_there_gets_no_advice_about_its_content(tmp_path):
    (tmp_path / "link.mp4").symlink_to(tmp_path / "none.mp4")
    for name in ("nope.mp4", "no/nope.mp4", "link.mp4"):
        with pytest.raises(VideoError, match=r"^there is no file .*; give the path of a video$"):
            read_frames(tmp_path / name, [0.0], (8, 8))


def test_a_file_that_may_not_be_read_is_said_to_be_that(tmp_path, monkeypatch):
    (tmp_path / "a.mp4").write_bytes(b"x")

    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")  # as root, every file may be read

    monkeypatch.setattr(av, "open", denied)
    with pytest.raises(VideoError, match="may not be read by this user; change its permissions"):
        read_frames(tmp_path / "a.mp4", [0.0], (8, 8))


def test_a_picture_bomb_is_refused_before_decoding(tmp_path):
    path = make_clip(tmp_path / "a.mp4", count=2)
    with pytest.raises(VideoError, match=r"video\.max_pixels=3071"):
        probe(path, 64 * 48 - 1)
    assert probe(path, 64 * 48).frames == 2


CUT = "gop12.mp4 open_gop.mkv sp.avi asp.avi h264.avi mpeg2.mpg pyramid_open_gop.ts movie.gif"


@pytest.mark.parametrize("name", CUT.split())
@pytest.mark.parametrize("share", [0.5, 0.63, 0.8])
def test_a_cut_file_ends_with_its_last_whole_frame(tmp_path, clips, name, share):
    whole, slow = clips(name)
    data = whole.read_bytes()
    cut = tmp_path / f"cut.{name}"
    cut.write_bytes(data[: round(len(data) * share)])
    with open_video(cut) as video:
        got = video.read(video.times)
        assert video.times == pytest.approx([float(t) for t, _ in slow[: len(got)]])
    assert 10 <= len(got) < len(slow)
    assert np.array_equal(got, np.stack([image for _, image in slow[: len(got)]]))


def test_damage_spoils_its_own_group_of_pictures_only(tmp_path, clips):
    source, slow = clips("gop12.mp4")
    with av.open(str(source)) as file:
        spots = [(p.pos, p.size) for p in file.demux(video=0) if p.size]
    position, size = spots[25]  # in the third group, which starts at packet 24
    data = bytearray(source.read_bytes())
    data[position + size // 2 : position + size] = bytes(size - size // 2)
    path = tmp_path / "damaged.mp4"
    path.write_bytes(data)
    good = [0.05, 2.15, 3.65, 11.95]
    assert np.array_equal(read_frames(path, good), slow_read(slow, good))
    with pytest.raises(VideoError, match=r"damaged\.mp4: "):
        read_frames(path, [3.35])


@pytest.mark.parametrize("name", ["gop12.mp4", "asp.avi", "hevc.mp4", "pyramid_open_gop.ts"])
def test_mutilated_files_never_raise_anything_else(tmp_path, clips, name):
    data = clips(name)[0].read_bytes()
    rng = random.Random(name)
    refused = 0
    for trial in range(30):
        broken = bytearray(data)
        at = rng.randrange(len(data))
        match trial % 5:
            case 0:
                broken[at] ^= 1 << rng.randrange(8)
            case 1:
                broken[at : at + 40] = bytes(40)
            case 2:
                del broken[at : at + 17]
            case 3:
                del broken[at:]
            case 4:
                broken[rng.randrange(400)] = rng.randrange(256)
        path = tmp_path / f"{trial}.{name}"
        path.write_bytes(broken)
        try:
            with open_video(path) as video:
                assert video.read(segment_centres(video.duration, 3), (8, 8)).shape[0] == 3
        except VideoError:
            refused += 1
    assert refused > 0


@given(
    duration=st.floats(0.01, 1e4),
    count=st.integers(1, 40),
    span=st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted),
)
def test_segment_centres_cut_the_span_into_equal_parts(duration, count, span):
    low, high = (s * duration for s in span)
    if not low < high:
        with pytest.raises(UserError):
            segment_centres(duration, count, low, high)
        return
    centres = segment_centres(duration, count, low, high)
    half = (high - low) / count / 2
    edges = [low, *(c + half for c in centres)]
    assert len(centres) == count
    assert edges[-1] == pytest.approx(high)
    assert np.diff(edges) == pytest.approx(2 * half, rel=1e-6, abs=1e-9)


def test_segment_centres_stay_inside_the_video():
    assert segment_centres(4.0, 2) == [1.0, 3.0]
    assert segment_centres(4.0, 2, 2.0, 9.0) == [2.5, 3.5]
    with pytest.raises(UserError, match="no part of a video"):
        segment_centres(4.0, 2, 4.0, 9.0)
