"""Small clips with signs, and an engine that knows them by the colour of their board."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import av
import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tvr_bench.media.ocr import LineReader, Polygon

Sign = tuple[str, int, int]  # text, left, top
GREY = (70, 80, 75)
# One board colour per word, far enough apart to survive a codec.
BOARDS = {
    "bakery": (250, 60, 60),
    "hotel": (60, 250, 60),
    "museum": (80, 80, 250),
    "station": (250, 250, 60),
    "library": (250, 60, 250),
    "lotto 777": (60, 250, 250),
}


def font(px: int) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans Bold out of matplotlib's data."""
    package = find_spec("matplotlib")
    assert package is not None and package.origin is not None
    folder = Path(package.origin).parent / "mpl-data" / "fonts" / "ttf"
    return ImageFont.truetype(str(folder / "DejaVuSans-Bold.ttf"), px)


def draw(signs: Sequence[Sign], size: tuple[int, int] = (224, 160), px: int = 18) -> np.ndarray:
    """Return a frame [H, W, 3] with black capitals on the words' boards (white for others)."""
    image = Image.new("RGB", size, GREY)
    pen = ImageDraw.Draw(image)
    for text, left, top in signs:
        width = round(font(px).getlength(text.upper()))
        box = (left - 6, top - 4, left + width + 6, top + px + 6)
        pen.rectangle(box, fill=BOARDS.get(text, (245, 245, 240)))
        pen.text((left, top), text.upper(), font=font(px), fill=(10, 10, 10))
    return np.asarray(image)


def write(path: Path, frames: Sequence[np.ndarray], fps: int = 10) -> Path:
    """Write the frames as H.264."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=fps, options={"preset": "veryfast", "crf": "24"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode())
    return path


def clip(path: Path, signs_at: Callable[[int], Sequence[Sign]], count: int = 40) -> Path:
    """Write a clip of `count` frames, 10 a second, with the signs that `signs_at(frame)` names."""
    return write(path, [draw(signs_at(i)) for i in range(count)])


class ColourEngine(LineReader):
    """Finds saturated boards and knows their words by colour; counts what it is asked."""

    name = "colour"
    version = "1"

    def __init__(self, score: float = 0.99) -> None:
        self.score = score
        self.frames = 0
        self.crops = 0

    def detect(self, frames: Sequence[np.ndarray]) -> list[list[Polygon]]:
        """Return the boards of each frame."""
        self.frames += len(frames)
        return [self._boards(frame) for frame in frames]

    def _boards(self, frame: np.ndarray) -> list[Polygon]:
        vivid = np.ptp(frame.astype(int), axis=2) > 100
        mask = cv2.morphologyEx(vivid.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((15, 15)))
        _, _, stats, _ = cv2.connectedComponentsWithStats(mask)
        boxes = [tuple(map(float, row[:4])) for row in stats[1:] if row[4] > 100]
        return [((x, y), (x + w, y), (x + w, y + h), (x, y + h)) for x, y, w, h in boxes]

    def recognise(self, crops: Sequence[np.ndarray]) -> list[tuple[str, float]]:
        """Return the word of each board."""
        self.crops += len(crops)
        return [(self._word(crop), self.score) for crop in crops]

    def _word(self, crop: np.ndarray) -> str:
        pixels = crop.reshape(-1, 3).astype(int)
        colour = np.median(pixels[pixels.sum(axis=1) > 250], axis=0)
        return min(BOARDS, key=lambda word: np.abs(np.array(BOARDS[word]) - colour).sum()).upper()
