"""From a decoded frame to pixels: upright, rgb, of the size asked for."""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from PIL import Image

from tvr_bench.errors import UserError

METHODS = ("fast", "exact")


class Turn(NamedTuple):
    """How a stored frame becomes upright: swap the axes first, then mirror."""

    swap: bool = False
    mirror_x: bool = False
    mirror_y: bool = False

    @property
    def degrees(self) -> int:
        """The same as degrees clockwise: 0, 90, 180 or 270; a mirror image counts as its turn."""
        if self.swap:
            return 90 if self.mirror_x else 270
        return 180 if self.mirror_y else 0


def turn_of(frame: VideoFrame) -> Turn:
    """Read the display matrix of `frame` as the nearest of the eight axis-parallel turns."""
    matrix = frame.side_data.get(Type.DISPLAYMATRIX)  # type: ignore[call-overload]
    if matrix is None:
        return Turn()
    a, b, _, c, d = struct.unpack_from("=5i", bytes(matrix))  # (x, y) -> (a x + c y, b x + d y)
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Turn(False, a < 0, d < 0)
    return Turn(True, c < 0, b < 0)


class Scaler:
    """Turn frames into uint8 [H, W, 3] rgb.

    `size` is (height, width), None for the frame's own. `fast` is swscale's bilinear filter, which
    widens as it shrinks, in one pass with the colour conversion; `exact` converts first and then
    applies PIL's antialiased bicubic, the filter of the usual image-text preprocessing. Alpha is
    dropped, more than 8 bits are rounded.
    """

    def __init__(self, size: tuple[int, int] | None = None, method: str = "fast") -> None:
        if method not in METHODS:
            raise UserError(f"unknown resize method '{method}': use one of {', '.join(METHODS)}")
        if size is not None and min(size) < 1:
            raise UserError(f"a frame size must be positive, got {size[0]}x{size[1]}")
        self.size = size
        self.method = method
        self._reformatter = VideoReformatter()

    def __call__(self, frame: VideoFrame) -> np.ndarray:
        """Return the pixels of `frame` as uint8 [H, W, 3]."""
        turn = turn_of(frame)
        image = self._rgb(frame, turn)
        if turn.swap:
            image = image.transpose(1, 0, 2)
        if turn.mirror_x:
            image = image[:, ::-1]
        if turn.mirror_y:
            image = image[::-1]
        image = np.ascontiguousarray(image)
        if self.size is None or image.shape[:2] == tuple(self.size):
            return image
        height, width = self.size
        resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
        return np.asarray(resized)

    def _rgb(self, frame: VideoFrame, turn: Turn) -> np.ndarray:
        width, height = frame.width, frame.height
        if self.method == "fast" and self.size is not None:
            width, height = self.size if turn.swap else self.size[::-1]
        # One thread, and the arithmetic that is the same on every processor.
        flags = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
        reformatted = self._reformatter.reformat(
            frame, width, height, "rgb24", interpolation=flags, threads=1
        )
        return reformatted.to_ndarray()
