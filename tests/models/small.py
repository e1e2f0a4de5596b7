"""Settings of the smallest models of the tests: what is tested is that they are right."""

from __future__ import annotations

from typing import Any

FRAMES, WINDOWS, WORDS = 3, 2, 6
SMALL: dict[str, Any] = {
    "video.frames": FRAMES,
    "ocr.windows": WINDOWS,
    "text.words": WORDS,
    "text.vocab": 300,
    "backbone.width": 16,
    "backbone.heads": 2,
    "backbone.layers": 1,
    "backbone.text_layers": 1,
}
