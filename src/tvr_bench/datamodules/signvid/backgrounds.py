"""Textured backgrounds, one kind per place, muted so that objects stand out."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tvr_bench.datamodules.signvid.pixels import Picture

MARGIN = 16  # pixels beyond the canvas on each side, for a camera that swings
_TINTS = (0, 8, -8, 4)  # per look, so that one place is not one picture


@lru_cache(maxsize=256)
def background(place: str, look: int, size: tuple[int, int], light: float) -> Picture:
    """The place as uint8 [H, W + 2 * MARGIN, 3]; `look` picks a variant, `light` scales it."""
    picture: Picture = np.clip(_drawn(place, look, size) * light, 0, 255).astype(np.uint8)
    return picture


@lru_cache(maxsize=64)
def _drawn(place: str, look: int, size: tuple[int, int]) -> NDArray[np.float32]:
    rng = np.random.default_rng([look, *place.encode()])
    width, height = size[0] + 2 * MARGIN, size[1]
    image = Image.new("RGB", (width, height))
    _PAINTERS[place](ImageDraw.Draw(image), width, height, rng)
    pixels = np.asarray(image, np.float32) + _TINTS[look % len(_TINTS)]
    grain = rng.normal(0, 2.5, (height, width, 1)).astype(np.float32)
    return pixels + grain


def _bands(
    draw: ImageDraw.ImageDraw, width: int, edges: list[int], colours: list[tuple[int, int, int]]
) -> None:
    for top, bottom, colour in zip(edges, edges[1:], colours, strict=False):
        draw.rectangle((0, top, width, bottom), fill=colour)


def _specks(
    draw: ImageDraw.ImageDraw,
    rng: np.random.Generator,
    area: tuple[int, int, int, int],
    count: int,
    radius: int,
    colour: tuple[int, int, int],
) -> None:
    left, top, right, bottom = area
    for _ in range(count):
        x, y = int(rng.integers(left, right)), int(rng.integers(top, bottom))
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def _beach(draw: ImageDraw.ImageDraw, width: int, height: int, rng: np.random.Generator) -> None:
    sea = 46 + int(rng.integers(0, 14))
    edges = [0, sea, sea + 28, height]
    _bands(draw, width, edges, [(176, 214, 232), (78, 150, 176), (222, 204, 162)])
    _specks(draw, rng, (0, sea + 32, width, height), 90, 1, (190, 168, 124))


def _forest(draw: ImageDraw.ImageDraw, width: int, height: int, rng: np.random.Generator) -> None:
    _bands(draw, width, [0, height - 30, height], [(70, 96, 74), (84, 82, 60)])
    for x in range(-8, width, 26):
        left = x + int(rng.integers(-6, 6))
        draw.rectangle((left, 0, left + 9, height - 24), fill=(78, 66, 54))
    _specks(draw, rng, (0, 0, width, 40), 60, 7, (56, 84, 60))


def _wall(draw: ImageDraw.ImageDraw, width: int, height: int, rng: np.random.Generator) -> None:
    draw.rectangle((0, 0, width, height), fill=(176, 160, 148))
    for row, top in enumerate(range(0, height, 12)):
        for left in range(-24 * (row % 2) // 2, width, 24):
            shade = int(rng.integers(-10, 10))
            colour = (146 + shade, 98 + shade, 84 + shade)
            draw.rectangle((left, top, left + 22, top + 10), fill=colour)


def _night(draw: ImageDraw.ImageDraw, width: int, height: int, rng: np.random.Generator) -> None:
    _bands(draw, width, [0, height - 26, height], [(24, 28, 52), (36, 36, 44)])
    _specks(draw, rng, (0, 0, width, height - 30), 50, 1, (176, 180, 200))


def _snow(draw: ImageDraw.ImageDraw, width: int, height: int, rng: np.random.Generator) -> None:
    _bands(draw, width, [0, 60, height], [(172, 186, 204), (222, 228, 236)])
    for _ in range(4):
        x = int(rng.integers(0, width))
        draw.polygon(((x - 50, 62), (x, 20), (x + 50, 62)), fill=(196, 206, 220))
    _specks(draw, rng, (0, 0, width, height), 60, 1, (240, 244, 248))


def _meadow(draw: ImageDraw.ImageDraw, width: int, height: int, rng: np.random.Generator) -> None:
    _bands(draw, width, [0, 56, height], [(184, 208, 226), (146, 176, 112)])
    _specks(draw, rng, (0, 60, width, height), 50, 2, (120, 152, 90))
    _specks(draw, rng, (0, 6, width, 44), 9, 10, (220, 228, 234))


def _kitchen(draw: ImageDraw.ImageDraw, width: int, height: int, rng: np.random.Generator) -> None:
    shift = int(rng.integers(0, 20))
    for row, top in enumerate(range(0, height, 20)):
        for col, left in enumerate(range(-shift, width, 20)):
            even = (row + col) % 2 == 0
            colour = (208, 212, 206) if even else (178, 190, 188)
            draw.rectangle((left, top, left + 19, top + 19), fill=colour)


def _desert(draw: ImageDraw.ImageDraw, width: int, height: int, rng: np.random.Generator) -> None:
    draw.rectangle((0, 0, width, height), fill=(226, 212, 190))
    for top, colour in ((64, (206, 164, 112)), (92, (192, 146, 96)), (122, (178, 132, 84))):
        offset = int(rng.integers(-60, 60))
        for x in range(offset - 160, width + 160, 160):
            draw.ellipse((x - 120, top, x + 120, top + 160), fill=colour)


_PAINTERS = {
    "beach": _beach,
    "forest": _forest,
    "wall": _wall,
    "night": _night,
    "snow": _snow,
    "meadow": _meadow,
    "kitchen": _kitchen,
    "desert": _desert,
}
