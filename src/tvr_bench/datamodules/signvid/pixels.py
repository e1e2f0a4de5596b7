"""The one operation on pixels that objects and signs share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Picture: TypeAlias = NDArray[np.uint8]
_Weighted: TypeAlias = NDArray[np.uint16]  # a colour times an opacity: 255 * 255 at most


@dataclass(frozen=True, eq=False)
class Stamp:
    """A picture with opacity, made ready to be pasted many times."""

    over: _Weighted  # [h, w, 3], colours times opacity
    keep: _Weighted  # [h, w, 3], what is left of 255 for what lies under it

    @classmethod
    def of(cls, picture: Picture, alpha: Picture) -> Stamp:
        """Return the stamp of colours [h, w, 3] and opacity [h, w, 1]."""
        keep = np.broadcast_to(255 - alpha, picture.shape)  # once, for it slows every paste
        return cls(picture.astype(np.uint16) * alpha, keep.astype(np.uint16))

    def paste(self, canvas: Picture, left: int, top: int) -> None:
        """Blend the stamp into `canvas` [H, W, 3] in place, cut at the canvas edges."""
        height, width = canvas.shape[:2]
        rows = slice(max(top, 0), min(top + self.over.shape[0], height))
        cols = slice(max(left, 0), min(left + self.over.shape[1], width))
        if rows.start >= rows.stop or cols.start >= cols.stop:
            return
        here = (
            slice(rows.start - top, rows.stop - top),
            slice(cols.start - left, cols.stop - left),
        )
        mixed = canvas[rows, cols] * self.keep[here]
        mixed += self.over[here]
        mixed //= 255
        canvas[rows, cols] = mixed
