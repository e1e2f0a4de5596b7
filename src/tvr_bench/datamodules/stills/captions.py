"""What one picture of a scene shows, in words: objects, their state, where they are, the place.

No motion, no order and no word of a sign is told: a still shows none of the first two, and reading
is left to those who read. That there is a banner may be told, as it can be seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from tvr_bench.datamodules.signvid.captions import noun_phrase
from tvr_bench.datamodules.signvid.script import Pose, poses
from tvr_bench.datamodules.signvid.spec import WIDTH, Scene, Thing
from tvr_bench.datamodules.signvid.vocabulary import (
    ADJECTIVES,
    MEDIA,
    NOUNS,
    OBJECT_SIZES,
    PLACES,
)

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
# shares: captions that do not say where an object is, as most captions of videos do not; of the
# others pairs told by their places, and of those close by that they are; captions with the place
_PLAIN, _PLACED, _SAID_CLOSE, _WITH_PLACE, _PLACE_LAST = 0.4, 0.5, 0.5, 0.8, 0.7
_WITH_SIGN = 0.6  # captions that say what carries words, where something does
# captions with words that the picture does not show, as those of the web have; the most of these
_TAGGED, _TAGS = 0.5, 4


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

    A scene has one object or two. The same `rng` gives scenes with the same signs one wording.
    """
    wording = _wording(scene, rng)  # before what the picture shows can change what is drawn
    seen = [
        _Seen(thing, pose) for thing, pose in zip(scene.objects, poses(scene, time), strict=True)
    ]
    if len(seen) == 1:
        air = " in the air" if seen[0].pose.y < seen[0].thing.y - _AIR else ""
        where = "" if rng.random() < _PLAIN else f" {seen[0].where}"
        text = f"{seen[0].phrase}{air}{where}"
    else:
        one, other = seen if rng.random() < 0.5 else seen[::-1]
        text = _pair(one, other, rng)
    told = ""
    if medium := _shown_sign(scene, time):
        joint = "above" if medium == MEDIA["subtitle"] else "near"
        told = wording.sign.format(joint=joint, medium=medium)
    return wording.whole.format(objects=text, place=PLACES[scene.place], sign=told)


@dataclass(frozen=True)
class _Wording:
    """The forms of a whole caption and of what is told of a sign."""

    whole: str
    sign: str


def _wording(scene: Scene, rng: Random) -> _Wording:
    whole = "{objects}{sign}"
    if rng.random() < _WITH_PLACE:
        last = rng.random() < _PLACE_LAST
        whole = "{objects} {place}{sign}" if last else "{place} {objects}{sign}"
    forms = (" {joint} a {medium}", " and a {medium}")
    sign = rng.choice(forms) if rng.random() < _WITH_SIGN else ""
    return _Wording(_tagged(whole, scene, rng) if rng.random() < _TAGGED else whole, sign)


def _shown_sign(scene: Scene, time: float) -> str:
    """Return what carries the words of a sign to be seen at `time`, "" where nothing does."""
    shown = (s for s in scene.signs if s.relevant and s.start <= time < s.end)
    return next((MEDIA[sign.medium] for sign in shown), "")


def _tagged(text: str, scene: Scene, rng: Random) -> str:
    """Return a caption with words that are on no sign of its scene, from which they are no help.

    They are adjectives alone or nouns alone, so that no pair that a sign may say is among them.
    """
    signs = {word for sign in scene.signs for word in sign.words}
    words = [word for word in rng.choice((ADJECTIVES, NOUNS)) if word not in signs]
    tags = " ".join(rng.sample(words, rng.randint(1, _TAGS)))
    return f'{text} with the tag "{tags}"' if rng.random() < _PLACE_LAST else f"{tags}: {text}"


def _pair(one: _Seen, other: _Seen, rng: Random) -> str:
    """Return two objects, where they are, or how one is to the other."""
    if rng.random() < _PLAIN:
        return f"{one.phrase} and {other.phrase}"
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
