"""Read frames of a video file by time: the frame that was on show, or an error, nothing else.

The frame shown at t seconds is the last one whose time stamp, counted from the first frame's, is
not after t. What is read equals, bit for bit, what decoding the whole file in order gives; packets
that no wanted frame needs are not decoded. How a broken file is treated: `packets.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
from av.video.codeccontext import VideoCodecContext

from tvr_bench.errors import UserError
from tvr_bench.media.decode import Decoder
from tvr_bench.media.demux import MAX_PIXELS, VideoError, naming, open_stream, unreadable
from tvr_bench.media.packets import PacketIndex, index_packets
from tvr_bench.media.resize import Scaler, turn_of
from tvr_bench.media.shape import AS_STORED, Shape, shape_of

__all__ = [
    "Video",
    "VideoError",
    "VideoInfo",
    "open_video",
    "probe",
    "read_frames",
    "segment_centres",
]

Images: TypeAlias = dict[int, np.ndarray]  # of frames by their numbers


@dataclass(frozen=True)
class VideoInfo:
    """What a video file holds.

    `duration` in seconds from the first frame to the end of the last; `fps` is `frames` by
    `duration`; `width` and `height` as shown: upright, in square pixels, without hidden edges;
    `rotation` is the clockwise turn in degrees that the container asks for and that reading
    applies.
    """

    duration: float
    fps: float
    width: int
    height: int
    frames: int
    codec: str
    rotation: int


class Video:
    """One open file; get it from `open_video`."""

    def __init__(
        self,
        path: Path,
        index: PacketIndex,
        codec: VideoCodecContext,
        threads: int = 1,
        shape: Shape = AS_STORED,
    ) -> None:
        self.path = path
        self._shape = shape
        self._index = index
        self._threads = threads
        self._codec_name = codec.name
        self._decoder = Decoder(index, codec)

    @property
    def duration(self) -> float:
        """Seconds from the first frame to the end of the last, by the packets in the file."""
        return self._index.duration

    @property
    def times(self) -> list[float]:
        """The second at which each frame appears, ascending, 0 for the first."""
        return [float(t * self._index.time_base) for t in self._index.ticks]

    def info(self) -> VideoInfo:
        """Decode the first frame and return what the file holds; raises `VideoError`."""
        with naming(self.path):
            _, first = next(self._decoder.frames([0]))
            turn = turn_of(first)
        height, width = self._shape.shown(first.height, first.width)
        if turn.swap:
            width, height = height, width
        count = len(self._index.ticks)
        return VideoInfo(
            duration=self.duration,
            fps=count / self.duration,
            width=width,
            height=height,
            frames=count,
            codec=self._codec_name,
            rotation=turn.degrees,
        )

    def read(
        self,
        times: Sequence[float],
        size: tuple[int, int] | None = None,
        resize: str = "fast",
        crop: str = "none",
    ) -> np.ndarray:
        """Return uint8 [F, H, W, 3], the frame shown at each of `times`; see `read_frames`."""
        scaler = partial(Scaler, size, resize, crop, self._shape)
        scaler()  # a request that makes no sense is an error even where nothing is asked for
        numbers = [self._number(t) for t in times]
        with naming(self.path):
            images = self._images(numbers, scaler)
        if not images:
            return np.empty((0, *(size or (0, 0)), 3), np.uint8)
        if len({image.shape for image in images.values()}) > 1:
            raise unreadable(self.path, "the frame size changes within the clip and no size is set")
        return np.stack([images[n] for n in numbers])

    def _images(self, numbers: Sequence[int], scaler: Callable[[], Scaler]) -> Images:
        """Return the pixels of each frame; every thread has a decoder and groups of its own."""
        shares = self._decoder.shares(numbers, self._threads)
        if len(shares) < 2:
            return _scaled(self._decoder, numbers, scaler())
        with ThreadPoolExecutor(len(shares) - 1) as pool:
            others = [pool.submit(self._apart, share, scaler()) for share in shares[1:]]
            images = _scaled(self._decoder, shares[0], scaler())
            for other in others:
                images |= other.result()
        return images

    def _apart(self, numbers: Sequence[int], scale: Scaler) -> Images:
        with open_stream(self.path, self._index.source.max_pixels) as (_, stream):
            return _scaled(Decoder(self._index, stream.codec_context), numbers, scale)

    def _number(self, seconds: float) -> int:
        """Return the number of the frame on show at `seconds`."""
        if math.isfinite(seconds) and 0 <= seconds <= self.duration:
            return self._index.frame_at(seconds)
        raise VideoError(
            f"{self.path}: no frame is shown at {seconds:.3f} s, the video lasts "
            f"{self.duration:.3f} s. Check the clip's start and end."
        )


def _scaled(decoder: Decoder, numbers: Sequence[int], scale: Scaler) -> Images:
    return {number: scale(frame) for number, frame in decoder.frames(numbers)}


@contextmanager
def open_video(path: Path, threads: int = 1, max_pixels: int = MAX_PIXELS) -> Iterator[Video]:
    """Yield the open video at `path`, for more than one question about it; raises `VideoError`.

    `threads` decode groups of pictures side by side; FFmpeg's own threads are not used, for they
    deadlock beside torch's. Frames of more than `max_pixels` are refused; one takes some 5 bytes of
    memory for each.
    """
    with ExitStack() as stack:
        with naming(path):
            container, stream = stack.enter_context(open_stream(path, max_pixels))
            shape = shape_of(path, container, stream)
            index = index_packets(path, container, stream, max_pixels)
        yield Video(path, index, stream.codec_context, threads, shape)


def probe(path: Path, max_pixels: int = MAX_PIXELS) -> VideoInfo:
    """Return what the video at `path` holds; raises `VideoError` where it shows nothing."""
    with open_video(path, max_pixels=max_pixels) as video:
        return video.info()


def read_frames(
    path: Path,
    times: Sequence[float],
    size: tuple[int, int] | None = None,
    resize: str = "fast",
    crop: str = "none",
    threads: int = 1,
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """Return uint8 [F, H, W, 3]: the upright rgb frame shown at each of `times`.

    `times` are seconds from the first frame, in any order; `size` is (height, width), None for that
    of the picture as shown, which is also what is resized; `resize` is `fast` or `exact`, `crop`
    `none` or `centre` (see `resize.py`). Raises `VideoError` where the file cannot be read, has
    frames of more than `max_pixels`, a time is outside it or a frame does not decode: never another
    frame instead.
    """
    with open_video(path, threads, max_pixels) as video:
        return video.read(times, size, resize, crop)


def segment_centres(
    duration: float, count: int, start: float | None = None, end: float | None = None
) -> list[float]:
    """Return the centre, in seconds, of each of `count` equal segments of `start` to `end`.

    The span is cut to 0..`duration`. Where a video has fewer frames than segments, neighbouring
    centres show the same frame. Raises `UserError` where nothing of the span is left.
    """
    low = max(0.0, start or 0.0)
    high = duration if end is None else min(end, duration)
    if not low < high:
        raise UserError(
            f"a clip from {start} to {end} s has no part of a video of {duration:.3f} s. "
            "Check the clip's start and end."
        )
    step = (high - low) / count
    return [low + (i + 0.5) * step for i in range(count)]
