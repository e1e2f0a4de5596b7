"""Damaged files end in frames that a plain decode gives too, or on the ledger; nothing crashes.

Two processes read them, each with ten seconds per file; a crash or a hang would be a line that says
so.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest
from make_clips import slow_frames
from mutants import DAMAGES, SOURCES, mutant, source

from tvr_bench.datamodules.types import Clip
from tvr_bench.files import Ledger
from tvr_bench.media.cache import FrameSpec, FrameStore, build_frames
from tvr_bench.media.video import open_video, segment_centres

COUNT, SIZE = 12, (48, 64)
TRIALS = 20  # of each kind of damage to each of the three files: 300 files
SPECS = {
    "fast raw": FrameSpec(COUNT, SIZE, timeout=10.0),
    "exact jpeg": FrameSpec(COUNT, SIZE, resize="exact", codec="jpeg", timeout=10.0),
}


@pytest.fixture(scope="module", params=[pytest.param(n, marks=pytest.mark.slow) for n in SOURCES])
def damaged(request, tmp_path_factory) -> tuple[Path, list[Clip]]:
    folder, name = tmp_path_factory.mktemp("mutants"), request.param
    whole = source(folder, name)
    data, clips = whole.read_bytes(), []
    for damage in DAMAGES:
        for trial in range(TRIALS):
            path = folder / f"{damage}-{trial}-{name}"
            path.write_bytes(mutant(data, name, damage, trial))
            clips.append(Clip(path.stem, path))
    return whole, clips


def build(clips: list[Clip], spec: str, root: Path, workers: int = 2) -> tuple[FrameStore, Ledger]:
    ledger = Ledger()
    store = build_frames(clips, SPECS[spec], root, ledger=ledger, workers=workers, shard_size=10)
    return store, ledger


def plain(path: Path) -> list[tuple[float, np.ndarray]]:
    """Decode the file in order, as far as its packets decode; (seconds from the first, rgb)."""
    frames = []
    with av.open(str(path)) as file:
        stream = file.streams.best("video")
        stream.codec_context.thread_type, stream.codec_context.thread_count = "NONE", 1
        base = stream.time_base
        for packet in file.demux(stream):
            try:
                frames += [(f.pts, f) for f in packet.decode() if f.pts is not None]
            except av.error.FFmpegError:
                continue
        flags = av.video.reformatter.Interpolation
        how = flags.BILINEAR | flags.ACCURATE_RND | flags.BITEXACT
        return sorted(
            ((float(pts * base), f.reformat(*SIZE[::-1], "rgb24", interpolation=how).to_ndarray())
             for pts, f in frames),
            key=lambda pair: pair[0],
        )  # fmt: skip


def test_every_frame_is_one_of_a_plain_decode_and_the_rest_is_named(damaged, tmp_path, capsys):
    whole, clips = damaged
    good = slow_frames(whole, SIZE)
    store, ledger = build(clips, "fast raw", tmp_path)
    seen: Counter[str] = Counter()
    for clip in clips:
        if clip.id not in store:
            seen["refused"] += 1
            continue
        frames, _ = store.get(clip.id)
        expected = plain(clip.path)
        with open_video(clip.path) as video:
            times = segment_centres(video.duration, COUNT)
        first = expected[0][0]
        shown = [[f for when, f in expected if when - first <= t + 1e-6][-1] for t in times]
        assert np.array_equal(frames, np.stack(shown)), clip.id
        truth = [[f for when, f in good if float(when) <= t + 1e-6][-1] for t in times]
        seen["as the whole file" if np.array_equal(frames, np.stack(truth)) else "unnoticed"] += 1
    with capsys.disabled():
        print(f"\n{whole.name}: {dict(seen)}")
    assert {e.id for e in ledger.entries} == {c.id for c in clips} - set(store)
    assert not [e for e in ledger.entries if "reading it" in e.message]  # no crash, no hang
    assert all("\n" not in e.message and e.id in e.message for e in ledger.entries)
    assert seen["refused"] > 0 and seen["as the whole file"] > 0


def test_every_way_to_read_refuses_the_same_files(damaged, tmp_path):
    _, clips = damaged
    raw, _ = build(clips, "fast raw", tmp_path / "raw")
    alone, _ = build(clips, "fast raw", tmp_path / "alone", workers=0)
    jpeg, ledger = build(clips, "exact jpeg", tmp_path / "jpeg")
    assert set(raw) == set(alone) == set(jpeg)
    assert not [e for e in ledger.entries if "reading it" in e.message]
    for id in raw:
        assert np.array_equal(raw.get(id)[0], alone.get(id)[0])
        assert np.abs(jpeg.get(id)[0].astype(int) - raw.get(id)[0]).mean() < 25
