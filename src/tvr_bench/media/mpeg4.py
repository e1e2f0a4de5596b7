"""The bits of MPEG-4 Part 2 that say whether a packet holds a picture or repeats the last one."""

from __future__ import annotations

from tvr_bench.media.bits import Bits

_LAYER = range(0x20, 0x30)  # the code of a header; that of a picture is 0xB6
_PICTURE = 0xB6
_RATES = 79  # bits of the buffer's parameters, which are not needed


def time_bits(header: bytes) -> int | None:
    """Return how many bits the time of a picture takes, by the header; None where there is none."""
    start = _find(header, _LAYER)
    if start is None:
        return None
    bits = Bits(header[start : start + 64])
    bits.read(9)
    version = 1
    if bits.read(1):
        version = bits.read(4)
        bits.read(3)
    if bits.read(4) == 15:  # the shape of a pixel is spelled out
        bits.read(16)
    if bits.read(1):
        bits.read(3)
        if bits.read(1):
            bits.read(_RATES)
    if bits.read(2) == 3 and version != 1:
        bits.read(4)
    bits.read(1)
    return max(1, (bits.read(16) - 1).bit_length())


def is_coded(packet: bytes, bits_of_time: int) -> bool:
    """Say whether the first picture in `packet` is coded, and so comes out of a decoder."""
    start = _find(packet, range(_PICTURE, _PICTURE + 1))
    if start is None:
        return False
    bits = Bits(packet[start : start + 64])
    bits.read(2)
    seconds = 0
    while bits.read(1) and seconds < 64:
        seconds += 1
    bits.read(1 + bits_of_time + 1)
    return bits.read(1) == 1


def _find(data: bytes, codes: range) -> int | None:
    """Return the place behind the first start code of `codes`."""
    at = data.find(b"\0\0\1")
    while 0 <= at < len(data) - 3:
        if data[at + 3] in codes:
            return at + 4
        at = data.find(b"\0\0\1", at + 3)
    return None
