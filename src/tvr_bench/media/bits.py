"""A reader of bits, for the few fields of a video stream that FFmpeg does not hand on."""

from __future__ import annotations


class Bits:
    """The bits of `data` from the first on; past the end it reads zeros."""

    def __init__(self, data: bytes) -> None:
        self._data = int.from_bytes(data)
        self._left = 8 * len(data)

    def read(self, count: int) -> int:
        """Return the next `count` bits as a number."""
        self._left -= count
        value = self._data >> self._left if self._left >= 0 else 0
        return value & ((1 << count) - 1)

    def golomb(self) -> int:
        """Return the next number in Exp-Golomb code, as H.264 writes most of its numbers."""
        zeros = 0
        while zeros < 32 and not self.read(1):
            zeros += 1
        return (1 << zeros) - 1 + self.read(zeros)
