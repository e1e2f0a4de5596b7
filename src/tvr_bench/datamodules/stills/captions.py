"""What one picture of a scene shows, in words: objects, their state, where they are, the place.

No motion, no order and no sign is told: a still shows none of the first two, and reading is left to
those who read.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from tvr_bench.datamodules.signvid.captions import noun_phrase
from tvr_bench.datamodules.signvid.script import Pose, poses
from tvr_bench.datamodules.signvid.spec import WIDTH, Scene, Thing
from tvr_bench.datamodules.signvid.vocabulary import OBJECT_SIZES, PLACES

# upper bounds of a centre, in pixels from the middle of the picture
_BINS = (
    (-56, "on the far left"),
    (-24, "on the left"),
    (24, "in the middle"),
    (56, "on the right"),
)
_GROWN, _SHRUNK, _FADED = 1.3, 0.75, 0.6  # scales and an opacity that are told
_AIR = 12  # pixels above where it stands
_APART = 14  # pixels between the heights of two objects of which one is above the other
_SAME_HEIGHT = 30  # pixels; what is further apart hides nothing
_OVERLAP = 0.8  # of the mean of two diameters: nearer centres hide a part
_CLOSE = 62  # pixels
# shares: pairs told by their places, of those close by that they are; captions with the place
_PLACED, _SAID_CLOSE, _WITH_PLACE, _PLACE_LAST = 0.5, 0.5, 0.75, 0.7


@dataclass(frozen=True)
class _Seen:
    """An object as a picture shows it."""

    thing: Thing
    pose: Pose

    @property
    def phrase(self) -> str:
        """Such as `a faded big red ball`."""
        words = f"{self._state} {noun_phrase(self.thing, article=False)}".strip()
        return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"

    @property
    def where(self) -> str:
        """One of five places from left to right."""
        x = self.pose.x - WIDTH / 2
        return next((words for most, words in _BINS if x <= most), "on the far right")

    @property
    def _state(self) -> str:
        if self.pose.scale > _GROWN:
            return "grown"
        if self.pose.scale < _SHRUNK:
            return "shrunk"
        return "faded" if self.pose.alpha < _FADED else ""


def describe(scene: Scene, time: float, rng: Random) -> str:
    """Return a caption of the picture at `time` (seconds); which of several true ones, `rng` says.

    A scene has one object or two.
    """
    seen = [
        _Seen(thing, pose) for thing, pose in zip(scene.objects, poses(scene, time), strict=True)
    ]
    if len(seen) == 1:
        air = "in the air " if seen[0].pose.y < seen[0].thing.y - _AIR else ""
        text = f"{seen[0].phrase} {air}{seen[0].where}"
    else:
        one, other = seen if rng.random() < 0.5 else seen[::-1]
        text = _pair(one, other, rng)
    if rng.random() >= _WITH_PLACE:
        return text
    place = PLACES[scene.place]
    return f"{text} {place}" if rng.random() < _PLACE_LAST else f"{place} {text}"


def _pair(one: _Seen, other: _Seen, rng: Random) -> str:
    """Return where two objects are, or how one is to the other."""
    if rng.random() < _PLACED:
        return f"{one.phrase} {one.where} and {other.phrase} {other.where}"
    right, down = other.pose.x - one.pose.x, other.pose.y - one.pose.y
    touching = _OVERLAP * (OBJECT_SIZES[one.thing.size] + OBJECT_SIZES[other.thing.size]) / 2
    if abs(right) < touching and abs(down) < _SAME_HEIGHT:
        relation = "in front of" if one.pose.z > other.pose.z else "behind"
    elif abs(down) > _APART:
        relation = "above" if down > 0 else "below"
    elif abs(right) < _CLOSE and rng.random() < _SAID_CLOSE:
        relation = "close to"
    else:
        side = "on the left of" if right > 0 else "on the right of"
        return f"{one.phrase} {side} {other.phrase}"
    return f"{one.phrase} {relation} {other.phrase} {one.where}"
