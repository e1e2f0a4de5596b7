"""The packets of a video stream: which frames it holds, when each is shown, where to start for it.

Nothing is decoded. The packets decide what a file holds, not its header: a file whose container
promises more than its packets hold (a cut download) ends with its last whole frame. Damage before
that end stays in the list, for the decoder to refuse.
"""

from __future__ import annotations

import io
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path
from typing import NamedTuple

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from tvr_bench.media.demux import open_stream, unreadable
from tvr_bench.media.mpeg4 import is_coded, time_bits
from tvr_bench.media.riff import indexed_pictures

_MAX_PACKETS = 1_000_000  # nine hours at 30 frames per second
_MAX_SECONDS = 172_800  # two days; a longer clock is a broken one
_KEEP_BYTES = 256 << 20  # a larger stream is read from disk a second time, not held in memory
_TAIL = 16  # packets: the deepest reordering of H.264 and HEVC
_SHORT_S = 0.5  # a container that promises this much more than it holds has lost its end
_MAX_NVOP = 19  # bytes; an MPEG-4 packet this small may say "not coded" and show no new frame


class _Mark(NamedTuple):
    """What the index needs of a packet."""

    pts: int | None
    dts: int | None
    duration: int
    key: bool
    corrupt: bool
    shown: bool  # its frame comes out of the decoder
    nvop: bool


class IndexedFrame(NamedTuple):
    """One frame that is shown: its time stamp and the place of its packet in decode order."""

    pts: int
    position: int


@dataclass(frozen=True)
class PacketIndex:
    """When each frame is shown, and which packets make it.

    `ticks` (units of `time_base`) has one ascending entry per frame, 0 for the first; `end` is the
    tick at which the last one goes. `feed` is the packets a decoder may be given, ascending, `keys`
    those to start at. `frames` is None where the container's clock cannot be trusted: there the
    order in which a decoder hands out the frames of the whole stream is the only truth.
    """

    path: Path
    time_base: Fraction
    ticks: list[int]
    end: int
    feed: list[int]
    frames: list[IndexedFrame] | None
    keys: list[IndexedFrame]
    kept: list[Packet[VideoStream]] | None

    @property
    def duration(self) -> float:
        """Seconds from the moment the first frame is shown to the moment the last one goes."""
        return float(self.end * self.time_base)

    def frame_at(self, seconds: float) -> int:
        """Return the number of the frame on show `seconds` after the first one appeared."""
        tick = seconds / float(self.time_base)
        return bisect_right(self.ticks, tick + 1e-3) - 1  # 1e-3 tick: the rounding of seconds

    def start_of(self, frame: IndexedFrame) -> IndexedFrame:
        """Return the key frame to start at for `frame`: the last before it in both orders."""
        at = bisect_right(self.keys, frame.position, key=lambda k: k.position) - 1
        while at > 0 and self.keys[at].pts > frame.pts:  # shown before its key frame: an open GOP
            at -= 1
        return self.keys[at]

    def packets(self, first: int, last: int) -> Iterator[tuple[int, Packet[VideoStream]]]:
        """Yield the packets to feed from position `first` to `last`, with their positions."""
        wanted = self.feed[bisect_left(self.feed, first) : bisect_right(self.feed, last)]
        if self.kept is not None:
            yield from ((i, self.kept[i]) for i in wanted)
            return
        with open_stream(self.path) as (container, stream):
            filled = enumerate(p for p in container.demux(stream) if p.size)
            feed = set(wanted)
            yield from ((i, p) for i, p in islice(filled, last + 1) if i in feed)


def index_packets(path: Path, container: InputContainer, stream: VideoStream) -> PacketIndex:
    """List the packets of `stream`, drop what a broken end left incomplete, time the frames.

    Raises `VideoError` where no frame is left.
    """
    every, kept = _scan(path, container, stream)
    marks = _without_broken_tail(every)
    if container.format.name == "gif" and not _ends_with(path, b";"):
        marks = every[:-1]  # no end mark: cut in the middle of the last picture
    first_key = next((i for i, m in enumerate(marks) if m.key), 0)
    feed = list(range(first_key, len(marks)))
    frames = None
    if feed and _has_clock(marks, feed, container, stream):
        # The pictures shown before the first key frame were made from a picture that is not there.
        feed = [i for i in feed if _pts(marks[i]) >= _pts(marks[first_key])]
        frames = sorted(IndexedFrame(_pts(marks[i]), i) for i in feed if marks[i].shown)
    ticks = _plain_clock(path, marks, feed, stream) if frames is None else [f.pts for f in frames]
    if len(marks) < len(every) or _is_short(path, marks, ticks, container, stream):
        ticks = ticks[: _certain(marks, ticks, frames, stream)]
    if not ticks:
        raise unreadable(path, "no whole video frame")
    if (ticks[-1] - ticks[0]) * _time_base(stream) > _MAX_SECONDS:
        raise unreadable(path, f"its frames span more than {_MAX_SECONDS // 3600} hours")
    return PacketIndex(
        path=path,
        time_base=_time_base(stream),
        ticks=[t - ticks[0] for t in ticks],
        end=ticks[-1] - ticks[0] + _length(marks, ticks, stream),
        feed=feed,
        frames=frames,
        keys=_keys(marks, feed),
        kept=kept,
    )


def _keys(marks: list[_Mark], feed: list[int]) -> list[IndexedFrame]:
    """Return the packets to start at: the first one, and every key frame that will come out."""
    starts = [i for i in feed if i == feed[0] or (marks[i].key and marks[i].shown)]
    return [IndexedFrame(marks[i].pts or 0, i) for i in starts]


def _scan(
    path: Path, container: InputContainer, stream: VideoStream
) -> tuple[list[_Mark], list[Packet[VideoStream]] | None]:
    """Return a mark for every packet, and the packets unless they are too large to hold."""
    codec = stream.codec_context
    bits = None
    marks: list[_Mark] = []
    kept: list[Packet[VideoStream]] | None = []
    size = 0
    for packet in container.demux(stream):
        if not packet.size:  # in AVI: "the last frame stays"; at the end: "flush"
            continue
        if codec.name == "mpeg4" and not marks:
            bits = time_bits((codec.extradata or b"") + bytes(packet))
        marks.append(_mark(packet, codec.name, bits))
        size += packet.size
        if size > _KEEP_BYTES:
            kept = None
        elif kept is not None:
            kept.append(packet)
        if len(marks) > _MAX_PACKETS:
            raise unreadable(path, f"more than {_MAX_PACKETS} frames")
    return marks, kept


def _mark(packet: Packet[VideoStream], codec: str, time_bits: int | None) -> _Mark:
    # VP8's alternative reference frames have a time stamp but are never shown.
    hidden = codec == "vp8" and not memoryview(packet)[0] >> 4 & 1
    nvop = codec == "mpeg4" and packet.size <= _MAX_NVOP
    if nvop and time_bits:
        nvop = not is_coded(bytes(packet), time_bits)
    return _Mark(
        packet.pts,
        packet.dts,
        packet.duration or 0,
        packet.is_keyframe,
        packet.is_corrupt,
        not (packet.is_discard or hidden or nvop),
        nvop,
    )


def _pts(mark: _Mark) -> int:
    assert mark.pts is not None
    return mark.pts


def _without_broken_tail(marks: list[_Mark]) -> list[_Mark]:
    """Leave out the broken packets at a cut end, and what came in late between them."""
    bad = next((i for i, m in enumerate(marks) if m.corrupt), len(marks))
    return marks[:bad] if sum(not m.corrupt for m in marks[bad:]) <= _TAIL else marks


def _ends_with(path: Path, mark: bytes) -> bool:
    with open(path, "rb") as file:
        file.seek(-len(mark), io.SEEK_END)
        return file.read() == mark


def _has_clock(
    marks: list[_Mark], feed: list[int], container: InputContainer, stream: VideoStream
) -> bool:
    """Say whether the time stamp of a packet is the time at which its frame is shown."""
    pts = [marks[i].pts for i in feed]
    if None in pts or len(set(pts)) < len(pts):
        return False
    if not stream.codec_context.has_b_frames:
        return True
    # AVI knows only the decode order, and so does a remux of it; what FFmpeg makes of that is a
    # guess, wrong where B-frames are packed with their reference and an empty packet follows.
    decode_order = all(marks[i].pts == marks[i].dts for i in feed)
    return not (container.format.name == "avi" or decode_order or any(marks[i].nvop for i in feed))


def _is_short(
    path: Path,
    marks: list[_Mark],
    ticks: list[int],
    container: InputContainer,
    stream: VideoStream,
) -> bool:
    """Say whether the stream has lost its end between two packets, as far as one can tell."""
    if container.format.name in ("mpegts", "mpeg"):  # they promise nothing: look for a hole
        steps = [b - a for a, b in pairwise(ticks[-_TAIL:])]
        return bool(steps) and max(steps) >= 2 * min(steps)
    if container.format.name == "avi":
        listed = indexed_pictures(path, stream.index, stream.frames)
        if listed is not None and listed > len(marks):
            cause = f"{listed - len(marks)} of {listed} pictures are missing in the middle"
            raise unreadable(path, cause)  # and without time stamps nobody knows where
        return listed is None and stream.frames > len(marks)
    promised = _promised(container, stream)
    if not ticks or promised is None:
        return False
    end = ticks[-1] + _length(marks, ticks, stream)
    return promised - float(end * _time_base(stream)) > _SHORT_S


def _promised(container: InputContainer, stream: VideoStream) -> float | None:
    """Return the seconds that a header gives, None where it lists the packets themselves."""
    if stream.duration is None:
        return None if container.duration is None else container.duration / av.time_base
    matroska = container.format.name.startswith("matroska")
    return float(stream.duration * _time_base(stream)) if matroska else None


def _certain(
    marks: list[_Mark], ticks: list[int], frames: list[IndexedFrame] | None, stream: VideoStream
) -> int:
    """Return how many frames of a stream that was cut come before any that may be missing."""
    depth = stream.codec_context.reorder_depth
    if frames is None:
        return max(0, len(ticks) - depth)  # what a decoder would still hold back
    if not depth:
        return len(ticks)
    last = marks[-1].dts
    return max(1, len(ticks) - depth) if last is None else bisect_right(ticks, last)


def _plain_clock(path: Path, marks: list[_Mark], feed: list[int], stream: VideoStream) -> list[int]:
    """Return a tick for each frame of a stream that has no usable time stamps, ascending."""
    for stamps in ([marks[i].pts for i in feed], [marks[i].dts for i in feed]):
        if None not in stamps:
            return sorted(s for s in stamps if s is not None)
    if not stream.average_rate:
        raise unreadable(path, "neither time stamps nor a frame rate")
    step = 1 / (stream.average_rate * _time_base(stream))
    return [round(i * step) for i in range(len(feed))]


def _length(marks: list[_Mark], ticks: list[int], stream: VideoStream) -> int:
    """Return for how many ticks the last frame is shown."""
    told = next((m.duration for m in reversed(marks) if m.pts == ticks[-1]), 0)
    if told > 0:
        return told
    if len(ticks) > 1:
        return max(1, round((ticks[-1] - ticks[0]) / (len(ticks) - 1)))
    rate = stream.average_rate
    return max(1, round(1 / (rate * _time_base(stream)))) if rate else 1


def _time_base(stream: VideoStream) -> Fraction:
    assert stream.time_base is not None
    return stream.time_base
