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
from tvr_bench.media.boxes import why_unsafe

MAX_PIXELS = 1 << 24  # of one frame, unless asked otherwise; a tiny file can ask for gigabytes
_MAX_SIDE = 1 << 14  # of one frame, in pixels
_MAX_STREAMS = 256  # pictures, sounds, subtitles and fonts of one file
# Playlists (hls, concat) can open other files, so only formats that hold their own frames are read.
_OPEN_OPTIONS = {
    "protocol_whitelist": "file",
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,gif,asf,flv,ogg",
    "probesize": str(8 << 20),  # bytes looked at to find out what the streams are
}


class VideoError(UserError):
    """A clip that cannot be read; the message names the file and the cause."""


class TooLarge(VideoError):
    """A clip whose frames have more pixels than are allowed; another limit may end otherwise."""


def unreadable(path: Path, cause: str) -> VideoError:
    """Return the error that says why the clip at `path` cannot be read, in one line."""
    line = f"{path}: {cause}. Replace or re-encode the file, or leave the clip out."
    return VideoError(" ".join(line.split()))


def lost(path: Path, reason: str) -> VideoError:
    """Return the error of a clip whose reading `reason`, in a worker process."""
    return VideoError(
        f"{path}: reading it {reason}. Re-encode the file, leave the clip out, or set another "
        "video.timeout to try it again."
    )


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn whatever a decoder raises inside into one `VideoError` line that names `path`."""
    try:
        yield
    except (UserError, AssertionError):
        raise
    except FileNotFoundError as error:
        raise VideoError(f"there is no file {path}; give the path of a video") from error
    except PermissionError as error:
        raise VideoError(f"{path} may not be read by this user; change its permissions") from error
    # PyAV raises far more than FFmpegError on damaged files: IndexError, UnicodeDecodeError, ...
    except Exception as error:
        cause = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise unreadable(path, cause) from error


def _opened(path: Path, max_pixels: int) -> InputContainer:
    options = {**_OPEN_OPTIONS, "max_pixels": str(max_pixels)}  # for the decoders that look
    try:
        return av.open(str(path.absolute()), options=options)
    except av.error.ArgumentError as error:  # what FFmpeg says of a format that it may not read
        kinds = "MP4, MOV, MKV, WebM, AVI, MPEG, WMV, FLV, OGV, GIF"
        raise unreadable(path, f"not a video of a kind that is read here ({kinds})") from error


@contextmanager
def open_stream(
    path: Path, max_pixels: int = MAX_PIXELS
) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open `path` and yield the container and its main video stream, ready to decode.

    Frames of more than `max_pixels` are a `TooLarge`, before memory is asked for.
    The stream decodes in this thread alone: FFmpeg's frame threads deadlock beside torch's.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise unreadable(path, "not a regular file")  # opening a FIFO would wait for ever
    if cause := why_unsafe(path):
        raise unreadable(path, cause)
    with _opened(path, max_pixels) as container:
        stream = container.streams.best("video")
        if not isinstance(stream, VideoStream) or stream.disposition & Disposition.attached_pic:
            raise unreadable(path, "no video stream")
        codec = stream.codec_context
        if codec is None or not stream.time_base:
            raise unreadable(path, "no decoder for the video stream, or no clock in it")
        if len(container.streams) > _MAX_STREAMS:
            raise unreadable(path, f"more than {_MAX_STREAMS} streams")
        width, height = codec.width, codec.height
        # an MPEG stream of few pictures may not have told its size yet; the decoder heeds the limit
        if not width * height and container.format.name not in ("mpegts", "mpeg"):
            raise TooLarge(
                f"{path}: its frames have no size, or more pixels than video.max_pixels="
                f"{max_pixels}. Set that to what they have (8K: 33177600) to read them, or leave "
                "the clip out."
            )
        if max(width, height) > _MAX_SIDE:
            raise unreadable(path, f"frames of {width}x{height} are too large")
        if width * height > max_pixels:
            raise TooLarge(
                f"{path}: frames of {width}x{height} have more pixels than "
                f"video.max_pixels={max_pixels}. Set it to {width * height} to read them."
            )
        codec.thread_type, codec.thread_count = "NONE", 1
        # Without "explode" the decoders conceal damage and hand over invented pixels.
        codec.options = {"max_pixels": str(max_pixels), "err_detect": "explode"}
        yield container, stream
