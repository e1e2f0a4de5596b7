"""Decode chosen frames of a stream, as few others as possible, bit for bit as in a whole decode."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType, VideoFrame

from tvr_bench.media.demux import unreadable
from tvr_bench.media.packets import IndexedFrame, PacketIndex

_REORDERED = 16  # frames: as far as H.264 and HEVC may show a frame before one that it is made from
# Decoders that can leave out a picture nobody refers to without a trace in any other one.
_CAN_SKIP = frozenset({"h264", "mpeg4", "mpeg1video", "mpeg2video"})


@dataclass
class _Run:
    """Packets to decode in one go, from a key frame to the last packet that is wanted."""

    start: IndexedFrame
    wanted: dict[int, int]  # position of the packet -> number of the frame, in decode order

    @property
    def last(self) -> int:
        return max(self.wanted)


class Decoder:
    """Hands out frames of one stream by number; a frame it cannot vouch for is a `VideoError`."""

    def __init__(self, index: PacketIndex, codec: VideoCodecContext) -> None:
        self._index = index
        self._codec = codec

    def frames(self, numbers: Iterable[int]) -> Iterator[tuple[int, VideoFrame]]:
        """Yield (number, frame) once for each of `numbers`, in any order."""
        wanted = set(numbers)
        if self._index.frames is None:
            yield from self._counted(wanted)
            return
        for run in self._runs(wanted):
            for number, frame in self._jump(run):
                wanted.discard(number)
                yield number, frame
        if wanted:
            yield from self._from_the_start(wanted)

    def shares(self, numbers: Iterable[int], count: int) -> list[list[int]]:
        """Return `numbers` in at most `count` parts of like work, which share no packet."""
        if self._index.frames is None:
            return [list(numbers)]
        runs = sorted(self._runs(set(numbers)), key=lambda r: r.start.position - r.last)
        parts: list[list[int]] = [[] for _ in range(min(count, len(runs)))]
        work = [0] * len(parts)
        for run in runs:  # the longest first, each to whoever has least to do
            least = work.index(min(work))
            parts[least] += run.wanted.values()
            work[least] += run.last - run.start.position + 1
        return parts

    def _runs(self, numbers: Iterable[int]) -> list[_Run]:
        """Return what to decode for `numbers`, jumping where a key frame lies in between."""
        frames = self._index.frames
        assert frames is not None
        runs: list[_Run] = []
        for number in sorted(numbers, key=lambda n: frames[n].position):
            frame = frames[number]
            start = self._index.start_of(frame)
            if not runs or start.position > runs[-1].last:
                runs.append(_Run(start, {}))
            runs[-1].wanted[frame.position] = number
        return runs

    def _jump(self, run: _Run) -> Iterator[tuple[int, VideoFrame]]:
        """Yield the frames of `run`; fewer where its start is not what the container says.

        Whatever goes wrong after a jump is tried again from the start, which alone decides.
        """
        try:
            trusted = run.start.position == self._index.feed[0]
            # where a packet is missing the decoder makes one up from whatever it decoded last
            skip = self._codec.name in _CAN_SKIP and self._index.is_gapless(run.start, run.last)
            for number, frame in self._decode(run, skip):
                if frame.pts == run.start.pts:
                    trusted = trusted or (frame.key_frame and frame.pict_type == PictureType.I)
                if number is not None and trusted:
                    yield number, frame
        except Exception:
            return

    def _from_the_start(self, numbers: Iterable[int]) -> Iterator[tuple[int, VideoFrame]]:
        frames = self._index.frames
        assert frames is not None
        wanted = {frames[n].position: n for n in numbers}
        run = _Run(self._index.keys[0], wanted)
        missing = set(numbers)
        for number, frame in self._decode(run, skip=False):
            if number is not None:
                missing.discard(number)
                yield number, frame
        if missing:
            second = float(self._index.ticks[min(missing)] * self._index.time_base)
            raise unreadable(self._index.path, f"the frame at {second:.2f} s does not decode")

    def _decode(self, run: _Run, skip: bool) -> Iterator[tuple[int | None, VideoFrame]]:
        """Yield every frame that comes out of `run` with its number, None if it is not wanted.

        A frame that was made from a damaged one may come out before it, so one that is wanted is
        held back until what could follow has come.
        """
        frames = self._index.frames
        assert frames is not None
        numbers = {frames[n].pts: n for n in run.wanted.values()}
        needed = {run.start.position, *run.wanted}
        held: deque[tuple[int, int, VideoFrame]] = deque()  # when it came, its number
        damaged: set[int] = set()  # positions
        feed = self._feed(run.start.position, run.last, needed if skip else None)
        for count, frame in enumerate(feed):
            number = None if frame.pts is None else numbers.get(frame.pts)
            if frame.is_corrupt:
                damaged |= self._positions(frame)
            if number is None:
                yield None, frame
            else:
                held.append((count, number, frame))
            while held and held[0][0] <= count - _REORDERED:
                yield self._vouched(*held.popleft()[1:], damaged)
        for _, number, frame in held:
            yield self._vouched(number, frame, damaged)

    def _positions(self, frame: VideoFrame) -> set[int]:
        """Return the position of the packet of `frame`, nothing where it has none of its own."""
        frames = self._index.frames
        assert frames is not None
        at = bisect_left(frames, frame.pts or 0, key=lambda f: f.pts)
        found = frame.pts is not None and at < len(frames) and frames[at].pts == frame.pts
        return {frames[at].position} if found else set()

    def _vouched(self, number: int, frame: VideoFrame, damaged: set[int]) -> tuple[int, VideoFrame]:
        """Return number and frame; raises `VideoError` where it rests on a damaged one.

        A stream that has no whole picture to start from repairs itself in its first frames; there
        the decoder's word on the frame itself is all there is.
        """
        frames = self._index.frames
        assert frames is not None
        start = self._index.start_of(frames[number]).position
        below = {p for p in damaged if start <= p < frames[number].position}
        if frame.is_corrupt or (below and start not in below):
            raise unreadable(self._index.path, "a damaged frame")
        return number, frame

    def _counted(self, numbers: set[int]) -> Iterator[tuple[int, VideoFrame]]:
        """Yield frames by their place in the decoder's order, which must account for every one."""
        feed = self._index.feed
        count = 0
        for frame in self._feed(feed[0], feed[-1], None):
            if count in numbers:
                yield count, frame
            count += 1
        if count != len(feed):
            cause = f"no usable time stamps, and {len(feed)} packets make {count} frames"
            raise unreadable(self._index.path, cause)

    def _feed(self, first: int, last: int, needed: set[int] | None) -> Iterator[VideoFrame]:
        """Decode packets `first` to `last`; with `needed`, others may leave no frame behind."""
        codec = self._codec
        codec.flush_buffers()
        for position, packet in self._index.packets(first, last):
            if position in self._index.broken:
                raise unreadable(self._index.path, "a broken packet")
            if position not in self._index.partial:  # what completes a frame shares its fate
                chosen = needed is None or position in needed
                codec.skip_frame = "DEFAULT" if chosen else "NONREF"
            yield from codec.decode(packet)
        yield from codec.decode(None)
