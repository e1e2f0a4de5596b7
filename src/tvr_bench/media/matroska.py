"""What a Matroska or WebM file says of the part of its pictures that is to be shown.

FFmpeg reads it, and hands it to nobody who asks through PyAV. A file of another format, or one that
is damaged before its tracks, says nothing here; the decoder has its own words for that.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

_HEADER, _SEGMENT, _TRACKS, _CLUSTER = 0x1A45DFA3, 0x18538067, 0x1654AE6B, 0x1F43B675
_TRACK, _TYPE, _VIDEO, _IS_VIDEO = 0xAE, 0x83, 0xE0, 1
_FIELDS = {
    **{0x54BB: "top", 0x54AA: "bottom", 0x54CC: "left", 0x54DD: "right"},
    **{0x54B0: "display_width", 0x54BA: "display_height", 0x54B2: "display_unit"},
}
_MOST = 10_000  # elements looked at
_LONGEST = 8  # bytes of a number


class _Element(NamedTuple):
    id: int
    start: int  # of its content
    end: int


def shown_part(path: Path, number: int) -> dict[str, int]:
    """Return what the file says of its video track `number`, counted from 0.

    `top`, `bottom`, `left`, `right` are pixels that are not shown; `display_width` and
    `display_height`, in `display_unit`, are the proportions of what is. What is not said is left
    out. Raises `OSError` where the file cannot be read.
    """
    with open(path, "rb") as file:
        end = file.seek(0, io.SEEK_END)
        if _read_id(file, 0)[0] != _HEADER:
            return {}
        segment = next((e for e in _elements(file, 0, end) if e.id == _SEGMENT), None)
        tracks = segment and next((e for e in _top(file, segment) if e.id == _TRACKS), None)
        if not tracks:
            return {}
        videos = [
            parts
            for track in _elements(file, tracks.start, tracks.end)
            if track.id == _TRACK
            and (parts := {e.id: e for e in _elements(file, track.start, track.end)})
            and _TYPE in parts
            and _number(file, parts[_TYPE]) == _IS_VIDEO
        ]
        if number >= len(videos) or _VIDEO not in videos[number]:
            return {}
        video = videos[number][_VIDEO]
        fields = (e for e in _elements(file, video.start, video.end) if e.id in _FIELDS)
        return {_FIELDS[e.id]: _number(file, e) for e in fields}


def cuts_pictures(path: Path) -> bool | None:
    """Say whether the file was cut within its pictures, None where it does not know its size.

    Raises `OSError` where the file cannot be read.
    """
    with open(path, "rb") as file:
        end, at = file.seek(0, io.SEEK_END), 0
        while at < end:
            kind, size_at = _read_id(file, at)
            size, body = _read_size(file, size_at)
            if not kind:
                return None
            if kind == _SEGMENT:
                if size is not None and body + size <= end:
                    return False
                at = body
            elif size is None:
                return None
            elif body + size > end:
                return kind == _CLUSTER
            else:
                at = body + size
    return False


def _top(file: BinaryIO, segment: _Element) -> Iterator[_Element]:
    """Yield the elements of a segment, up to a cluster that does not say where it ends."""
    for element in _elements(file, segment.start, segment.end):
        if element.id == _CLUSTER and element.end == segment.end:
            return
        yield element


def _elements(file: BinaryIO, start: int, end: int) -> Iterator[_Element]:
    for _ in range(_MOST):
        if start >= end:
            return
        kind, at = _read_id(file, start)
        size, body = _read_size(file, at)
        if not kind or body > end:
            return
        stop = end if size is None else min(end, body + size)
        yield _Element(kind, body, stop)
        start = stop


def _read_id(file: BinaryIO, at: int) -> tuple[int, int]:
    """Return an element's id, 0 where there is none, and where its size stands."""
    file.seek(at)
    first = file.read(1)
    length = 9 - first[0].bit_length() if first else 9
    if length > 4:
        return 0, at
    return int.from_bytes(first + file.read(length - 1), "big"), at + length


def _read_size(file: BinaryIO, at: int) -> tuple[int | None, int]:
    """Return an element's size, None where it is not known, and where its content begins."""
    file.seek(at)
    first = file.read(1)
    length = 9 - first[0].bit_length() if first else 9
    if length > _LONGEST:
        return None, at + 1
    every = (1 << 7 * length) - 1
    value = int.from_bytes(first + file.read(length - 1), "big") & every
    return (None if value == every else value), at + length


def _number(file: BinaryIO, element: _Element) -> int:
    file.seek(element.start)
    return int.from_bytes(file.read(min(_LONGEST, element.end - element.start)), "big")
