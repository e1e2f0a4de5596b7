"""The fields of H.264: which packets hold the second half of an interlaced frame.

Camcorders and broadcasters may code a frame as two fields, each in a packet of its own; one frame
comes out of the decoder for both, with the time stamp of the first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tvr_bench.media.bits import Bits

_SLICE, _IDR, _SEQUENCE, _PICTURE = 1, 5, 7, 8  # kinds of NAL units; 1 and 5 hold pictures
_EXTENDED = frozenset({44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244})  # profiles
_HEAD = 64  # bytes of a slice that hold its first numbers, and more


class _Sequence(NamedTuple):
    """What a sequence header says of the heads of slices."""

    planes: bool  # three colour planes are coded apart
    frame_bits: int
    interlaced: bool


class _Field(NamedTuple):
    """One field: the number of its frame, and whether it is the bottom one."""

    frame: int
    bottom: bool


def units(data: bytes, prefix: int) -> Iterator[bytes]:
    """Yield the NAL units of a packet: `prefix` bytes of length before each, 0 for start codes."""
    if not prefix:
        yield from (unit for unit in data.split(b"\0\0\1")[1:] if unit)
        return
    at = 0
    while at + prefix < len(data):
        size = int.from_bytes(data[at : at + prefix])
        at += prefix
        if size:
            yield data[at : at + size]
        at += size


def prefix_of(extradata: bytes) -> int:
    """Return how many bytes of length come before each NAL unit; 0 where start codes do."""
    return (extradata[4] & 3) + 1 if len(extradata) > 6 and extradata[0] == 1 else 0


def starts_whole(extradata: bytes, packet: bytes) -> bool:
    """Say whether nothing that was shown or decoded before `packet` is needed after it."""
    return any(unit[0] & 31 == _IDR for unit in units(packet, prefix_of(extradata)))


class Fields:
    """Tells second fields from whatever else the packets of one stream hold, in their order."""

    def __init__(self, extradata: bytes, first: bytes) -> None:
        """Read the headers, which are in the container's own (`extradata`) or in packet `first`."""
        self._prefix = prefix_of(extradata)
        self._sequences: dict[int, _Sequence] = {}
        self._pictures: dict[int, int] = {}  # a picture header's number -> its sequence header's
        self._waiting: _Field | None = None  # the first field of a frame, until the other has come
        for unit in (*_headers(extradata), *units(first, self._prefix)):
            self._learn(unit)

    @property
    def possible(self) -> bool:
        """Whether any frame of the stream may consist of fields."""
        return any(sequence.interlaced for sequence in self._sequences.values())

    def completes(self, packet: bytes) -> bool:
        """Say whether `packet` holds the second field of the frame before, and nothing else."""
        fields: set[_Field | None] = set()
        for unit in units(packet, self._prefix):
            if unit[0] & 31 in (_SEQUENCE, _PICTURE):
                self._learn(unit)
            elif unit[0] & 31 in (_SLICE, _IDR):
                fields.add(self._field(unit))
        first = self._waiting
        self._waiting = None
        if len(fields) != 1:  # a whole frame of two fields
            return False
        (field,) = fields
        if field is None:  # a whole frame that is one picture
            return False
        if first is not None and first == _Field(field.frame, not field.bottom):
            return True
        self._waiting = field
        return False

    def _learn(self, unit: bytes) -> None:
        bits = Bits(_plain(unit[1:]))
        if unit[0] & 31 == _SEQUENCE:
            number, sequence = _sequence(bits)
            self._sequences[number] = sequence
        elif unit[0] & 31 == _PICTURE:
            number = bits.golomb()
            self._pictures[number] = bits.golomb()

    def _field(self, unit: bytes) -> _Field | None:
        """Return the field that a slice is a part of, None where it is a part of a whole frame."""
        bits = Bits(_plain(unit[1:_HEAD]))
        bits.golomb()
        bits.golomb()
        sequence = self._sequences.get(self._pictures.get(bits.golomb(), -1))
        if sequence is None or not sequence.interlaced:
            return None
        if sequence.planes:
            bits.read(2)
        frame = bits.read(sequence.frame_bits)
        return _Field(frame, bool(bits.read(1))) if bits.read(1) else None


def _headers(extradata: bytes) -> Iterator[bytes]:
    """Yield the headers that stand before the stream."""
    if not prefix_of(extradata):
        yield from units(extradata, 0)
        return
    at = 5
    for mask in (31, 255):  # how many sequence headers, then how many picture headers
        count = extradata[at] & mask if at < len(extradata) else 0
        at += 1
        for _ in range(count):
            size = int.from_bytes(extradata[at : at + 2])
            unit = extradata[at + 2 : at + 2 + size]
            at += 2 + size
            if unit:
                yield unit


def _plain(data: bytes) -> bytes:
    """Take out the bytes that keep a start code from appearing in the data."""
    return data.replace(b"\0\0\3", b"\0\0")


def _sequence(bits: Bits) -> tuple[int, _Sequence]:
    profile = bits.read(8)
    bits.read(16)
    number = bits.golomb()
    planes = False
    if profile in _EXTENDED:
        planes = _skip_colours(bits)
    frame_bits = bits.golomb() + 4
    order = bits.golomb()
    if order == 0:
        bits.golomb()
    elif order == 1:
        bits.read(1)
        bits.golomb()
        bits.golomb()
        for _ in range(min(255, bits.golomb())):
            bits.golomb()
    bits.golomb()
    bits.read(1)
    bits.golomb()
    bits.golomb()
    return number, _Sequence(planes, frame_bits, not bits.read(1))


def _skip_colours(bits: Bits) -> bool:
    """Read past the fields of the better profiles; return whether planes are coded apart."""
    chroma = bits.golomb()
    planes = chroma == 3 and bool(bits.read(1))
    bits.golomb()
    bits.golomb()
    bits.read(1)
    if bits.read(1):
        for table in range(12 if chroma == 3 else 8):
            if bits.read(1):
                _skip_scaling(bits, 16 if table < 6 else 64)
    return planes


def _skip_scaling(bits: Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            code = bits.golomb()
            delta = (code + 1) // 2 if code % 2 else -(code // 2)
            following = (last + delta) % 256
        last = following or last
