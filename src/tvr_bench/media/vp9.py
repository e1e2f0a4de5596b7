"""The pictures of a VP9 packet: how many of them are shown."""

from __future__ import annotations


def shown_pictures(packet: bytes) -> int:
    """Return how many pictures in `packet` come out of a decoder; 0 for a reference on its own."""
    return sum(_is_shown(packet[start]) for start in _starts(packet))


def is_hidden(packet: bytes) -> bool:
    """Say whether no frame comes out for `packet`; `ValueError` where several do."""
    shown = shown_pictures(packet)
    if shown > 1:
        raise ValueError("a packet shows several pictures and has one time for them")
    return not shown


def _is_shown(head: int) -> bool:
    """Read the first byte of a picture: the picture itself is shown, or an earlier one is."""
    again, shown = (4, 1) if head >> 4 & 3 == 3 else (8, 2)
    # Where the fourth profile shifts the bits, the last one is in the first byte all the same.
    return bool(head & again) or bool(head & shown)


def _starts(packet: bytes) -> list[int]:
    """Return where each picture begins: several may be packed with an index behind them."""
    mark = packet[-1]
    count, width = (mark & 7) + 1, (mark >> 3 & 3) + 1
    index = 2 + count * width
    if mark >> 5 != 6 or len(packet) < index or packet[-index] != mark:
        return [0]
    starts, at = [], 0
    for i in range(count):
        place = len(packet) - index + 1 + i * width
        size = int.from_bytes(packet[place : place + width], "little")
        if size and at < len(packet) - index:
            starts.append(at)
        at += size
    return starts
