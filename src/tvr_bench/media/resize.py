"""From a decoded frame to pixels: upright, rgb, in its true shape or of the size asked for."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from PIL import Image

from tvr_bench.errors import UserError
from tvr_bench.media.shape import AS_STORED, Shape
from tvr_bench.media.sidedata import display_matrix

METHODS = ("fast", "exact")
CROPS = ("none", "centre")
Size: TypeAlias = tuple[int, int]  # height, width


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
    matrix = display_matrix(frame)
    if matrix is None:
        return Turn()
    a, b, _, c, d = struct.unpack_from("=5i", matrix)  # (x, y) -> (a x + c y, b x + d y)
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Turn(False, a < 0, d < 0)
    return Turn(True, c < 0, b < 0)


def covering(frame: Size, size: Size) -> Size:
    """Return the smallest size of the proportions of `frame` that has room for `size`."""
    (height, width), (rows, columns) = frame, size
    if rows * width >= columns * height:
        return rows, rows * width // height
    return columns * height // width, columns


class Scaler:
    """Turn frames into uint8 [H, W, 3] rgb.

    What is resized is the picture as shown: of `shape`, its pixels square and its hidden edges cut
    off. `size` is (height, width), None for the shown picture's own. `fast` is swscale's bilinear
    filter, which widens as it shrinks, in one pass with the colour conversion; `exact` converts
    first and then applies PIL's antialiased bicubic, the filter of the usual image-text
    preprocessing. Crop `none` squeezes the whole picture into `size`; `centre` keeps its
    proportions and cuts off what is over at two sides, as CLIP's preprocessing does. Alpha is
    dropped, more than 8 bits are rounded.
    """

    def __init__(
        self,
        size: Size | None = None,
        method: str = "fast",
        crop: str = "none",
        shape: Shape = AS_STORED,
    ) -> None:
        if method not in METHODS:
            raise UserError(f"unknown resize method '{method}': use one of {', '.join(METHODS)}")
        if crop not in CROPS:
            raise UserError(f"unknown crop '{crop}': use one of {', '.join(CROPS)}")
        if size is not None and min(size) < 1:
            raise UserError(f"a frame size must be positive, got {size[0]}x{size[1]}")
        self.size = size
        self.method = method
        self.crop = crop
        self.shape = shape
        self._reformatter = VideoReformatter()

    def __call__(self, frame: VideoFrame) -> np.ndarray:
        """Return the pixels of `frame` as uint8 [H, W, 3]."""
        turn = turn_of(frame)
        height, width = self.shape.shown(frame.height, frame.width)
        frame = self._without_edges(frame)
        upright = (width, height) if turn.swap else (height, width)
        size = self._scaled(upright)
        image = self._rgb(frame, turn, size)
        if turn.swap:
            image = image.transpose(1, 0, 2)
        if turn.mirror_x:
            image = image[:, ::-1]
        if turn.mirror_y:
            image = image[::-1]
        image = np.ascontiguousarray(image)
        if image.shape[:2] != size:
            resized = Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC)
            image = np.asarray(resized)
        return image if self.size is None else _centre(image, self.size)

    def _without_edges(self, frame: VideoFrame) -> VideoFrame:
        """Return the part of a frame that is shown; as rgb, where that is not all of it."""
        shape, (height, width) = self.shape, (frame.height, frame.width)
        if not shape.is_cropped:
            return frame
        image: Any = self._reformatted(frame, width, height).to_ndarray()
        image = image[shape.top : height - shape.bottom, shape.left : width - shape.right]
        return VideoFrame.from_ndarray(np.ascontiguousarray(image), "rgb24")

    def _scaled(self, upright: Size) -> Size:
        """Return the size to which a frame is resized, before anything is cut off."""
        if self.size is None:
            return upright
        return self.size if self.crop == "none" else covering(upright, self.size)

    def _rgb(self, frame: VideoFrame, turn: Turn, size: Size) -> np.ndarray:
        width, height = frame.width, frame.height
        if self.method == "fast":
            width, height = size if turn.swap else size[::-1]
        return self._reformatted(frame, width, height).to_ndarray()

    def _reformatted(self, frame: VideoFrame, width: int, height: int) -> VideoFrame:
        # One thread, and the arithmetic that is the same on every processor.
        flags = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
        return self._reformatter.reformat(
            frame, width, height, "rgb24", interpolation=flags, threads=1
        )


def _centre(image: np.ndarray, size: Size) -> np.ndarray:
    top, left = ((have - want) // 2 for have, want in zip(image.shape, size, strict=False))
    return image[top : top + size[0], left : left + size[1]]
