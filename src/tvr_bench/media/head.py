"""The first pictures of a stream: those that a decoder shows, and those that it cannot make.

A file that was cut out of a longer one may begin between key frames, with pictures that refer to
what is not there, or with a refresh that takes several pictures. Which of them are shown is the
decoder's word alone, so the first packets are decoded; a file that begins with a picture that all
others follow is spared that.
"""

from __future__ import annotations

from collections.abc import Iterable

import av
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream

from tvr_bench.media.h264 import starts_whole
from tvr_bench.media.marks import Mark

# Decoders that hold a picture back, or flag it, unless all that it is made from was there.
_KNOW_WHOLE = frozenset({"h264", "hevc", "vvc"})
_SETTLED = 32  # packets after the first frame that came out: twice the deepest reordering


def begins_with_invented(
    codec: VideoCodecContext, packets: Iterable[tuple[int, Packet[VideoStream]]]
) -> bool:
    """Say whether what comes before the first key frame (`packets`) shows pictures of nothing.

    The decoders that do not know which of their pictures are whole make up the ones that they lack,
    and not always the same ones.
    """
    if codec.name in _KNOW_WHOLE:
        return False
    frames = _decode(codec, packets)[0]
    return bool(frames) and frames[0].pict_type != PictureType.I


def is_clean(marks: list[Mark], codec: VideoCodecContext, first: bytes) -> bool:
    """Say whether the stream begins with a picture that is whole and that all others follow.

    `first` is its first packet.
    """
    start = marks[0].pts
    if not marks[0].key or start is None:
        return False
    if any(m.pts is not None and m.pts < start for m in marks[1 : 1 + _SETTLED]):
        return False
    return codec.name != "h264" or starts_whole(codec.extradata or b"", first)


def without_lost_head(
    marks: list[Mark],
    feed: list[int],
    codec: VideoCodecContext,
    packets: Iterable[tuple[int, Packet[VideoStream]]],
) -> tuple[list[Mark], list[int]] | None:
    """Return marks and feed without the first pictures that no decoder shows.

    `packets` are those of `feed` with their positions. They are decoded until frames have come out
    for a while. A picture that none came out for before the others, or none without an error, is
    not shown; an error after that is damage, which is for the reader of that frame to refuse. None
    where one stamp comes out twice: the decoder made up a picture, and stamps do not name frames.
    """
    frames, broken, end = _decode(codec, packets)
    stamps = [f.pts for f in frames if f.pts is not None and not f.is_corrupt]
    out = set(stamps)
    if len(out) < len(stamps):
        return None
    key = next((marks[i].pts for i in feed if marks[i].key), None)
    begun = next((i for i in feed if marks[i].pts in out), end)
    latest = max(out, default=None)
    hidden = set()
    for i in feed:
        pts = marks[i].pts
        if i >= end or pts is None or pts in out or (latest is not None and pts > latest):
            continue
        if i not in broken or i < begun or (key is not None and pts < key):
            hidden.add(i)
    seen = [m._replace(shown=False) if i in hidden else m for i, m in enumerate(marks)]
    return seen, [i for i in feed if i not in hidden & broken]


def _decode(
    codec: VideoCodecContext, packets: Iterable[tuple[int, Packet[VideoStream]]]
) -> tuple[list[VideoFrame], set[int], int]:
    """Return the frames that came out, the packets that did not decode, and the one to stop at."""
    codec.flush_buffers()
    out: list[VideoFrame] = []
    broken: set[int] = set()
    left, last = _SETTLED, -1
    for last, packet in packets:
        try:
            out += codec.decode(packet)
        except av.error.FFmpegError:
            broken.add(last)
            continue
        left -= bool(out)
        if not left:
            break
    out += codec.decode(None)
    codec.flush_buffers()
    return out, broken, last + 1
