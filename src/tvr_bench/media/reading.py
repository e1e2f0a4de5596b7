"""The texts of a few frames of one clip: detected, tracked, recognised, settled, ordered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher

import cv2
import numpy as np

from tvr_bench.media.cut_lines import cut_sides, parts_shown
from tvr_bench.media.ocr import OcrEngine, Polygon, crop_polygon, latin_words
from tvr_bench.media.tracking import Sighting, Track, Tracker, frames_to_detect
from tvr_bench.media.windows import WindowSpec

Reading = tuple[str, float]  # text and score

_SURE = 0.9  # a reading below this score is checked against another sighting,
_JUNK = 0.3  # unless it is below this one
_ALIKE = 0.8  # likeness of a doubtful word to a sure one that it is taken for
_TALLER = 1.4  # times as high may one reading of a line be as another
_MOST = 0.6  # share of a word's letters that are to be seen where the border cuts it
_LOOKS = str.maketrans("015il", "olsll")  # digits that pass for letters


@dataclass(frozen=True)
class SceneText:
    """What one sign says, in which of the frames it stands, and where it appears first.

    `line` is shared by what was read of a moving line in frames that show different parts of it.
    """

    words: tuple[str, ...]
    score: float
    frames: frozenset[int]
    first: Sighting
    cut: tuple[bool, bool] = (False, False)  # where it was read: by the left and right border
    line: int | None = None


def read_texts(frames: np.ndarray, spec: WindowSpec, engine: OcrEngine) -> list[SceneText]:
    """Return the texts of `frames`, uint8 [F, H, W, 3], by first appearance, then reading order."""
    tracker = Tracker(frames)
    seen = frames_to_detect(frames, spec.stride)
    for frame, polygons in zip(seen, engine.detect([frames[i] for i in seen]), strict=True):
        tracker.add(frame, polygons)
    tracker.follow()
    lines = most_visible(tracker.tracks, spec.windows * spec.max_words)
    parts, numbers = [], []
    for number, line in enumerate(lines):
        shown = parts_shown(line, frames)
        parts += shown
        numbers += [number if len(shown) > 1 else None] * len(shown)
    readings = recognise_tracks(frames, parts, engine, spec.votes)
    texts = [
        replace(_text(part, reading, frames.shape[1:3]), line=number)
        for part, reading, number in zip(parts, readings, numbers, strict=True)
        if reading[1] >= spec.min_score
    ]
    kept = [replace(t, words=_long_enough(t.words, spec.min_chars)) for t in settle(texts)]
    return in_order([text for text in kept if text.words])


def _long_enough(words: Sequence[str], min_chars: int) -> tuple[str, ...]:
    return tuple(w for w in words if len(w) >= min_chars or any(c.isdigit() for c in w))


def _text(track: Track, reading: Reading, size: tuple[int, int]) -> SceneText:
    read = _by_quality(track, size)[0]
    return SceneText(
        words=tuple(latin_words(reading[0])),
        score=reading[1],
        frames=frozenset(s.frame for s in track.sightings),
        first=track.sightings[0],
        cut=(False, False) if track.whole else cut_sides(read, size[1]),
    )


def most_visible(tracks: Sequence[Track], limit: int) -> list[Track]:
    """Return at most `limit` tracks, the large and lasting ones; a scrolled page has thousands."""

    def seen(track: Track) -> float:
        return sum(cv2.contourArea(np.asarray(s.polygon, np.float32)) for s in track.sightings)

    return sorted(tracks, key=seen, reverse=True)[:limit] if len(tracks) > limit else list(tracks)


def recognise_tracks(
    frames: np.ndarray, tracks: Sequence[Track], engine: OcrEngine, votes: int
) -> list[Reading]:
    """Return the reading and the score of each track.

    The best sighting is read; where that is doubtful, up to `votes` are, and the reading that the
    others agree with most wins.
    """
    queues = [_by_quality(track, frames.shape[1:3])[:votes] for track in tracks]
    heard: list[list[Reading]] = [[] for _ in tracks]
    for turn in range(votes):
        asked = [i for i, q in enumerate(queues) if turn < len(q) and _is_doubtful(heard[i])]
        sights = [queues[i][turn] for i in asked]
        crops = [crop_polygon(frames[s.frame], s.polygon) for s in sights]
        for i, reading in zip(asked, engine.recognise(crops) if crops else [], strict=True):
            heard[i].append(reading)
    return [_elect(readings) for readings in heard]


def _is_doubtful(heard: Sequence[Reading]) -> bool:
    """Whether another reading can change the outcome: there is none yet, or only middling ones."""
    if not heard:
        return True
    text, score = max(heard, key=lambda reading: reading[1])
    return _JUNK < score < _SURE and bool(latin_words(text))


def _elect(heard: Sequence[Reading]) -> Reading:
    """Return the winner; one that the others contradict keeps little of its score."""

    def support(text: str) -> float:
        agreed = [score * SequenceMatcher(None, text, other).ratio() for other, score in heard]
        return sum(agreed) / len(agreed)

    best = max(heard, key=lambda reading: (reading[1] >= _SURE, support(reading[0])))
    return best if best[1] >= _SURE else (best[0], support(best[0]))


def _by_quality(track: Track, size: tuple[int, int]) -> list[Sighting]:
    """Return the sightings, the one to read first: detected, whole, large, then early."""

    def badness(sighting: Sighting) -> tuple[bool, bool, int, int]:
        corners = np.asarray(sighting.polygon, np.float32)
        limit = np.array(size[::-1], np.float32) - 1
        whole = bool((corners > 0).all() and (corners < limit).all())
        area = cv2.contourArea(corners)
        return not sighting.found, not whole, -round(np.log(max(area, 1.0)) * 4), sighting.frame

    return sorted(track.sightings, key=badness)


def settle(texts: Sequence[SceneText]) -> list[SceneText]:
    """Return the texts with doubtful and cut words replaced by the sure ones they stand for.

    A sign that leaves the frame, or is blurred for a moment, was read well at another time:
    "veryday" cut by the left border is "everyday", a doubtful "tokyc" is "tokyo". A digit among
    letters is doubtful at any score: "toky0" is "tokyo" where that was read. Of a word that is
    mostly outside of the frame nothing is left, nor of a cut one in the place of a moving line that
    does not have it.
    """
    sure = sorted({word for text in texts for word in _sure_words(text)})
    moving = [text for text in texts if text.line is not None and _sure_words(text)]
    settled = []
    for text in texts:
        near = (t for t in moving if any(text.cut) and (t.line == text.line or _in_row(t, text)))
        own = sorted({word for t in near for word in _sure_words(t)})
        settled.append(replace(text, words=_settled(text, sure, own)))
    return settled


def _sure_words(text: SceneText) -> tuple[str, ...]:
    """Return the words of a sure reading that no border touches."""
    whole = text.words[text.cut[0] : len(text.words) - text.cut[1]]
    return whole if text.score >= _SURE else ()


def _in_row(text: SceneText, other: SceneText) -> bool:
    """Whether two texts have the same height and place above the ground."""
    one, two = (_upright(t.first) for t in (text, other))
    apart = abs(_middle(text.first.polygon)[1] - _middle(other.first.polygon)[1])
    return apart < min(one, two) / 2 and max(one, two) <= _TALLER * min(one, two)


def _settled(text: SceneText, sure: Sequence[str], own: Sequence[str]) -> tuple[str, ...]:
    words = list(text.words)
    for is_cut, at in zip(text.cut, (0, -1), strict=True):
        if words and is_cut:
            words[at] = _completed(words[at], own or sure, left=at == 0, keep=not own)
    words = [_lettered(word, sure) for word in words]
    if text.score < _SURE:
        words = [_nearest(word, sure) if word.isalpha() else word for word in words]
    return tuple(words)


def _completed(part: str, sure: Sequence[str], *, left: bool, keep: bool) -> str:
    """Return the sure word whose end (at the `left` border) or begin is `part`.

    It is "" where too little of that word is to be seen; of an unknown one `part`, if to `keep`.
    """

    def fit(word: str) -> tuple[float, bool, int]:
        likeness = _likeness(part, word[-len(part) :] if left else word[: len(part)])
        return likeness, len(part) >= _MOST * len(word), len(word)

    best = max(sure, key=fit, default="")
    likeness, is_seen, _ = fit(best)
    if likeness < _ALIKE:
        return part if keep else ""
    return best if is_seen else ""


def _lettered(word: str, sure: Sequence[str]) -> str:
    """Return the sure word of letters alone that a mixed word looks like, or itself."""
    if word.isalpha() or not any(c.isalpha() for c in word):
        return word
    looks = word.translate(_LOOKS)
    return next((s for s in sure if s.isalpha() and s.translate(_LOOKS) == looks), word)


def _nearest(word: str, sure: Sequence[str]) -> str:
    """Return the sure word most like `word`, or itself where none is like it."""
    best = max(sure, key=lambda s: _likeness(word, s), default=word)
    return best if _likeness(word, best) >= _ALIKE else word


def _likeness(a: str, b: str) -> float:
    return SequenceMatcher(None, a, b).ratio()


def in_order(texts: Sequence[SceneText]) -> list[SceneText]:
    """Return the texts by first appearance, then line by line, then from left to right."""
    lines: list[list[SceneText]] = []
    for text in sorted(texts, key=lambda t: (t.first.frame, _middle(t.first.polygon)[1])):
        if lines and _on_line(text.first, lines[-1][0].first):
            lines[-1].append(text)
        else:
            lines.append([text])
    return [t for line in lines for t in sorted(line, key=lambda t: _middle(t.first.polygon)[0])]


def _on_line(sighting: Sighting, head: Sighting) -> bool:
    apart = _middle(sighting.polygon)[1] - _middle(head.polygon)[1]
    return sighting.frame == head.frame and apart < _upright(head) / 2


def _upright(sighting: Sighting) -> float:
    """Return the height of a line in pixels."""
    return float(np.linalg.norm(np.subtract(sighting.polygon[3], sighting.polygon[0])))


def _middle(polygon: Polygon) -> tuple[float, float]:
    x, y = np.mean(polygon, axis=0)
    return float(x), float(y)
