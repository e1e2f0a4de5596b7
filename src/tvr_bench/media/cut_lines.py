"""Lines that move through a border of the frame, and what of them each frame shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tvr_bench.media.tracking import Sighting, Track

_NEAR = 0.01  # of a frame's width: a line that comes so near to a border may be cut by it


def cut_sides(sighting: Sighting, width: int) -> tuple[bool, bool]:
    """Return whether the left and the right border of a frame cut a line."""
    xs = [x for x, _ in sighting.polygon]
    near = max(1, width * _NEAR)
    return min(xs) <= near, max(xs) >= width - near


def parts_shown(track: Track, frames: np.ndarray | Sequence[np.ndarray]) -> list[Track]:
    """Return a track as parts that can be read once each.

    A line that moves through a border shows another part of itself in each frame that cuts it: each
    such sighting is a part. A line that stands still, or is whole everywhere, is one.
    """
    height, width = frames[0].shape[:2]
    seen = [_inside(sighting, height, width) for sighting in track.sightings]
    cut = _are_cut(seen, width)
    if not any(cut) or not _moves(seen):
        return [track]
    whole = [s for s, is_cut in zip(seen, cut, strict=True) if not is_cut]
    parts = [Track([s]) for s, is_cut in zip(seen, cut, strict=True) if is_cut]
    return [Track(whole, whole=True), *parts] if whole else parts


def _inside(sighting: Sighting, height: int, width: int) -> Sighting:
    """Return the part of a sighting that lies in its frame."""
    corners = np.clip(np.asarray(sighting.polygon), 0, (width, height))
    return replace(sighting, polygon=tuple((float(x), float(y)) for x, y in corners))


def _are_cut(sightings: Sequence[Sighting], width: int) -> list[bool]:
    """Say of each sighting whether a border cuts it, and does not just touch the whole line.

    None is whole of a line that is longer than the frame is wide.
    """
    touched = [cut_sides(sighting, width) for sighting in sightings]
    if any(all(sides) for sides in touched):
        return [True] * len(sightings)
    corners = np.asarray([s.polygon for s in sightings])
    lengths = np.ptp(corners[..., 0], axis=1)
    whole = lengths.max() - np.linalg.norm(corners[:, 3] - corners[:, 0], axis=1).max() / 2
    return [any(sides) and n < whole for n, sides in zip(lengths, touched, strict=True)]


def _moves(sightings: Sequence[Sighting]) -> bool:
    """Whether one end of a line, as far as it is to be seen, moves by more than half a letter."""
    corners = np.asarray([s.polygon for s in sightings])
    letter = np.linalg.norm(corners[:, 3] - corners[:, 0], axis=1).max() / 2
    ends = corners[..., 0].min(axis=1), corners[..., 0].max(axis=1)
    return any(float(np.ptp(end)) > letter for end in ends)
