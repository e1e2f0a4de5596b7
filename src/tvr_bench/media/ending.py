"""Where a stream really ends: whether its file was cut, and which of its last frames are certain.

A container's own duration tells nothing of that: sound or subtitles may outlast the picture. What
tells is an element of the file that reaches past the file's end; where a format has none, a hole in
an otherwise even clock, for pictures that are shown early are stored late.
"""

from __future__ import annotations

import io
from bisect import bisect_left, bisect_right
from itertools import pairwise
from pathlib import Path
from statistics import median

from av.container import InputContainer
from av.video.stream import VideoStream

from tvr_bench.media.boxes import reaches_past_end
from tvr_bench.media.demux import unreadable
from tvr_bench.media.marks import Mark
from tvr_bench.media.matroska import cuts_pictures
from tvr_bench.media.riff import indexed_pictures

_EVEN = 0.95  # share of the steps that are equal in a stream of a fixed rate
_FEW = 8  # steps; fewer say nothing of a rate


def without_broken_tail(marks: list[Mark], container: str) -> list[Mark]:
    """Leave out the broken packets at a cut end."""
    end = len(marks)
    if container == "mpeg" and end > 1 and marks[-2].corrupt:
        return _without_last(marks)
    while end and marks[end - 1].corrupt:
        end -= 1
    return marks[:end]


def _without_last(marks: list[Mark]) -> list[Mark]:
    """Leave out the last picture of a program stream whose last packet of many pictures is cut.

    All are flagged but the last, which is the cut one: it had no end when the flag was given, while
    the end of each of the others is the beginning of the next.
    """
    end = len(marks) - 1
    start = end
    while start and marks[start - 1].corrupt:
        start -= 1
    return marks[:start] + [m._replace(corrupt=False) for m in marks[start:end]]


def lacks_end_mark(path: Path, mark: bytes) -> bool:
    """Say whether the file does not end with `mark`."""
    with open(path, "rb") as file:
        file.seek(-len(mark), io.SEEK_END)
        return file.read() != mark


def certain_count(
    path: Path,
    marks: list[Mark],
    ticks: list[int],
    left_out: list[Mark],
    timed: bool,
    container: InputContainer,
    stream: VideoStream,
) -> int:
    """Return how many of the frames at `ticks` come before any that a cut file may lack.

    `left_out` are the broken packets at the end; `timed` says that `ticks` are those of packets.
    Raises `VideoError` where pictures are missing that no stamp gives a place to.
    """
    depth = stream.codec_context.reorder_depth
    cut = bool(left_out)
    if container.format.name == "avi":
        cut = _is_short_avi(path, marks, stream) or cut
    if not timed:
        return max(0, len(ticks) - depth * cut)  # what a decoder would still hold back
    lost = min((m.pts for m in left_out if m.pts is not None), default=None)
    if lost is not None:
        ticks = ticks[: bisect_left(ticks, lost)]
    if not depth or (not cut and _is_whole(path, marks, container, stream)):
        return len(ticks)
    last = marks[-1].dts
    sure = max(1, len(ticks) - depth) if last is None else bisect_right(ticks, last)
    return sure if _has_hole(ticks, sure) else len(ticks)


def _is_short_avi(path: Path, marks: list[Mark], stream: VideoStream) -> bool:
    listed = indexed_pictures(path, stream.index, stream.frames)
    if listed is not None and listed > len(marks):
        cause = f"{listed - len(marks)} of {listed} pictures are missing in the middle"
        raise unreadable(path, cause)  # and without time stamps nobody knows where
    return listed is None and stream.frames > len(marks)


def _is_whole(
    path: Path, marks: list[Mark], container: InputContainer, stream: VideoStream
) -> bool:
    """Say whether the file is known to have its end; not all formats tell."""
    if container.format.name.startswith("matroska"):
        return cuts_pictures(path) is False
    if container.format.name.startswith("mov"):
        # without fragments the header lists the pictures, and how many there are
        listed = bool(stream.frames) and stream.frames <= len(marks)
        return listed or not reaches_past_end(path)
    return False


def _has_hole(ticks: list[int], sure: int) -> bool:
    """Say whether an even clock skips a step behind the first `sure` frames."""
    steps = [b - a for a, b in pairwise(ticks)]
    before, after = steps[: max(0, sure - 1)], steps[max(0, sure - 1) :]
    if len(before) < _FEW or not after:
        return False
    usual = median(before)
    even = sum(abs(s - usual) <= max(1, usual / 50) for s in before) / len(before)
    return even >= _EVEN and max(after) >= 1.5 * usual
