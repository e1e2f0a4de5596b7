"""Damaged copies of a file: cut, bits flipped, a span zeroed, bytes lost, a header spoilt."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from make_clips import make_clip, x264

SOURCES: dict[str, dict[str, Any]] = {
    "h264.mp4": {"options": x264(12, 3)},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}},
    "mpeg4.avi": {"codec": "mpeg4"},
}


def source(folder: Path, name: str) -> Path:
    """Make the whole file, 60 pictures in six seconds."""
    return make_clip(folder / name, **({"count": 60, "size": (160, 120)} | SOURCES[name]))


def _cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(1, len(data)) :]


def _flip(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 3, 10))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _zero(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    end = min(len(data), at + rng.choice((16, 256, 2048)))
    data[at:end] = bytes(end - at)


def _delete(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    del data[at : at + rng.choice((1, 17, 600))]


def _header(data: bytearray, rng: random.Random) -> None:
    for _ in range(4):
        data[rng.randrange(min(600, len(data)))] = rng.randrange(256)


DAMAGES: dict[str, Callable[[bytearray, random.Random], None]] = {
    "cut": _cut,
    "flip": _flip,
    "zero": _zero,
    "delete": _delete,
    "header": _header,
}


def mutant(data: bytes, name: str, damage: str, trial: int) -> bytes:
    """Return the damaged copy that these four words stand for, the same one every time."""
    copy = bytearray(data)
    DAMAGES[damage](copy, random.Random(f"{name} {damage} {trial}"))
    return bytes(copy)
