"""What a SignVid video is, as frozen JSON-serialisable data; no pixel is made here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

WIDTH, HEIGHT = 224, 160
DRAWING = 2  # to be raised with every change of what the renderer makes of the same scene
SKILLS = ("appearance", "temporal", "relation", "scene_text")
GROUP = 4


@dataclass(frozen=True)
class Sizes:
    """Number of videos per split; each a multiple of the group size, 4."""

    train: int
    val: int
    test: int


PRESETS = {
    "tiny": Sizes(train=80, val=32, test=32),
    "small": Sizes(train=2000, val=96, test=256),
    "base": Sizes(train=20000, val=1000, test=2000),
}


@dataclass(frozen=True)
class Thing:
    """One object: what it is, and the centre (pixels) where it starts and ends."""

    shape: str
    colour: str
    texture: str
    size: str  # "small", "" or "big"
    x: int
    y: int


@dataclass(frozen=True)
class Event:
    """What `actor` (index into the objects) does from `start` to `end` (seconds).

    `target` is the other object of a relation, or -1. `way` is a direction (-1 left or
    counterclockwise, +1 right or clockwise, 0 none); `front` says who hides whom in a pass.
    """

    kind: str
    actor: int
    start: float
    end: float
    target: int = -1
    way: int = 0
    front: bool = False


@dataclass(frozen=True)
class Sign:
    """Words on the screen between `start` and `end` (seconds), with all that drawing them needs.

    `kind` is how hard they are to read: plain, small, tilted, low_contrast, brief, moving for
    signs a caption may quote (`relevant`), ticker and watermark for the rest.
    """

    words: tuple[str, ...]
    kind: str
    medium: str
    relevant: bool
    start: float
    end: float
    x: int  # centre, pixels
    y: int
    width: int  # of the board; the same whatever the words
    height: int
    font: str
    px: int  # font size
    ink: tuple[int, int, int]
    board: tuple[int, int, int]
    angle: float = 0.0  # degrees, counterclockwise
    speed: float = 0.0  # pixels per second to the left (ticker)


@dataclass(frozen=True)
class Scene:
    """One video and its caption. `paraphrases` is empty outside train."""

    id: str
    split: str
    skill: str
    group: str
    factor: str  # what differs inside the group
    caption: str
    paraphrases: tuple[str, ...]
    place: str
    objects: tuple[Thing, ...]
    script: tuple[Event, ...]
    signs: tuple[Sign, ...]
    fps: int
    seconds: float
    size: tuple[int, int]  # width, height
    light: float  # brightness of the background
    pan: int  # how far the camera swings to each side, pixels
    look: int  # which variant of the background

    @property
    def frames(self) -> int:
        """Number of frames of the video."""
        return round(self.seconds * self.fps)


def to_json(scene: Scene) -> dict[str, Any]:
    """Plain lists and dicts that say the whole scene."""
    return asdict(scene)


def spec_hash(scenes: Iterable[Scene]) -> str:
    """16 hex digits over specifications, captions, splits and `DRAWING`, in the order given."""
    digest = hashlib.sha256(f"drawing {DRAWING}".encode())
    for scene in scenes:
        digest.update(json.dumps(to_json(scene), sort_keys=True).encode())
    return digest.hexdigest()[:16]


def ground_truth_words(scene: Scene, kind: str | None = None) -> list[str]:
    """Lower-case words drawn in the video (of signs of one `kind` if given), in order of start.

    For scoring the OCR stage and for a labelled oracle; no model ever sees them.
    """
    signs = sorted(scene.signs, key=lambda sign: sign.start)
    return [word for sign in signs if kind in (None, sign.kind) for word in sign.words]
