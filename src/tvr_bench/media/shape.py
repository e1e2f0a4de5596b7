"""How the stored picture of a stream is to be shown: which part of it, and how wide its pixels."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from tvr_bench.media.demux import unreadable
from tvr_bench.media.matroska import shown_part

_WIDEST = 32  # times as wide as high, or as high as wide: beyond that a header is broken
_UNKNOWN_UNIT = 4  # of Matroska's display size


@dataclass(frozen=True)
class Shape:
    """`pixel` is the width of a stored pixel by its height; of the stored picture so many pixels
    are not shown at its `top`, `bottom`, `left` and `right`.
    """

    pixel: Fraction = Fraction(1)
    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0

    @property
    def is_cropped(self) -> bool:
        """Whether a part of the stored picture is not shown."""
        return bool(self.top or self.bottom or self.left or self.right)

    def shown(self, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width) as shown of a stored picture, before it is turned upright.

        Rows stay as they are, and columns become square: 720 of 8:9 are 640.
        """
        columns = (width - self.left - self.right) * self.pixel
        return height - self.top - self.bottom, max(1, round(columns))


AS_STORED = Shape()


def shape_of(path: Path, container: InputContainer, stream: VideoStream) -> Shape:
    """Return how the pictures of `stream` are to be shown, by the container, else by the codec.

    Raises `VideoError` for pixels that no camera has.
    """
    pixel = Fraction(stream.sample_aspect_ratio or 1)
    shape = Shape(pixel if pixel > 0 else Fraction(1))
    if "matroska" in container.format.name:
        shape = _of_matroska(path, container, stream, shape.pixel)
    if not 1 / _WIDEST <= shape.pixel <= _WIDEST:
        raise unreadable(path, f"its pixels are said to be {shape.pixel} as wide as high")
    return shape


def _of_matroska(
    path: Path, container: InputContainer, stream: VideoStream, pixel: Fraction
) -> Shape:
    videos = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    said = shown_part(path, videos.index(stream))
    edges = {name: said.get(name, 0) for name in ("top", "bottom", "left", "right")}
    if not any(edges.values()):
        return Shape(pixel)
    # FFmpeg takes the display size for that of the whole picture; it is that of the shown part.
    width = stream.codec_context.width - edges["left"] - edges["right"]
    height = stream.codec_context.height - edges["top"] - edges["bottom"]
    across, down = said.get("display_width") or width, said.get("display_height") or height
    known = said.get("display_unit", 0) < _UNKNOWN_UNIT and width > 0 and height > 0
    return Shape(Fraction(across * height, down * width) if known else pixel, **edges)
