"""Open a video file safely, and say in one line why one cannot be read."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from tvr_bench.errors import UserError

# Playlists (hls, concat) can open other files, so only formats that hold their own frames are read.
_OPEN_OPTIONS = {
    "protocol_whitelist": "file",
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,gif",
}
_MAX_PIXELS = 1 << 24  # of one frame; a tiny file can ask for gigabytes


class VideoError(UserError):
    """A clip that cannot be read; the message names the file and the cause."""


def unreadable(path: Path, cause: str) -> VideoError:
    """Return the error that says why the clip at `path` cannot be read, in one line."""
    line = f"{path}: {cause}. Replace or re-encode the file, or leave the clip out."
    return VideoError(" ".join(line.split()))


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn whatever a decoder raises inside into one `VideoError` line that names `path`."""
    try:
        yield
    except (UserError, AssertionError):
        raise
    # PyAV raises far more than FFmpegError on damaged files: IndexError, UnicodeDecodeError, ...
    except Exception as error:
        cause = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise unreadable(path, cause) from error


@contextmanager
def open_stream(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open `path` and yield the container and its main video stream, ready to decode.

    The stream decodes in this thread alone: FFmpeg's frame threads deadlock beside torch's.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise unreadable(path, "not a regular file")  # opening a FIFO would wait for ever
    with av.open(str(path.absolute()), options=_OPEN_OPTIONS) as container:
        stream = container.streams.best("video")
        if not isinstance(stream, VideoStream) or stream.disposition & Disposition.attached_pic:
            raise unreadable(path, "no video stream")
        codec = stream.codec_context
        if codec is None or not stream.time_base:
            raise unreadable(path, "no decoder for the video stream, or no clock in it")
        if codec.width * codec.height > _MAX_PIXELS:
            raise unreadable(path, f"frames of {codec.width}x{codec.height} are too large")
        codec.thread_type, codec.thread_count = "NONE", 1
        # Without "explode" the decoders conceal damage and hand over invented pixels.
        codec.options = {"max_pixels": str(_MAX_PIXELS), "err_detect": "explode"}
        yield container, stream
