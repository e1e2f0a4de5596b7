"""A clip with signs, and what files of scene text say of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ocr_clips import clip

from tvr_bench.media.windows import WindowSpec

SPEC = WindowSpec(windows=4, reads=2)
FPS = 10
SIGNS = {  # text, left and top, frames that show it; of 40 frames
    "hotel": (20, 115, range(40)),
    "bakery": (30, 20, range(20, 40)),
    "museum": (120, 115, range(30, 40)),
    "lotto 777": (60, 66, range(30, 40)),
}


def box(left: float, top: float, width: float = 60, height: float = 20) -> list[float]:
    """Return a place as Kwai has it: four corners, and two numbers more."""
    right, bottom = left + width, top + height
    return [left, top, right, top, right, bottom, left, bottom, 0, 1]


def track(text: str, frames: Sequence[int], score: Any = 0.9, at: tuple[int, int] = (5, 5)) -> Any:
    """Return a text and its places as Kwai has them, by frame."""
    return {"text": text, "score": score, "tracks": {str(n): box(*at) for n in frames}}


def street(folder: Path) -> Path:
    """Make a clip of four seconds at ten frames each, with the signs in their frames."""

    def shown(frame: int) -> list[tuple[str, int, int]]:
        return [(t, x, y) for t, (x, y, frames) in SIGNS.items() if frame in frames]

    return clip(folder / "street.mp4", shown)
