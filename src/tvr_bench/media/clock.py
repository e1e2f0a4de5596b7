"""When frames are shown: by the stamps of their packets, or by their order where those mislead."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import groupby
from pathlib import Path

import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from tvr_bench.media.demux import unreadable
from tvr_bench.media.marks import Mark

_SKIPS = 1.6  # usual steps; two fields and three fields take turns in film shown at 30 per second


def time_base_of(stream: VideoStream) -> Fraction:
    """Return the seconds of a tick; a stream without a clock is not opened at all."""
    assert stream.time_base is not None
    return stream.time_base


def has_clock(
    marks: list[Mark], feed: list[int], container: InputContainer, stream: VideoStream
) -> bool:
    """Say whether the time stamp of a packet is the time at which its frame is shown."""
    pts = [marks[i].pts for i in feed if marks[i].shown]
    if None in pts or len(set(pts)) < len(pts):
        return False
    if not stream.codec_context.has_b_frames:
        return True
    # AVI and ASF know only the decode order, and so does a remux of them; what FFmpeg makes of that
    # is a guess, wrong where B-frames are packed with their reference and an empty packet follows.
    decode_order = all(marks[i].pts == marks[i].dts for i in feed)
    by_order = decode_order or container.format.name in ("avi", "asf")
    return not (by_order or any(marks[i].still for i in feed))


def plain_clock(path: Path, marks: list[Mark], feed: list[int], stream: VideoStream) -> list[int]:
    """Return a tick for each frame of a stream that has no usable time stamps, ascending."""
    for stamps in ([marks[i].pts for i in feed], [marks[i].dts for i in feed]):
        if None not in stamps:
            return sorted(s for s in stamps if s is not None)
    if not stream.average_rate:
        raise unreadable(path, "neither time stamps nor a frame rate")
    step = 1 / (stream.average_rate * time_base_of(stream))
    return [round(i * step) for i in range(len(feed))]


def last_length(marks: list[Mark], ticks: list[int], stream: VideoStream) -> int:
    """Return for how many ticks the last frame is shown."""
    at = next((i for i in reversed(range(len(marks))) if marks[i].pts == ticks[-1]), None)
    # of a frame in two packets each tells its own half, or each the whole
    halved = at is not None and at + 1 < len(marks) and not marks[at + 1].shown
    if at is not None and not halved and marks[at].duration > 0:
        return marks[at].duration
    if len(ticks) > 1:
        return max(1, round((ticks[-1] - ticks[0]) / (len(ticks) - 1)))
    rate = stream.average_rate
    return max(1, round(1 / (rate * time_base_of(stream)))) if rate else 1


def holes_of(stamps: list[int]) -> list[int]:
    """Return those of the ascending `stamps` after which more than a usual step passes."""
    steps = np.diff(np.asarray(stamps, np.int64))
    if not len(steps):
        return []
    usual = np.sort(steps)[len(steps) // 2]  # the median, in a tenth of its time
    return [stamps[i] for i in np.flatnonzero(steps > _SKIPS * usual)]


def apart(ticks: list[int], end: int) -> tuple[list[int], int]:
    """Return ascending `ticks` with none twice, and how many times finer they are.

    A frame of its own has a time of its own: where several claim the same, the last keeps it, and
    those before share the time since the frame before. The first frame stays where it is, and those
    with it share half the time until the next one; `end` is the tick at which the last frame goes.
    """
    most = max(Counter(ticks).values())
    if most == 1:
        return ticks, 1
    finer = 2 * most
    groups = [(tick * finer, len(list(same))) for tick, same in groupby(ticks)]
    start, count = groups[0]
    following = groups[1][0] if len(groups) > 1 else max(end * finer, start + finer)
    spread = [start + n * (following - start) // (2 * count) for n in range(count)]
    for tick, count in groups[1:]:
        room = (tick - start) // 2 if start == groups[0][0] else tick - start
        spread += [tick - n * room // count for n in reversed(range(count))]
        start = tick
    return spread, finer
