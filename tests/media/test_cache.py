"""The frame cache: what it gives equals what the reader reads, whatever happened in between."""

from __future__ import annotations

import json
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from make_clips import make_clip

from tvr_bench.config import load
from tvr_bench.datamodules.types import Clip
from tvr_bench.errors import UserError
from tvr_bench.files import Ledger
from tvr_bench.media import cache
from tvr_bench.media.cache import FrameSpec, build_frames
from tvr_bench.media.frameshard import DamagedShard, open_shard
from tvr_bench.media.video import probe, read_frames, segment_centres
from tvr_bench.settings import frame_spec, window_spec

SPEC = FrameSpec(frames=3, size=(24, 32))


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for i in range(5):
        make_clip(folder / f"v{i}.mp4", count=10 + 5 * i)
    (folder / "bad.mp4").write_text("not a video")
    return folder


@pytest.fixture
def clips(videos) -> list[Clip]:
    return [Clip(f"c{i}", videos / f"v{i}.mp4") for i in range(5)]


@pytest.fixture
def reads(monkeypatch) -> list[str]:
    """The ids of the clips that were decoded, in order."""
    done: list[str] = []
    read = cache._read

    def count(clip: Clip, spec: FrameSpec) -> np.ndarray:
        done.append(clip.id)
        return read(clip, spec)

    monkeypatch.setattr(cache, "_read", count)
    return done


def expected(clip: Clip, spec: FrameSpec) -> np.ndarray:
    times = segment_centres(probe(clip.path).duration, spec.frames, clip.start, clip.end)
    return read_frames(clip.path, times, spec.size, spec.resize)


@pytest.mark.parametrize("resize", ["fast", "exact"])
def test_raw_frames_are_what_the_reader_reads(tmp_path, clips, resize):
    spec = FrameSpec(frames=4, size=(20, 30), resize=resize)
    clips[1] = Clip("c1", clips[1].path, start=0.4, end=1.0)
    store = build_frames(clips, spec, tmp_path, ledger=Ledger(), shard_size=2)
    assert sorted(store) == [c.id for c in clips]
    for clip in clips:
        frames, mask = store.get(clip.id)
        assert np.array_equal(frames, expected(clip, spec))
        assert mask.dtype == bool and mask.tolist() == [True] * 4
    assert store.nbytes == sum(f.stat().st_size for f in tmp_path.glob("frames-*"))


def test_a_crop_is_a_setting_of_its_own_and_a_time_limit_is_none(tmp_path, clips):
    whole, centre = FrameSpec(3, (40, 30)), FrameSpec(3, (40, 30), crop="centre")
    assert whole.settings == FrameSpec(3, (40, 30), timeout=5.0).settings != centre.settings
    store = build_frames(clips[:1], centre, tmp_path, ledger=Ledger())
    times = segment_centres(probe(clips[0].path).duration, 3)
    read = read_frames(clips[0].path, times, (40, 30), crop="centre")
    assert np.array_equal(store.get("c0")[0], read)
    assert not np.array_equal(read, read_frames(clips[0].path, times, (40, 30)))


def test_the_configuration_says_how_frames_are_cut_and_how_long_they_may_take():
    cfg = load(["video.crop=centre", "video.timeout=7", "video.resize=exact"])
    spec = frame_spec(cfg)
    assert (spec.crop, spec.timeout, spec.resize) == ("centre", 7.0, "exact")
    assert window_spec(cfg).timeout == 7.0
    for wrong in ("video.crop=left", "video.timeout=0"):
        with pytest.raises(UserError, match=wrong.split("=")[0]):
            load([wrong])


def test_jpeg_frames_are_close_and_small(tmp_path, clips):
    spec = FrameSpec(frames=3, size=(48, 64), codec="jpeg")
    store = build_frames(clips, spec, tmp_path, ledger=Ledger(), shard_size=2)
    for clip in clips:
        frames, _ = store.get(clip.id)
        assert frames.dtype == np.uint8
        assert np.abs(frames.astype(int) - expected(clip, spec)).mean() < 8
    assert store.nbytes < len(clips) * spec.clip_bytes / 2


def test_a_clip_of_one_frame_shows_it_every_time(tmp_path):
    clip = Clip("one", make_clip(tmp_path / "one.mp4", count=1))
    frames, mask = build_frames([clip], SPEC, tmp_path / "cache", ledger=Ledger()).get("one")
    assert mask.all() and (frames == frames[0]).all() and frames.any()


@pytest.mark.parametrize("codec", ["raw", "jpeg"])
def test_what_cannot_be_read_is_on_the_ledger_of_every_build(tmp_path, videos, clips, reads, codec):
    spec = FrameSpec(3, (8, 8), codec=codec)
    clips += [
        Clip("bad", videos / "bad.mp4"),
        Clip("gone", videos / "gone.mp4"),
        Clip("late", clips[0].path, start=50.0, end=60.0),
    ]
    for run in range(2):
        path = tmp_path / f"failures{run}.jsonl"
        store = build_frames(clips, spec, tmp_path / "cache", ledger=Ledger(path), shard_size=3)
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert {line["id"] for line in lines} == {"bad", "gone", "late"}
        assert {line["stage"] for line in lines} == {"frames"}
        assert len(store) == 5 and "bad" not in store and "gone" not in store
        bad = next(line for line in lines if line["id"] == "bad")
        assert bad["path"] == str(videos / "bad.mp4") and "bad.mp4: Invalid data" in bad["message"]
    assert len(reads) == len(clips)  # the second build decoded nothing


def test_a_missing_file_is_tried_again_when_it_is_there(tmp_path, clips):
    clip = Clip("x", tmp_path / "x.mp4")
    assert "x" not in build_frames([clip], SPEC, tmp_path / "cache", ledger=Ledger())
    shutil.copy(clips[0].path, clip.path)
    assert "x" in build_frames([clip], SPEC, tmp_path / "cache", ledger=Ledger())


@pytest.mark.parametrize("codec", ["raw", "jpeg"])
def test_nothing_readable_is_an_empty_store(tmp_path, videos, codec):
    spec = FrameSpec(2, (8, 8), codec=codec)
    bad = [Clip("bad", videos / "bad.mp4")]
    assert len(build_frames(bad, spec, tmp_path, ledger=Ledger())) == 0
    assert build_frames(bad, spec, tmp_path, ledger=Ledger()).verify() == []
    assert build_frames([], spec, tmp_path, ledger=Ledger()).nbytes == 0


def test_a_copied_tree_keeps_its_cache(tmp_path, clips, reads):
    build_frames(clips, SPEC, tmp_path / "cache", ledger=Ledger())
    reads.clear()
    moved = [Clip(c.id, tmp_path / c.path.name) for c in clips]
    for old, new in zip(clips, moved, strict=True):
        shutil.copyfile(old.path, new.path)  # another folder, another modification time
    store = build_frames(moved[::-1], SPEC, tmp_path / "cache", ledger=Ledger())
    assert reads == [] and len(store) == 5


def test_a_changed_file_or_setting_is_decoded_again(tmp_path, clips, reads):
    clips[4] = Clip("c4", tmp_path / "x.mp4")
    make_clip(clips[4].path, count=12)
    build_frames(clips, SPEC, tmp_path / "cache", ledger=Ledger(), shard_size=1)
    reads.clear()
    make_clip(clips[4].path, count=13)
    store = build_frames(clips, SPEC, tmp_path / "cache", ledger=Ledger(), shard_size=1)
    assert reads == ["c4"]
    assert np.array_equal(store.get("c4")[0], expected(clips[4], SPEC))
    reads.clear()
    build_frames(clips, FrameSpec(3, (24, 30)), tmp_path / "cache", ledger=Ledger())
    assert len(reads) == 5


@pytest.mark.parametrize("damage", ["cut", "empty", "pixel", "header", "longer"])
def test_a_damaged_shard_is_built_again(tmp_path, clips, reads, caplog, damage):
    build_frames(clips, SPEC, tmp_path, ledger=Ledger(), shard_size=2)
    reads.clear()
    victim = sorted(tmp_path.glob("frames-*"))[0]
    good = victim.read_bytes()
    data = bytearray(good)
    match damage:
        case "cut":
            del data[-100:]
        case "empty":
            data.clear()
        case "pixel":
            data[-1234] ^= 4
        case "header":
            at = data.index(b"sha256") - 40
            data[at] ^= 1
        case "longer":
            data += b"x"
    victim.write_bytes(data)
    store = build_frames(clips, SPEC, tmp_path, ledger=Ledger(), shard_size=2)
    assert victim.read_bytes() == good
    assert 1 <= len(reads) <= 2 and str(victim) in caplog.text
    assert store.verify() == []


@pytest.fixture(scope="module")
def shard_bytes(tmp_path_factory, videos) -> bytes:
    root = tmp_path_factory.mktemp("shard")
    clips = [Clip(f"c{i}", videos / f"v{i}.mp4") for i in range(2)]
    build_frames(clips, FrameSpec(2, (4, 5)), root, ledger=Ledger())
    return next(root.glob("frames-*")).read_bytes()


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_flipped_bit_is_found(tmp_path, shard_bytes, data):
    bit = data.draw(st.integers(0, 8 * len(shard_bytes) - 1))
    broken = bytearray(shard_bytes)
    broken[bit // 8] ^= 1 << bit % 8
    path = tmp_path / "frames-0.safetensors"
    path.write_bytes(broken)
    with pytest.raises(DamagedShard):
        open_shard(path).verify()


KILLED = """
import os, signal, sys
from pathlib import Path
from tvr_bench.datamodules.types import Clip
from tvr_bench.files import Ledger
from tvr_bench.media import cache
folder, root = map(Path, sys.argv[1:])
read = cache._read
def _read(clip, spec):
    if clip.id == "c3":
        os.kill(os.getpid(), signal.SIGKILL)
    return read(clip, spec)
cache._read = _read
clips = [Clip(f"c{i}", folder / f"v{i}.mp4") for i in range(5)]
cache.build_frames(clips, cache.FrameSpec(3, (24, 32)), root, ledger=Ledger(), shard_size=2)
"""


def test_a_killed_build_goes_on_where_it_stopped(tmp_path, videos, clips, reads):
    command = [sys.executable, "-c", KILLED, str(videos), str(tmp_path)]
    assert subprocess.run(command, capture_output=True).returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob("frames-*"))) == 1
    store = build_frames(clips, SPEC, tmp_path, ledger=Ledger(), shard_size=2)
    assert reads == ["c2", "c3", "c4"]
    for clip in clips:
        assert np.array_equal(store.get(clip.id)[0], expected(clip, SPEC))


def test_two_processes_write_the_same_bytes_as_one(tmp_path, videos, clips):
    clips.append(Clip("bad", videos / "bad.mp4"))
    made = []
    for workers in (0, 2):
        root, ledger = tmp_path / str(workers), Ledger()
        build_frames(clips, SPEC, root, ledger=ledger, workers=workers, shard_size=2)
        made.append(({f.name: f.read_bytes() for f in root.glob("frames-*")}, ledger.entries))
    assert made[0] == made[1]
    assert len(made[0][0]) == 3


def test_a_pickled_store_is_small_and_reads_on(tmp_path, clips):
    store = build_frames(clips, SPEC, tmp_path, ledger=Ledger())
    first = store.get("c0")[0]
    sent = pickle.dumps(store)
    assert len(sent) < first.nbytes
    assert np.array_equal(pickle.loads(sent).get("c0")[0], first)


def test_a_large_clip_gets_a_shard_of_its_own(tmp_path, clips, monkeypatch):
    monkeypatch.setattr(cache, "_SHARD_BYTES", SPEC.clip_bytes * 2)
    build_frames(clips, SPEC, tmp_path, ledger=Ledger())
    assert len(list(tmp_path.glob("frames-*"))) == 3


def test_two_clips_with_one_id_are_an_error(tmp_path, clips):
    with pytest.raises(UserError, match="two clips have the id 'c0'"):
        build_frames([*clips, Clip("c0", clips[1].path)], SPEC, tmp_path, ledger=Ledger())


@pytest.mark.parametrize(
    "wrong",
    [{"frames": 0}, {"size": (0, 8)}, {"resize": "smooth"}, {"codec": "png"}, {"crop": "left"}],
)
def test_a_senseless_spec_is_an_error(wrong):
    with pytest.raises(UserError):
        FrameSpec(**({"frames": 2, "size": (8, 8)} | wrong))


def test_workers_start_without_torch():
    code = "import sys, tvr_bench.media.cache, tvr_bench.datamodules.types; "
    code += "print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
