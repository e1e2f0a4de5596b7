"""The boxes of an MP4 or MOV file, looked at before FFmpeg believes them.

A table of a few bytes can promise millions of samples, and FFmpeg keeps 24 bytes for each; a packed
header can unfold to gigabytes. A file of another format ends the walk at its first bytes.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

_MAX_SAMPLES = 4_000_000  # a day of sound, or of pictures at 46 per second; 100 MB in memory
_MAX_BOXES = 1_000_000  # a file in fragments has half a dozen boxes for each
_SOUND = struct.unpack(">I", b"soun")
_PARENTS = frozenset({b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf"})


class _Box(NamedTuple):
    kind: bytes
    start: int  # of its content
    end: int
    claims: int  # where it would end in a whole file


@dataclass
class _Table:
    """What one track, or one fragment of it, says of its samples."""

    samples: int = 0
    is_sound: bool = False
    of_one_tick: bool = False

    @property
    def entries(self) -> int:
        """How many entries FFmpeg makes; of plain sound one per 1,024 samples, or fewer."""
        return self.samples // 1024 if self.is_sound and self.of_one_tick else self.samples


def why_unsafe(path: Path) -> str | None:
    """Return what in the header of `path` would unfold to more than memory holds, None if nothing.

    Raises `OSError` where the file cannot be read.
    """
    tables = [_Table()]
    with open(path, "rb") as file:
        for number, box in enumerate(_boxes(file, 0, file.seek(0, io.SEEK_END))):
            table = tables[-1]
            match box.kind:
                case b"trak":
                    tables.append(_Table())
                case b"hdlr":
                    table.is_sound = _numbers(file, box, 8, 1) == _SOUND or table.is_sound
                case b"stsz":
                    table.samples = max(table.samples, *_numbers(file, box, 8, 1))
                case b"stts":
                    table.of_one_tick = _numbers(file, box, 4, 3)[::2] == (1, 1)
                case b"trun":
                    tables.append(_Table(_numbers(file, box, 4, 1)[0]))
                case b"cmov":
                    return "its header is packed"
            if number == _MAX_BOXES:
                return f"it has more than {_MAX_BOXES:,} boxes"
    promised = sum(table.entries for table in tables)
    return f"its header promises {promised:,} frames" if promised > _MAX_SAMPLES else None


def reaches_past_end(path: Path) -> bool:
    """Say whether the last box of `path` claims more bytes than the file has: it was cut."""
    with open(path, "rb") as file:
        end, at = file.seek(0, io.SEEK_END), 0
        for _ in range(_MAX_BOXES):
            box = _box(file, at, end)
            if box is None:
                return at < end
            at = box.end
            if box.claims > end:
                return True
    return False


def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[_Box]:
    """Yield the boxes between two places of a file, those inside others after their parent."""
    open_ends = [(start, end)]
    while open_ends:
        start, end = open_ends.pop()
        box = _box(file, start, end)
        if box is None:
            continue
        yield box
        open_ends.append((box.end, end))
        if box.kind in _PARENTS:
            open_ends.append((box.start, box.end))


def _box(file: BinaryIO, start: int, end: int) -> _Box | None:
    if end - start < 8:
        return None
    file.seek(start)
    size, kind = struct.unpack(">I4s", file.read(8))
    content = start + 8
    if size == 1 and end - start >= 16:
        (size,) = struct.unpack(">Q", file.read(8))
        content += 8
    elif size == 0:
        size = end - start
    # a box that claims to reach past the end of a cut file is still read by FFmpeg
    claims = start + size
    return _Box(kind, content, min(claims, end), claims) if claims >= content else None


def _numbers(file: BinaryIO, box: _Box, skip: int, count: int) -> tuple[int, ...]:
    """Return `count` numbers of 32 bits of a box, zeros where it is too short."""
    file.seek(box.start + skip)
    data = file.read(min(4 * count, max(0, box.end - box.start - skip)))
    return struct.unpack(f">{count}I", data.ljust(4 * count, b"\0"))
