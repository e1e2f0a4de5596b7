"""Small real video files for tests, and the slow way to read them: decode everything in order."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import Interpolation

_FLAGS = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.BITEXACT


def pictures(count: int, size: tuple[int, int] = (64, 48)) -> list[np.ndarray]:
    """Return `count` different uint8 [H, W, 3] pictures; `size` is (width, height)."""
    width, height = size
    yy, xx = np.mgrid[:height, :width]
    return [
        np.stack([(xx * 3 + 7 * i) % 256, (yy * 4 + 5 * i) % 256, (xx + yy + 11 * i) % 256], -1)
        .astype(np.uint8)
        for i in range(count)
    ]  # fmt: skip


def x264(gop: int, bframes: int, **extra: Any) -> dict[str, str]:
    """Return libx264 options with exactly this structure."""
    params = {"keyint": gop, "min-keyint": gop, "scenecut": 0, "bframes": bframes, "b-adapt": 0}
    text = ":".join(f"{k}={v}" for k, v in (params | extra).items())
    return {"preset": "veryfast", "x264-params": text}


def make_clip(
    path: Path,
    codec: str = "libx264",
    count: int = 40,
    fps: int = 10,
    size: tuple[int, int] = (64, 48),
    options: dict[str, str] | None = None,
    pts: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    pix_fmt: str = "yuv420p",
    gop: int = 12,
    bframes: int = 0,
    container: dict[str, str] | None = None,
    muxer: str | None = None,
) -> Path:
    """Write a video of `count` pictures; `pts` in `time_base` units replaces the even clock.

    `muxer` is FFmpeg's name of the container, None for what the suffix says.
    """
    with av.open(str(path), "w", format=muxer, options=container or {}) as file:
        stream = file.add_stream(codec, rate=fps, options=options or {})
        stream.width, stream.height = size
        stream.pix_fmt = pix_fmt
        stream.codec_context.gop_size = gop
        if codec in ("mpeg4", "mpeg2video"):
            stream.codec_context.max_b_frames = bframes
            stream.codec_context.thread_count = 2  # else the file depends on the machine's cores
        if time_base is not None:
            stream.codec_context.time_base = time_base
        for i, picture in enumerate(pictures(count, size)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = i if pts is None else pts[i]
            frame.time_base = time_base or Fraction(1, fps)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def make_sound(path: Path) -> Path:
    """Write a file that has sound and no picture."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("aac", rate=16000, layout="mono")
        for i in range(20):
            frame = av.AudioFrame.from_ndarray(
                np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
            )
            frame.sample_rate, frame.pts = 16000, 1024 * i
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def rewrap(source: Path, target: Path, change: Any) -> Path:
    """Copy the packets of `source` into `target`, each as `change(i, bytes)` makes it."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        filled = (p for p in old.demux(old.streams.video[0]) if p.size)
        for i, packet in enumerate(filled):
            data = change(i, bytes(packet))
            if data is None:
                continue
            copy = av.Packet(data)
            copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
            copy.is_keyframe = packet.is_keyframe
            copy.stream = stream
            new.mux(copy)
    return target


def slow_frames(
    path: Path, size: tuple[int, int] | None = None, stop_at_error: bool = False
) -> list[tuple[Fraction, np.ndarray]]:
    """Decode the whole file in order; return (seconds from the first frame, rgb) for each frame.

    Where the time stamps that come out are not ascending, the frames are evenly spaced.
    """
    frames = []
    with av.open(str(path)) as file, suppress(*[av.error.InvalidDataError] * stop_at_error):
        stream = file.streams.best("video")
        stream.codec_context.thread_type, stream.codec_context.thread_count = "NONE", 1
        base, step = stream.time_base, 1 / (stream.average_rate or stream.guessed_rate or 10)
        for frame in file.decode(stream):
            width, height = size[::-1] if size else (frame.width, frame.height)
            rgb = frame.reformat(width, height, "rgb24", interpolation=_FLAGS, threads=1)
            frames.append((frame.pts, rgb.to_ndarray()))
    stamps = [p for p, _ in frames]
    if stamps != sorted(stamps):
        return [(i * step, image) for i, (_, image) in enumerate(frames)]
    return [((p - stamps[0]) * base, image) for p, image in frames]


def slow_read(frames: Sequence[tuple[Fraction, np.ndarray]], times: Sequence[float]) -> np.ndarray:
    """Return the last frame not after each of `times`, from what `slow_frames` gave."""
    return np.stack([[image for when, image in frames if when <= t + 1e-9][-1] for t in times])
