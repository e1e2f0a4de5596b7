"""The reader over real files: every frame it gives equals a plain decode's, the rest is named."""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import Interpolation
from make_clips import slow_frames
from PIL import Image

from real import DATA
from tvr_bench.datamodules.types import Clip
from tvr_bench.files import Ledger
from tvr_bench.media.cache import FrameSpec, build_frames
from tvr_bench.media.video import VideoError, open_video, read_frames, segment_centres

VIDEOS = DATA / "videos"
FILES = sorted(p for p in VIDEOS.glob("*/*") if p.suffix != ".tsv") if VIDEOS.is_dir() else []
FLAGS = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
UNREADABLE = {
    "derived/not_a_video.mp4",
    "derived/trunc50_textvr_5jKLoEt7RBg.mp4",
    "odd/decord_corrupted.mp4",
    "odd/moviepy_zero_bytes.webm",
}

pytestmark = pytest.mark.skipif(not FILES, reason="the shared videos are not there")


def name_of(path: Path) -> str:
    return path.relative_to(VIDEOS).as_posix()


def is_large(path: Path) -> bool:
    return path.stat().st_size > 600_000


PARAMS = [
    pytest.param(p, id=name_of(p), marks=[pytest.mark.slow] * is_large(p))
    for p in FILES
    if name_of(p) not in UNREADABLE
]


@pytest.mark.parametrize("path", PARAMS)
def test_sampled_frames_equal_a_plain_decode(path):
    with open_video(path) as video:
        times = sorted({*segment_centres(video.duration, 12), *video.times[:2], video.times[-1]})
        got = video.read(times, (48, 64))
        quarters = video.info().rotation // 90
    stored = (48, 64) if quarters % 2 == 0 else (64, 48)
    slow = _decoded(path, stored)
    for time, image in zip(times, got, strict=True):
        shown = [frame for when, frame in slow if when <= time + 1e-9][-1]
        assert np.array_equal(image, np.rot90(shown, -quarters)), f"at {time:.3f} s"


def _decoded(path: Path, size: tuple[int, int]):
    """Decode the whole file; a cut one up to the packet that is broken."""
    try:
        return slow_frames(path, size)
    except av.error.InvalidDataError:
        assert "trunc50" in path.name
        return slow_frames(path, size, stop_at_error=True)


@pytest.mark.parametrize("name", sorted(UNREADABLE))
def test_what_cannot_be_read_is_named(name):
    with pytest.raises(VideoError, match=Path(name).name), open_video(VIDEOS / name) as video:
        video.read(segment_centres(video.duration, 12), (48, 64))


def test_the_main_stream_of_two_is_read():
    with open_video(VIDEOS / "general" / "torchcodec_nasa_13013.mp4") as video:
        info = video.info()
    assert (info.width, info.height, info.frames) == (480, 270, 390)


@pytest.fixture(scope="module")
def references() -> dict[str, dict[str, np.ndarray]]:
    """What a plain decode of each file shows at twelve times, squeezed in either way."""
    found = {}
    for path in FILES:
        if name_of(path) in UNREADABLE:
            continue
        with open_video(path) as video:
            times, quarters = segment_centres(video.duration, 12), video.info().rotation // 90
        size = (64, 48) if quarters % 2 == 0 else (48, 64)
        ways: dict[str, list[np.ndarray]] = {"fast": [], "exact": []}
        for frame in _shown(path, times):
            fast = frame.reformat(*size, "rgb24", interpolation=FLAGS, threads=1).to_ndarray()
            whole = frame.reformat(format="rgb24", interpolation=FLAGS, threads=1).to_ndarray()
            upright = Image.fromarray(np.rot90(whole, -quarters))
            ways["fast"].append(np.rot90(fast, -quarters))
            ways["exact"].append(np.asarray(upright.resize((64, 48), Image.Resampling.BICUBIC)))
        found[path.name] = {way: np.stack(images) for way, images in ways.items()}
    return found


def _shown(path: Path, times: list[float]) -> list[av.VideoFrame]:
    """Decode the whole file twice: to see when frames are shown, and to keep those asked for."""
    frames = list(_plain(path))
    stamps = [pts for pts, _, _ in frames]
    if stamps == sorted(stamps):
        starts = [float((pts - stamps[0]) * base) for pts, base, _ in frames]
    else:
        starts = [i * float(frames[0][2]) for i in range(len(frames))]
    numbers = [max(i for i, s in enumerate(starts) if s <= time + 1e-9) for time in times]
    kept = {i: f for i, f in enumerate(_decode(path)) if i in set(numbers)}
    return [kept[number] for number in numbers]


def _plain(path: Path):
    with av.open(str(path)) as file:
        step = 1 / file.streams.best("video").average_rate
    for frame in _decode(path):
        yield frame.pts, frame.time_base, step


def _decode(path: Path):
    with av.open(str(path)) as file, suppress(av.error.InvalidDataError):  # of a cut file, the end
        stream = file.streams.best("video")
        stream.codec_context.thread_type, stream.codec_context.thread_count = "NONE", 1
        yield from file.decode(stream)


def _jpeg(image: np.ndarray) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=90)
    return np.asarray(Image.open(buffer))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("codec", ["raw", "jpeg"])
@pytest.mark.parametrize("resize", ["fast", "exact"])
def test_every_file_in_every_way(references, tmp_path, resize, codec, workers):
    clips, ledger = [Clip(path.name, path) for path in FILES], Ledger()
    spec = FrameSpec(12, (48, 64), resize=resize, codec=codec, timeout=60.0)
    store = build_frames(clips, spec, tmp_path, ledger=ledger, workers=workers, shard_size=8)
    assert ledger.ids("frames") == {Path(name).name for name in UNREADABLE}
    assert set(store) == set(references)
    for name, expected in references.items():
        frames, _ = store.get(name)
        images = expected[resize]
        stored = images if codec == "raw" else np.stack([_jpeg(image) for image in images])
        assert np.array_equal(frames, stored), name


@pytest.mark.slow
@pytest.mark.parametrize("threads", [2, 3])
def test_more_threads_read_the_same(threads):
    for path in FILES:
        if name_of(path) not in UNREADABLE:
            with open_video(path) as video:
                times = segment_centres(video.duration, 12)
                one = video.read(times, (48, 64))
            assert np.array_equal(one, read_frames(path, times, (48, 64), threads=threads))
