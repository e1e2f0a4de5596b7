"""Recordings that were joined by appending one file to another: their clocks, made one.

A recording's decode times never go back. Where they do, another recording starts; in MPEG streams,
which are made to be cut and appended, a long jump forward to a key frame is one as well, as
FFmpeg's own tools have it.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise
from statistics import median
from typing import NamedTuple

from tvr_bench.media.marks import Mark

_FORWARD_S = 10.0  # FFmpeg's limit for a step of the clock
_FORWARD_STEPS = 100  # and this many of the usual steps: slides may stay for minutes
_BACK_S = 1.0  # less, and not to a key frame, is an untidy clock
_SPOILT = 3  # packets before the seam that a demuxer may flag, for the counters do not match
_MPEG = ("mpegts", "mpeg")
_OWN_CLOCK = frozenset({"avi", "gif", "mov,mp4,m4a,3gp,3g2,mj2"})  # their tables make the stamps


class Join(NamedTuple):
    """A place in decode order from which on all stamps are `shift` ticks later."""

    position: int
    shift: int


def find_joins(marks: list[Mark], container: str, time_base: float) -> list[Join]:
    """Return where recordings join, and the shifts that put each behind the one before.

    `time_base` is the seconds of a tick.
    """
    if container in _OWN_CLOCK:
        return []
    if container.startswith("matroska"):  # it knows no decode times
        starts = _by_key_frames(marks, _BACK_S / time_base)
    else:
        starts = _by_decode_time(marks, time_base, container in _MPEG)
    joins: list[Join] = []
    end = 0
    for first, last in pairwise([0, *starts, len(marks)]):
        stamps = sorted(m.pts for m in marks[first:last] if m.pts is not None and m.shown)
        if not stamps:
            continue
        shift = end - stamps[0] if first else 0
        if first:
            joins.append(Join(first, shift))
        end = stamps[-1] + shift + _step(stamps, marks[last - 1].duration)
    return joins


def _step(stamps: list[int], duration: int) -> int:
    steps = [b - a for a, b in pairwise(stamps) if b > a]
    return round(median(steps)) if steps else max(1, duration)


def _by_decode_time(marks: list[Mark], time_base: float, jumps: bool) -> list[int]:
    timed = [(i, m.dts) for i, m in enumerate(marks) if m.dts is not None]
    steps = [(i, dts - before) for (_, before), (i, dts) in pairwise(timed)]
    usual = median(s for _, s in steps if s > 0) if any(s > 0 for _, s in steps) else 0
    far = max(_FORWARD_S / time_base, _FORWARD_STEPS * usual)
    back = -_BACK_S / time_base
    starts = []
    for n, (i, step) in enumerate(steps):
        ahead = jumps and step > far and marks[i].key
        # one spoilt stamp jumps ahead and is followed by a step back to where the clock was
        again = step < back or (step < 0 and marks[i].key)
        if ahead or (again and (n == 0 or step + steps[n - 1][1] <= 0)):
            starts.append(i)
    return starts


def _by_key_frames(marks: list[Mark], back: float) -> list[int]:
    """Find key frames that would be shown before what was decoded before them, by `back` ticks.

    A stamp that comes twice shows a second clock at any distance. Where every packet is a key frame
    it alone does, for such a stream may be stored out of order.
    """
    stamps = [m.pts for m in marks if m.shown]
    twice = len(set(stamps)) < len(stamps)
    if not twice and all(m.key for m in marks):
        return []
    back = 0 if twice else back
    starts = []
    latest: int | None = None
    for i, mark in enumerate(marks):
        if mark.pts is None or not mark.shown:
            continue
        if mark.key and latest is not None and mark.pts < latest - back:
            starts.append(i)
            latest = mark.pts
        latest = mark.pts if latest is None else max(latest, mark.pts)
    return starts


def shift_at(joins: list[Join], position: int) -> int:
    """Return by how many ticks the stamps of the packet at `position` are moved."""
    at = bisect_right(joins, position, key=lambda j: j.position)
    return joins[at - 1].shift if at else 0


def is_seam(joins: list[Join], position: int) -> bool:
    """Say whether the packet at `position` lies where two recordings meet."""
    return any(j.position - _SPOILT <= position <= j.position for j in joins)


def shifted(marks: list[Mark], joins: list[Join]) -> list[Mark]:
    """Return the marks on one clock."""
    if not joins:
        return marks
    moved = []
    for i, mark in enumerate(marks):
        by = shift_at(joins, i)
        pts, dts = (None if s is None else s + by for s in (mark.pts, mark.dts))
        flagged = mark.corrupt and not is_seam(joins, i)  # the decoder judges what lies at a seam
        moved.append(mark._replace(pts=pts, dts=dts, corrupt=flagged))
    return moved
