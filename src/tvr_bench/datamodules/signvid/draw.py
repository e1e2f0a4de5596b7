"""Pictures of a scene: backgrounds, objects and signs, drawn with Pillow and numpy."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageDraw

from tvr_bench.datamodules.signvid.backgrounds import MARGIN, background
from tvr_bench.datamodules.signvid.pixels import Picture, Stamp
from tvr_bench.datamodules.signvid.script import poses
from tvr_bench.datamodules.signvid.signs import plate
from tvr_bench.datamodules.signvid.spec import Scene
from tvr_bench.datamodules.signvid.vocabulary import COLOURS, OBJECT_SIZES

_FINE = 4  # supersampling of object sprites
_OUTLINE = (24, 22, 30)


Look: TypeAlias = tuple[object, ...]


class Painter:
    """Draws any frame of one scene; what does not change is drawn once."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        plates = [plate(sign) for sign in scene.signs]
        self._boards = [item for item in plates if item.sign.relevant]
        self._overlays = [item for item in plates if item.sign.kind in ("ticker", "watermark")]
        self._backs: dict[tuple[bool, ...], Picture] = {}

    def look(self, index: int) -> Look:
        """All that frame `index` depends on: frames of equal looks are the same picture."""
        time = index / self.scene.fps
        turns = tuple(item.turn(time) for item in self._overlays)
        return self._shift(time), self._up(time), self._places(time), turns

    def frame(self, index: int) -> Picture:
        """Frame `index` as uint8 [H, W, 3] rgb."""
        time = index / self.scene.fps
        width, height = self.scene.size
        shift = MARGIN + self._shift(time)
        canvas = self._back(time)[:height, shift : shift + width].copy()
        for at, pixels, left, top, opacity in self._places(time):
            thing = self.scene.objects[at]
            stamp = _sprite(thing.shape, thing.colour, thing.texture, pixels, opacity)
            stamp.paste(canvas, left, top)
        for item in self._overlays:
            item.paste(canvas, time)
        return canvas

    def _shift(self, time: float) -> int:
        """How far to the right the camera has swung, in pixels."""
        return round(self.scene.pan * math.sin(2 * math.pi * time / self.scene.seconds))

    def _up(self, time: float) -> tuple[bool, ...]:
        return tuple(item.sign.start <= time < item.sign.end for item in self._boards)

    def _back(self, time: float) -> Picture:
        """The background with the boards that are up at `time`: they move with the camera."""
        up = self._up(time)
        if up not in self._backs:
            scene = self.scene
            back = background(scene.place, scene.look, scene.size, scene.light).copy()
            for item, shown in zip(self._boards, up, strict=True):
                if shown:
                    item.paste(back[:, MARGIN:], time)
            self._backs[up] = back
        return self._backs[up]

    def _places(self, time: float) -> tuple[tuple[int, int, int, int, int], ...]:
        """Each object, the hindmost first: its index, width, left, top and opacity (of 256)."""
        seen = poses(self.scene, time)
        found = []
        for at in sorted(range(len(seen)), key=lambda i: seen[i].z):
            pose = seen[at]
            pixels = 2 * round(OBJECT_SIZES[self.scene.objects[at].size] * pose.scale / 2)
            left, top = round(pose.x - pixels / 2), round(pose.y - pixels / 2)
            found.append((at, pixels, left, top, min(round(pose.alpha * 256), 256)))
        return tuple(found)


@lru_cache(maxsize=128)
def _sprite(shape: str, colour: str, texture: str, pixels: int, opacity: int) -> Stamp:
    """One object, `pixels` wide; `opacity` is of 256."""
    picture, alpha = _opaque(shape, colour, texture, pixels)
    return Stamp.of(picture, (alpha.astype(np.int32) * opacity >> 8).astype(np.uint8))


@lru_cache(maxsize=4096)
def _opaque(shape: str, colour: str, texture: str, pixels: int) -> tuple[Picture, Picture]:
    """One object, `pixels` wide: colours [h, w, 3] and opacity [h, w, 1]."""
    side = pixels * _FINE
    mask = Image.new("L", (side, side), 0)
    _fill(ImageDraw.Draw(mask), shape, side)
    skin = Image.new("RGB", (side, side), COLOURS[colour])
    _texture(ImageDraw.Draw(skin), texture, side)
    picture = Image.new("RGB", (side, side), _OUTLINE)
    picture.paste(skin, mask=Image.fromarray(_eroded(np.asarray(mask), _FINE)))
    small = (pixels, pixels)
    return (
        np.asarray(picture.resize(small, Image.Resampling.BOX)),
        np.asarray(mask.resize(small, Image.Resampling.BOX))[..., None],
    )


def _eroded(mask: Picture, reach: int) -> Picture:
    """The least of the pixels up to `reach` rows and columns away; [h, w], as is `mask`.

    What Pillow's `MinFilter` gives, which looks at every pixel of the square instead of at a
    column of rows.
    """
    height, width = mask.shape
    wide = np.pad(mask, reach, mode="edge")
    steps = range(2 * reach + 1)
    rows: Picture = np.minimum.reduce([wide[i : i + height] for i in steps])
    least: Picture = np.minimum.reduce([rows[:, i : i + width] for i in steps])
    return least


def _texture(draw: ImageDraw.ImageDraw, texture: str, side: int) -> None:
    dark = (40, 36, 48)
    step = side / 4
    if texture == "striped":
        for i in range(-4, 8):
            x = i * step
            draw.line((x, side, x + side, 0), fill=dark, width=round(step * 0.3))
    elif texture == "dotted":
        radius = step * 0.2
        for row in range(5):
            for col in range(5):
                x, y = (col + 0.5 * (row % 2)) * step, (row + 0.5) * step
                draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=dark)


def _fill(draw: ImageDraw.ImageDraw, shape: str, side: int) -> None:
    low, high, mid = side * 0.02, side * 0.98, side / 2
    if shape == "ball":
        draw.ellipse((low, low, high, high), fill=255)
    elif shape == "box":
        pad = side * 0.08
        draw.rectangle((pad, pad, side - pad, side - pad), fill=255)
    elif shape == "ring":
        hole = side * 0.2
        draw.ellipse((low, low, high, high), fill=255)
        draw.ellipse((mid - hole, mid - hole, mid + hole, mid + hole), fill=0)
    elif shape == "cross":
        arm = side * 0.17
        draw.rectangle((low, mid - arm, high, mid + arm), fill=255)
        draw.rectangle((mid - arm, low, mid + arm, high), fill=255)
    elif shape == "moon":
        bite, centre = side * 0.38, side * 0.78
        draw.ellipse((low, low, high, high), fill=255)
        draw.ellipse((centre - bite, mid - bite, centre + bite, mid + bite), fill=0)
    else:
        draw.polygon(_polygon(shape, mid, mid - low), fill=255)


def _polygon(shape: str, mid: float, radius: float) -> list[tuple[float, float]]:
    if shape == "triangle":
        return [
            (mid + radius * x, mid + radius * y) for x, y in ((0, -1), (0.98, 0.8), (-0.98, 0.8))
        ]
    if shape == "star":
        points = []
        for i in range(10):
            reach = radius * (1.0 if i % 2 == 0 else 0.45)
            angle = math.pi * (i / 5 - 0.5)
            points.append((mid + reach * math.cos(angle), mid + reach * math.sin(angle)))
        return points
    points = []  # heart
    for i in range(48):
        a = 2 * math.pi * i / 48
        x = 16 * math.sin(a) ** 3
        y = 13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a) - math.cos(4 * a)
        points.append((mid + radius * x / 16.5, mid - radius * (y + 2.5) / 15.5))
    return points
