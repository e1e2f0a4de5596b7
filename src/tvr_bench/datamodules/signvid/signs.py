"""Boards, tickers and watermarks as pictures that can be pasted into a frame."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tvr_bench.datamodules.signvid.pixels import Picture, Stamp
from tvr_bench.datamodules.signvid.spec import Sign

_FILES = {
    "sans": "DejaVuSans.ttf",
    "sans_bold": "DejaVuSans-Bold.ttf",
    "serif_bold": "DejaVuSerif-Bold.ttf",
    "mono_bold": "DejaVuSansMono-Bold.ttf",
}
_TICKER_GAP = 60  # pixels between two rounds of the ticker


@lru_cache(maxsize=64)
def load_font(name: str, px: int) -> ImageFont.FreeTypeFont:
    """A font of matplotlib's data folder, found without importing matplotlib."""
    found = find_spec("matplotlib")
    assert found is not None and found.origin is not None
    folder = Path(found.origin).parent / "mpl-data" / "fonts" / "ttf"
    return ImageFont.truetype(str(folder / _FILES[name]), px)


class Plate:
    """One sign, drawn once: `paste` puts it where it is at a given time."""

    def __init__(self, sign: Sign, picture: Picture, alpha: Picture) -> None:
        self.sign = sign
        self._picture, self._alpha = picture, alpha
        self._stamp = Stamp.of(picture, alpha)

    def turn(self, time: float) -> int:
        """How far a ticker has rolled past at `time` (seconds), in pixels; 0 of other signs."""
        return round(self.sign.speed * time) % self._picture.shape[1]

    def paste(self, canvas: Picture, time: float) -> None:
        """Blend the sign into `canvas` [H, W, 3] in place."""
        stamp = self._stamp
        if self.sign.speed:
            picture = np.roll(self._picture, -self.turn(time), axis=1)[:, : self.sign.width]
            stamp = Stamp.of(picture, self._alpha[:, : self.sign.width])
        height, width = stamp.over.shape[:2]
        stamp.paste(canvas, self.sign.x - width // 2, self.sign.y - height // 2)


def plate(sign: Sign) -> Plate:
    """The picture of a sign."""
    if sign.kind == "ticker":
        return _ticker(sign)
    image = Image.new("RGB", (sign.width, sign.height), sign.board)
    mask = Image.new("L", image.size, 110 if sign.kind == "watermark" else 255)
    _write(image, mask, sign)
    _finish(image, mask, sign)
    if sign.angle:
        kind = Image.Resampling.BICUBIC
        image = image.rotate(sign.angle, kind, expand=True, fillcolor=sign.board)
        mask = mask.rotate(sign.angle, kind, expand=True)
    return Plate(sign, np.asarray(image), np.asarray(mask)[..., None])


def _finish(image: Image.Image, mask: Image.Image, sign: Sign) -> None:
    """What the eye tells a shop sign (frame), a poster (pins) and a banner (notches) by."""
    right, bottom = sign.width - 1, sign.height - 1
    draw = ImageDraw.Draw(image)
    if sign.medium == "shop":
        edge = tuple((a + b) // 2 for a, b in zip(sign.ink, sign.board, strict=True))
        draw.rectangle((0, 0, right, bottom), outline=edge, width=2)
    elif sign.medium == "poster":
        for x in (3, right - 3):
            for y in (3, bottom - 3):
                draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=(200, 40, 40))
    elif sign.medium == "banner":
        middle, depth = sign.height // 2, 5
        for x, tip in ((0, depth), (right, right - depth)):
            ImageDraw.Draw(mask).polygon(((x, 3), (tip, middle), (x, bottom - 3)), fill=0)


def _write(image: Image.Image, mask: Image.Image, sign: Sign) -> None:
    """Centre the words, with a wide gap that survives a recogniser that drops spaces."""
    text = "  ".join(sign.words).upper()
    place = (sign.width / 2, sign.height / 2)
    font = load_font(sign.font, sign.px)
    ImageDraw.Draw(image).text(place, text, fill=sign.ink, font=font, anchor="mm")
    if sign.kind == "watermark":
        ImageDraw.Draw(mask).text(place, text, fill=230, font=font, anchor="mm")


def _ticker(sign: Sign) -> Plate:
    """A band with the words once, wider than they are, to be rolled past."""
    text = "  ".join(sign.words).upper()
    font = load_font(sign.font, sign.px)
    width = max(round(font.getlength(text)) + _TICKER_GAP, sign.width)
    image = Image.new("RGB", (width, sign.height), sign.board)
    place = (width / 2, sign.height / 2)
    ImageDraw.Draw(image).text(place, text, fill=sign.ink, font=font, anchor="mm")
    return Plate(sign, np.asarray(image), np.full((sign.height, width, 1), 255, np.uint8))
