"""The index at the end of an AVI file: how many pictures it had when it was written."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

_ENTRY = np.dtype([("kind", "S4"), ("flags", "<u4"), ("place", "<u4"), ("size", "<u4")])
_REACH = 8  # entries of all streams for each picture, at most
_MARGIN = 1 << 16  # bytes


def indexed_pictures(path: Path, stream: int, expected: int) -> int | None:
    """Return how many pictures of `stream` the index lists, None where the file has no whole one.

    `expected` pictures by the header: how far from the end the index is looked for. Empty entries,
    which repeat a picture, do not count.
    """
    with open(path, "rb") as file:
        reach = _ENTRY.itemsize * _REACH * max(0, expected) + _MARGIN
        file.seek(max(0, file.seek(0, io.SEEK_END) - reach))
        tail = file.read()
    at = tail.rfind(b"idx1")
    size = int.from_bytes(tail[at + 4 : at + 8], "little")
    if at < 0 or size % _ENTRY.itemsize or len(tail) < at + 8 + size:
        return None
    entries = np.frombuffer(tail, _ENTRY, size // _ENTRY.itemsize, at + 8)
    pictures = np.isin(entries["kind"], [b"%02ddc" % stream, b"%02ddb" % stream])
    return int((pictures & (entries["size"] > 0)).sum())
