"""The packets of a video stream: which frames it holds, when each is shown, where to start for it.

The packets decide what a file holds, not its header: a file whose container promises more than its
packets hold (a cut download) ends with its last whole frame. Damage before that end stays in the
list, for the decoder to refuse. Nothing is decoded but the first packets of a file that starts in
the middle of a stream.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from tvr_bench.media.clock import apart, has_clock, holes_of, last_length, plain_clock, time_base_of
from tvr_bench.media.demux import MAX_PIXELS, open_stream, unreadable
from tvr_bench.media.ending import certain_count, lacks_end_mark, without_broken_tail
from tvr_bench.media.head import begins_with_invented, is_clean, without_lost_head
from tvr_bench.media.joins import Join, find_joins, shift_at, shifted
from tvr_bench.media.marks import Mark, Packets, scan

_MAX_SECONDS = 172_800  # two days; a longer clock is a broken one


class IndexedFrame(NamedTuple):
    """One frame that is shown: its time stamp and the place of its packet in decode order."""

    pts: int
    position: int


@dataclass(frozen=True)
class PacketSource:
    """The packets of one stream by their positions: from memory, or from disk where too large.

    Those behind a place where recordings join carry the stamps of the one clock.
    """

    path: Path
    kept: Packets | None
    joins: list[Join]
    max_pixels: int

    def take(self, wanted: list[int]) -> Iterator[tuple[int, Packet[VideoStream]]]:
        """Yield the packets at the positions `wanted`, ascending."""
        if not wanted:
            return
        if self.kept is not None:
            yield from ((i, self.kept[i]) for i in wanted)
            return
        with open_stream(self.path, self.max_pixels) as (container, stream):
            filled = enumerate(p for p in container.demux(stream) if p.size)
            chosen = set(wanted)
            for i, packet in islice(filled, wanted[-1] + 1):
                if i in chosen:
                    yield i, restamped(packet, shift_at(self.joins, i))


def restamped(packet: Packet[VideoStream], shift: int) -> Packet[VideoStream]:
    """Return `packet` with its stamps `shift` ticks later."""
    if shift:
        packet.pts = None if packet.pts is None else packet.pts + shift
        packet.dts = None if packet.dts is None else packet.dts + shift
    return packet


@dataclass(frozen=True)
class PacketIndex:
    """When each frame is shown, and which packets make it.

    `ticks` (units of `time_base`) has one entry per frame, each above the one before, 0 for the
    first; `end` is the tick at which the last one goes. `feed` is the packets a decoder may be
    given, ascending, `keys` those to start at, `partial` those that show no frame of their own,
    `broken` those that the container knows to be not whole. `holes` are the stamps of the frames
    after which the clock skips a step, as it does where a packet was lost.
    `frames` is None where the container's clock cannot be trusted: there the order in which a
    decoder hands out the frames of the whole stream is the only truth.
    """

    path: Path
    time_base: Fraction
    ticks: list[int]
    end: int
    feed: list[int]
    frames: list[IndexedFrame] | None
    keys: list[IndexedFrame]
    partial: frozenset[int]
    broken: frozenset[int]
    holes: list[int]
    source: PacketSource

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

    def is_gapless(self, start: IndexedFrame, last: int) -> bool:
        """Say whether no packet is missing from `start` to the group of pictures of `last`."""
        at = bisect_right(self.keys, last, key=lambda k: k.position)
        first = bisect_left(self.holes, start.pts)
        return first == len(self.holes) or (
            at < len(self.keys) and self.holes[first] >= self.keys[at].pts
        )

    def packets(self, first: int, last: int) -> Iterator[tuple[int, Packet[VideoStream]]]:
        """Yield the packets to feed from position `first` to `last`, with their positions.

        Those that complete the frame of `last` come with it.
        """
        until = bisect_right(self.feed, last)
        while until < len(self.feed) and self.feed[until] in self.partial:
            until += 1
        return self.source.take(self.feed[bisect_left(self.feed, first) : until])


def index_packets(
    path: Path, container: InputContainer, stream: VideoStream, max_pixels: int = MAX_PIXELS
) -> PacketIndex:
    """List the packets of `stream`, drop what a broken end left incomplete, time the frames.

    A stream that is too large for memory is opened again, with the same limit of `max_pixels`.
    Raises `VideoError` where no frame is left.
    """
    every, kept = scan(path, container, stream)
    joins = find_joins(every, container.format.name, float(time_base_of(stream)))
    source = PacketSource(path, _on_one_clock(kept, joins), joins, max_pixels)
    every = shifted(every, joins)
    marks = without_broken_tail(every, container.format.name)
    if container.format.name == "gif" and lacks_end_mark(path, b";"):
        marks = every[:-1]  # cut in the middle of the last picture
    marks, feed, timed = _fed(marks, source, container, stream)
    frames = None
    if timed:
        frames = sorted(IndexedFrame(_pts(marks[i]), i) for i in feed if marks[i].shown)
    ticks = plain_clock(path, marks, feed, stream) if frames is None else [f.pts for f in frames]
    left_out = every[len(marks) :]
    ticks = ticks[: certain_count(path, marks, ticks, left_out, timed, container, stream)]
    if not ticks:
        raise unreadable(path, "no whole video frame")
    if (ticks[-1] - ticks[0]) * time_base_of(stream) > _MAX_SECONDS:
        raise unreadable(path, f"its frames span more than {_MAX_SECONDS // 3600} hours")
    end = ticks[-1] - ticks[0] + last_length(marks, ticks, stream)
    ticks, finer = apart([t - ticks[0] for t in ticks], end)
    return PacketIndex(
        path=path,
        time_base=time_base_of(stream) / finer,
        ticks=ticks,
        end=end * finer,
        feed=feed,
        frames=frames,
        keys=_keys(marks, feed),
        partial=frozenset(i for i in feed if not marks[i].shown),
        broken=frozenset(i for i in feed if marks[i].corrupt),
        holes=holes_of([f.pts for f in frames or ()]),
        source=source,
    )


def _on_one_clock(kept: Packets | None, joins: list[Join]) -> Packets | None:
    """Return packets with the recordings that a file may consist of behind one another."""
    if not joins or kept is None:
        return kept
    return [restamped(packet, shift_at(joins, i)) for i, packet in enumerate(kept)]


def _fed(
    marks: list[Mark], source: PacketSource, container: InputContainer, stream: VideoStream
) -> tuple[list[Mark], list[int], bool]:
    """Return marks, what of them a decoder is given, and whether their stamps can be trusted.

    A stream that is cut at its start may lack the stamps of what comes before its first key frame.
    """
    key = next((i for i, m in enumerate(marks) if m.key), 0)
    if key and begins_with_invented(stream.codec_context, source.take(list(range(key)))):
        cause = f"it starts between key frames, and {key} pictures are made from what is not there"
        raise unreadable(source.path, cause)
    feed: list[int] = []
    for first in sorted({0, key}):
        feed = list(range(first, len(marks)))
        if feed and has_clock(marks, feed, container, stream):
            codec = stream.codec_context
            head = next(bytes(packet) for _, packet in source.take([first]))
            if is_clean(marks[first:], codec, head):
                return marks, feed, True
            found = without_lost_head(marks, feed, codec, source.take(feed))
            return (marks, feed, False) if found is None else (*found, True)
    return marks, feed, False


def _keys(marks: list[Mark], feed: list[int]) -> list[IndexedFrame]:
    """Return the packets to start at: the first one, and every key frame that will come out."""
    starts = [i for i in feed if i == feed[0] or (marks[i].key and marks[i].shown)]
    return [IndexedFrame(marks[i].pts or 0, i) for i in starts]


def _pts(mark: Mark) -> int:
    assert mark.pts is not None
    return mark.pts
