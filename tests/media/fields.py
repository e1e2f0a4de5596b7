"""Interlaced H.264 as camcorders write it: every frame as two fields, each a picture of its own.

No encoder at hand codes fields apart, so the stream is written bit by bit, of raw macroblocks.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av

_WIDE, _HIGH = 2, 1  # macroblocks of a field


class _Writer:
    def __init__(self) -> None:
        self.bits = ""

    def put(self, value: int, count: int) -> None:
        self.bits += f"{value:0{count}b}"

    def golomb(self, *values: int) -> None:
        for value in values:
            text = f"{value + 1:b}"
            self.bits += "0" * (len(text) - 1) + text

    def align(self) -> None:
        self.bits += "0" * (-len(self.bits) % 8)

    def unit(self, head: int) -> bytes:
        """Return what was written as a NAL unit."""
        self.put(1, 1)
        self.align()
        data = int(self.bits, 2).to_bytes(len(self.bits) // 8)
        return b"\0\0\0\1" + bytes([head]) + data


def _headers() -> bytes:
    sequence = _Writer()
    for byte in (77, 0, 30):  # profile, constraints, level
        sequence.put(byte, 8)
    sequence.golomb(0, 0, 2, 1)  # number, bits of the frame's number, order of output, references
    sequence.put(0, 1)
    sequence.golomb(_WIDE - 1, _HIGH - 1)
    sequence.put(0b00100, 5)  # fields are allowed; no mix within a frame
    picture = _Writer()
    picture.golomb(0, 0)
    picture.put(0, 2)
    picture.golomb(0, 0, 0)
    picture.put(0, 3)
    picture.golomb(0, 0, 0)
    picture.put(0b100, 3)
    return sequence.unit(0x67) + picture.unit(0x68)


def field_of(number: int, bottom: bool, gop: int) -> bytes:
    """Return one field of frame `number`; every `gop` frames the stream starts afresh."""
    fresh = number % gop == 0 and not bottom
    slice_ = _Writer()
    slice_.golomb(0, 7, 0)
    slice_.put(number % gop % 16, 4)
    slice_.put(2 + bottom, 2)
    if fresh:
        slice_.golomb(number // gop % 2)
    slice_.put(0, 2 if fresh else 1)
    slice_.golomb(0, 1)
    for block in range(_WIDE * _HIGH):
        slice_.golomb(25)
        slice_.align()
        value = 40 + (number * 11 + bottom * 60 + block * 23) % 180
        slice_.bits += f"{value:08b}" * 384
    return (_headers() if fresh else b"") + slice_.unit(0x65 if fresh else 0x61)


def make_fields(path: Path, count: int, together: bool = False, gop: int = 6) -> Path:
    """Write `count` frames at 25 per second; with `together` both fields lie in one packet."""
    raw = path.with_suffix(".h264")
    fields = [field_of(n // 2, n % 2 == 1, gop) for n in range(2 * count)]
    raw.write_bytes(b"".join(fields))
    with av.open(str(raw)) as source, av.open(str(path), "w") as file:
        stream = file.add_stream_from_template(source.streams.video[0])
        step = 2 if together else 1
        for n in range(0, len(fields), step):
            packet = av.Packet(b"".join(fields[n : n + step]))
            packet.pts = packet.dts = n
            packet.time_base, packet.stream = Fraction(1, 50), stream
            packet.is_keyframe = n % (2 * gop) == 0
            file.mux(packet)
    raw.unlink()
    return path
