"""A page measured in pixels from its top left corner: text that fits, boxes, strips of film.

H, W height and width in pixels, F frames. Everything is drawn through matplotlib's object
interface, so nothing here touches the figures or the settings of the program around it.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tvr_bench.files import atomic_path

Pixels = NDArray[np.uint8]

DPI = 120
# Okabe and Ito's, which readers with any colour vision tell apart; lines have a marker each, too
COLORS = (
    *("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#000000", "#999999"),
)
MARKERS = "osD^vPX*"
FONT = "DejaVu Sans"  # comes with matplotlib, so it is there on every machine
_LONGEST_TEXT = 2_000  # characters that are looked at; no label shows nearly as many
_NARROWEST = 0.2  # of a letter's height; bounds the search for what fits a line
_UNKNOWN = "\u25af"  # an upright box, for a letter that the font does not have
_FILM = (27, 29, 34, 255)
_SMOOTH = 4  # masks are drawn this many times larger, then reduced


class Canvas:
    """A white page of `width` x `height` pixels."""

    def __init__(self, width: int, height: int) -> None:
        """Open the page; matplotlib is imported here, where the first picture is made."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.width, self.height = width, height
        self.figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
        FigureCanvasAgg(self.figure)

    def text(self, x: float, y: float, text: str, size: float, **style: Any) -> None:
        """Write one line of `size` pixels, its middle at height `y`; `style` is matplotlib's."""
        from matplotlib.text import Text
        from matplotlib.transforms import IdentityTransform

        options = {"va": "center", "color": "#22262b", "zorder": 5.0, **style}
        label = Text(
            x,
            self.height - y,
            text,
            fontsize=size * 72 / DPI,
            fontfamily=FONT,
            parse_math=False,  # a dollar sign is a dollar sign
            transform=IdentityTransform(),
            **options,
        )
        self.figure.add_artist(label)

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        *,
        fill: str = "none",
        edge: str = "none",
        line: float = 0.0,
        radius: float = 0.0,
        layer: float = 1.0,
    ) -> None:
        """Draw a rectangle with its top left corner at (x, y) and corners of `radius`."""
        from matplotlib.patches import FancyBboxPatch, Rectangle
        from matplotlib.transforms import IdentityTransform

        corner = (x, self.height - y - height)
        style: dict[str, Any] = {
            "facecolor": fill,
            "edgecolor": edge,
            "linewidth": line * 72 / DPI,
            "transform": IdentityTransform(),
            "zorder": layer,
        }
        if radius:
            shape = f"round,pad=0,rounding_size={min(radius, width / 2, height / 2)}"
            patch: Any = FancyBboxPatch(corner, width, height, boxstyle=shape, **style)
        else:
            patch = Rectangle(corner, width, height, **style)
        self.figure.add_artist(patch)

    def image(self, x: int, y: int, pixels: Pixels) -> None:
        """Place `pixels` [H, W, 3 or 4], one to one, with their top left corner at (x, y)."""
        below = self.height - y - pixels.shape[0]
        self.figure.figimage(pixels, xo=x, yo=below, origin="upper", zorder=3.0)

    def save(self, path: Path) -> None:
        """Write the page as a PNG; the same page gives the same bytes."""
        with atomic_path(path) as temporary:
            self.figure.savefig(temporary, dpi=DPI, format="png", metadata={"Software": None})


def readable(text: str) -> str:
    """Return `text` on one line, without control characters, with a box for unknown letters."""
    line = " ".join(text[:_LONGEST_TEXT].split())
    kept: list[str] = []
    for letter in line:
        kind = unicodedata.category(letter)
        if kind[0] == "C" or "\ufe00" <= letter <= "\ufe0f":  # variation selectors have no shape
            continue
        letter = letter if ord(letter) in _letters() else _UNKNOWN
        if letter != _UNKNOWN or kept[-1:] != [_UNKNOWN]:
            kept.append(letter)
    return "".join(kept)


def text_width(text: str, size: float, weight: str = "normal") -> float:
    """Return the width in pixels of one line of text of `size` pixels."""
    from matplotlib.font_manager import FontProperties

    font = FontProperties(family=FONT, size=size * 72 / DPI, weight=weight)
    width, _, _ = _ruler().get_text_width_height_descent(text, font, False)
    return float(width)


def wrap(text: str, width: float, size: float, lines: int, weight: str = "normal") -> list[str]:
    """Return `text` broken into at most `lines` lines of `width` pixels, cut with an ellipsis."""
    done: list[str] = []
    rest = readable(text)
    while rest and len(done) < lines:
        taken = _fitting(rest, width, size, weight)
        if taken < len(rest):
            space = rest.rfind(" ", 0, taken + 1)
            taken = space if space > 0 else taken
        done.append(rest[:taken].rstrip())
        rest = rest[taken:].lstrip()
    if rest:
        last = f"{done[-1]} {rest}"
        room = width - text_width("\u2026", size, weight)
        done[-1] = last[: _fitting(last, room, size, weight)].rstrip() + "\u2026"
    return done


def _fitting(text: str, width: float, size: float, weight: str) -> int:
    """Return how many first letters of `text` fit into `width`, at least one."""
    low, high = 1, max(1, min(len(text), int(width / (size * _NARROWEST))))
    while low < high:
        middle = (low + high + 1) // 2
        if text_width(text[:middle], size, weight) <= width:
            low = middle
        else:
            high = middle - 1
    return low


def film(frames: Pixels, height: int, width: int) -> Pixels:
    """Return `frames` [F, H, W, 3] as a strip of film, RGBA, each frame `height` x `width` pixels.

    The margins above and below have the holes of a film, see-through like its round corners.
    """
    gap, margin = 4, 14
    strip = Image.new(
        "RGBA", (len(frames) * (width + gap) + gap, height + 2 * margin), (*_FILM[:3], 0)
    )
    strip.putalpha(_film_mask(strip.width, strip.height, margin))
    for i, frame in enumerate(frames):
        picture = Image.fromarray(frame).resize((width, height), Image.Resampling.LANCZOS)
        strip.paste(picture, (gap + i * (width + gap), margin))
    return np.asarray(strip)


def _film_mask(width: int, height: int, margin: int) -> Image.Image:
    pitch, hole_width, hole_height = 18, 9, 6
    big = Image.new("L", (width * _SMOOTH, height * _SMOOTH), 0)
    draw = ImageDraw.Draw(big)

    def rounded(x: float, y: float, w: float, h: float, radius: float, value: int) -> None:
        corners = [x, y, x + w, y + h]
        draw.rounded_rectangle([round(c * _SMOOTH) for c in corners], radius * _SMOOTH, fill=value)

    rounded(0, 0, width - 1 / _SMOOTH, height - 1 / _SMOOTH, 6, 255)
    holes = max(1, (width - 6) // pitch)
    first = (width - holes * pitch + pitch - hole_width) / 2
    for i in range(holes):
        for y in ((margin - hole_height) / 2, height - (margin + hole_height) / 2):
            rounded(first + i * pitch, y, hole_width, hole_height, 2, 0)
    return big.resize((width, height), Image.Resampling.BOX)


@cache
def _ruler() -> Any:
    from matplotlib.backends.backend_agg import RendererAgg

    make: Any = RendererAgg  # matplotlib leaves its type open
    return make(1, 1, DPI)


@cache
def _letters() -> frozenset[int]:
    from matplotlib.font_manager import FontProperties, findfont, get_font

    fonts = [
        get_font(findfont(FontProperties(family=FONT, weight=weight)))
        for weight in ("normal", "bold")
    ]
    return frozenset(fonts[0].get_charmap()) & frozenset(fonts[1].get_charmap())
