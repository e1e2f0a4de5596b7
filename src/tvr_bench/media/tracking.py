"""Text followed across frames, so that one sign is recognised once and not once per frame.

A line in one frame is the same text as a line in another where its pixels match after a shift,
character by character. That holds for a sign that moves with the camera, for one that the border
cuts, and for a ticker of which half is still to be seen; it does not hold for a changed digit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import nsmallest
from typing import TypeAlias

import cv2
import numpy as np

from tvr_bench.media.ocr import Polygon

Box: TypeAlias = tuple[int, int, int, int]  # left, top, right, bottom

_LONGEST = 640  # pixels of a frame's longest side in which pixels are compared
_PEAK = 0.6  # correlation of the middle of a line where it is found again
_STROKE = 0.1  # of a line's height: the patch over which a difference is averaged
# The greatest such difference, in standard deviations of a line, between sightings of one text.
# Measured on H.264 with letters of 10 to 34 pixels, ten pairs of words one character apart: none
# taken for the same and none of the same split; at low contrast 7 % of the same are split (which
# costs a second reading), and only at 10 pixels are different ones taken for the same (12 %).
_DIFFERS = 0.5
_FLAT = 4.0  # grey levels of deviation below which a line holds no stroke
_MARGIN = 0.15  # of a line's height, above and below, that is not compared
_COMMON = 0.5  # share of both lines that has to be seen in both
_CORE = 0.2  # share of a line at each end that its search leaves out, for the border may hide it
_NEAREST = 6  # tracks that a line is compared with
_CHANGE = 14.0  # grey levels between the same cell of two frames that show the same
_CUT = 40.0  # mean grey levels between the two sides of a cut
_CELLS = (64, 48)


@dataclass(frozen=True)
class Sighting:
    """One line of text in one frame; `found` says that the detector saw it there."""

    frame: int
    polygon: Polygon
    found: bool = True


@dataclass(eq=False)
class Track:
    """One text and the frames in which it stands, in the order they were looked at.

    `whole`: it is that of a moving line in the frames that show all of it.
    """

    sightings: list[Sighting] = field(default_factory=list)
    patch: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.float32), repr=False)
    inside: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.uint8), repr=False)
    box: Box = (0, 0, 0, 0)  # where `patch`, the grey pixels of the latest detection, was cut

    whole: bool = False

    def at(self, frame: int) -> Sighting | None:
        """Return the sighting in `frame`, if there is one."""
        return next((s for s in self.sightings if s.frame == frame), None)


def frames_to_detect(frames: np.ndarray | Sequence[np.ndarray], stride: int) -> list[int]:
    """Return the frames, uint8 [H, W, 3], that the detector has to see.

    Those are every `stride`-th and the first after a cut, less those that look in each of their
    cells like the one before them in the list.
    """
    cells = [
        cv2.resize(f, _CELLS, interpolation=cv2.INTER_AREA).astype(np.float32).mean(axis=2)
        for f in frames
    ]
    first = min(stride // 2, (len(frames) - 1) // 2)
    chosen: list[int] = []
    for i, cell in enumerate(cells):
        cut = i > 0 and np.abs(cell - cells[i - 1]).mean() > _CUT
        if not cut and i % stride != first:
            continue
        if not chosen or np.abs(cell - cells[chosen[-1]]).max() > _CHANGE:
            chosen.append(i)
    return chosen


class Tracker:
    """The lines of a clip, joined into tracks.

    `add` takes what the detector found, frame after frame; `follow` then looks for each track in
    the frames on either side of its sightings, without a detector.
    """

    def __init__(self, frames: np.ndarray | Sequence[np.ndarray]) -> None:
        self.tracks: list[Track] = []
        height, width = frames[0].shape[:2] if len(frames) else (1, 1)
        self._scale = min(1.0, _LONGEST / max(height, width))
        self._grey = [self._prepare(frame) for frame in frames]

    def _prepare(self, frame: np.ndarray) -> np.ndarray:
        """Return the grey pixels that are compared; the blur forgives half a pixel of shift."""
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        if self._scale < 1:
            grey = cv2.resize(
                grey, None, fx=self._scale, fy=self._scale, interpolation=cv2.INTER_AREA
            )
        return cv2.GaussianBlur(grey, (3, 3), 0).astype(np.float32)

    def add(self, frame: int, polygons: Sequence[Polygon]) -> None:
        """Give each line of `frame` to the track that it continues, or to a new one."""
        free = list(self.tracks)
        for polygon in polygons:
            box = self._box(polygon)
            track = next((t for t in self._nearest(free, box) if self._same(t, frame, box)), None)
            if track is None:
                track = Track()
                self.tracks.append(track)
            else:
                free.remove(track)
            track.sightings.append(Sighting(frame, polygon))
            track.patch, track.box = self._cut(frame, box), box
            track.inside = self._mask(polygon, box)

    def follow(self) -> None:
        """Add a sighting wherever a track is still to be seen next to one of its sightings."""
        last = len(self._grey) - 1
        for frames, step in ((range(1, last + 1), -1), (range(last - 1, -1, -1), 1)):
            for frame in frames:
                for track in self.tracks:
                    known = track.at(frame + step)
                    if known and not track.at(frame):
                        self._step(track, known, frame)
        for track in self.tracks:
            track.sightings.sort(key=lambda sighting: sighting.frame)

    def _step(self, track: Track, known: Sighting, frame: int) -> None:
        box = self._box(known.polygon)
        patch = self._cut(known.frame, box)
        reach = max(box[3] - box[1], self._grey[frame].shape[1] // 20)
        place = _find(patch, self._grey[frame], box[:2], (reach, reach))
        inside = self._mask(known.polygon, box)
        if place and _matches(patch, inside, self._grey[frame], place):
            shift = ((place[0] - box[0]) / self._scale, (place[1] - box[1]) / self._scale)
            polygon = tuple((x + shift[0], y + shift[1]) for x, y in known.polygon)
            track.sightings.append(Sighting(frame, polygon, found=False))

    def _same(self, track: Track, frame: int, box: Box) -> bool:
        """Whether the line in `box` of `frame` is the text of `track`."""
        grey, (height, width) = self._grey[frame], track.patch.shape
        wide, high = box[2] - box[0], box[3] - box[1]
        if not 0.7 <= high / height <= 1.4:
            return False
        # Only a line that the border cuts can show another part of itself in the same box.
        cut = box[0] <= 1 or box[2] >= grey.shape[1] - 1
        slack = max(4, height // 2)
        reach = (wide // 2 if cut else abs(wide - width) // 2 + slack, slack)
        start = ((box[0] + box[2] - width) // 2, (box[1] + box[3] - height) // 2)
        place = _find(track.patch, grey, start, reach)
        if place is None:
            return False
        common = min(place[0] + width, box[2]) - max(place[0], box[0])
        return common >= _COMMON * max(width, wide) and _matches(
            track.patch, track.inside, grey, place, (box[0], box[2])
        )

    def _nearest(self, tracks: Sequence[Track], box: Box) -> list[Track]:
        """Return the few tracks nearest in place and size; a page of text has hundreds."""

        def distance(track: Track) -> int:
            return sum(abs(a - b) for a, b in zip(track.box, box, strict=True))

        return nsmallest(_NEAREST, tracks, key=distance)

    def _box(self, polygon: Polygon) -> Box:
        """Return the bounds of a line in the pixels that are compared, inside the frame."""
        height, width = self._grey[0].shape
        xs, ys = zip(*polygon, strict=True)
        left = min(max(0, int(min(xs) * self._scale)), width - 2)
        top = min(max(0, int(min(ys) * self._scale)), height - 2)
        right = min(width, max(left + 2, round(max(xs) * self._scale)))
        return left, top, right, min(height, max(top + 2, round(max(ys) * self._scale)))

    def _cut(self, frame: int, box: Box) -> np.ndarray:
        return self._grey[frame][box[1] : box[3], box[0] : box[2]]

    def _mask(self, polygon: Polygon, box: Box) -> np.ndarray:
        """Return the pixels of `box` that a line's middle covers, where its strokes are."""
        corners = np.asarray(polygon, np.float32) * self._scale - box[:2]
        down = (corners[[3, 2]] - corners[[0, 1]]) * _MARGIN
        corners = np.concatenate([corners[:2] + down, corners[2:] - down[::-1]])
        mask = np.zeros((box[3] - box[1], box[2] - box[0]), np.uint8)
        cv2.fillConvexPoly(mask, corners.round().astype(np.int32), 1)
        return mask


def _find(
    patch: np.ndarray, grey: np.ndarray, start: tuple[int, int], reach: tuple[int, int]
) -> tuple[int, int] | None:
    """Return where the corner of `patch` [h, w] lies in `grey`, within `reach` of `start`."""
    skip = int(patch.shape[1] * _CORE)
    core = patch[:, skip : patch.shape[1] - skip]
    left, top = max(0, start[0] + skip - reach[0]), max(0, start[1] - reach[1])
    right = start[0] + skip + core.shape[1] + reach[0]
    region = grey[top : max(0, start[1] + patch.shape[0] + reach[1]), left : max(0, right)]
    if region.shape[0] < core.shape[0] or region.shape[1] < core.shape[1] or core.std() < _FLAT:
        return None
    scores = cv2.matchTemplate(region, core, cv2.TM_CCOEFF_NORMED)
    _, peak, _, (x, y) = cv2.minMaxLoc(scores)
    return (left + x - skip, top + y) if peak >= _PEAK else None


def _matches(
    patch: np.ndarray,
    inside: np.ndarray,
    grey: np.ndarray,
    place: tuple[int, int],
    columns: tuple[int, int] | None = None,
) -> bool:
    """Whether `patch` [h, w], its corner at `place`, shows the same strokes in `grey`.

    Only pixels of the mask `inside` [h, w] that lie in `grey`, and between its `columns` where
    given, are compared. Half a stroke that differs is enough for a no.
    """
    height, width = patch.shape
    left, right = columns or (0, grey.shape[1])
    first = max(0, left - place[0], -place[0])
    last = min(width, right - place[0], grey.shape[1] - place[0])
    top, bottom = max(0, -place[1]), min(height, grey.shape[0] - place[1])
    if last - first < height // 2 or bottom - top < 3:
        return False
    x, y = place
    mask = inside[top:bottom, first:last]
    a = patch[top:bottom, first:last]
    b = grey[y + top : y + bottom, x + first : x + last]
    mean_a, spread_a = _spread(a, mask)
    mean_b, spread_b = _spread(b, mask)
    if min(spread_a, spread_b) < _FLAT or not 0.5 < spread_a / spread_b < 2:
        return False
    difference = (a - mean_a) - (b - mean_b) * (spread_a / spread_b)
    stroke = max(3, round(_STROKE * height))
    worst = np.abs(cv2.blur(difference, (stroke, stroke)))[mask > 0].max()
    return bool(worst <= _DIFFERS * spread_a)


def _spread(pixels: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    mean, deviation = cv2.meanStdDev(pixels, mask=mask)
    return float(mean[0, 0]), float(deviation[0, 0])
