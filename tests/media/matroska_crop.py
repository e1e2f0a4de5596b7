"""A Matroska file whose container asks for a part of each picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from make_clips import make_clip

_CROPS = {"top": b"\x54\xbb", "bottom": b"\x54\xaa", "left": b"\x54\xcc", "right": b"\x54\xdd"}


def make_cropped(path: Path, *, edges: dict[str, int], **how: Any) -> Path:
    """Write a clip that hides so many pixels at each of its `edges`."""
    make_clip(path, container={"write_crc32": "0", "cluster_size_limit": "100000"}, **how)
    data = path.read_bytes()
    added = b"".join(_CROPS[edge] + b"\x81" + bytes([pixels]) for edge, pixels in edges.items())
    segment = _body(data, data.index(b"\x18\x53\x80\x67"), 4)
    tracks = _child(data, segment, b"\x16\x54\xae\x6b")
    entry = _child(data, _body(data, tracks, 4), b"\xae")
    video = _child(data, _body(data, entry, 1), b"\xe0")
    for at, width in ((video, 1), (entry, 1), (tracks, 4)):
        size, length = _size(data, at + width)
        longer = (size + len(added)) | 1 << 7 * length
        data = data[: at + width] + longer.to_bytes(length, "big") + data[at + width + length :]
    end = _body(data, video, 1) + _size(data, video + 1)[0] - len(added)
    path.write_bytes(data[:end] + added + data[end:])
    return path


def _size(data: bytes, at: int) -> tuple[int, int]:
    """Return an element's size and the bytes that it is written in."""
    length = 9 - data[at].bit_length()
    value = int.from_bytes(data[at : at + length], "big")
    return value & (1 << 7 * length) - 1, length


def _body(data: bytes, at: int, width: int) -> int:
    return at + width + _size(data, at + width)[1]


def _child(data: bytes, at: int, wanted: bytes) -> int:
    """Return where the first element `wanted` begins among those that begin at `at`."""
    while data[at : at + len(wanted)] != wanted:
        width = 9 - data[at].bit_length()
        size, length = _size(data, at + width)
        at += width + length + size
    return at
