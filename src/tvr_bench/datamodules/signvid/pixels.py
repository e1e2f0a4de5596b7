"""The one operation on pixels that objects and signs share."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Picture: TypeAlias = NDArray[np.uint8]


def blend(
    canvas: Picture, sprite: Picture, alpha: Picture, left: int, top: int, opacity: float = 1.0
) -> None:
    """Paste `sprite` [h, w, 3] in place through `alpha` [h, w, 1], cut at the canvas edges."""
    height, width = canvas.shape[:2]
    rows = slice(max(top, 0), min(top + sprite.shape[0], height))
    cols = slice(max(left, 0), min(left + sprite.shape[1], width))
    if rows.start >= rows.stop or cols.start >= cols.stop:
        return
    inner = (slice(rows.start - top, rows.stop - top), slice(cols.start - left, cols.stop - left))
    mix = alpha[inner].astype(np.int32)
    if opacity < 1:
        mix = mix * round(opacity * 256) >> 8
    under = canvas[rows, cols]
    over = under + ((sprite[inner].astype(np.int32) - under) * mix) // 255
    canvas[rows, cols] = over.astype(np.uint8)
