"""Tracking: the same text is one track, another text is another."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import pytest
from ocr_clips import GREY, draw, font
from PIL import Image

from tvr_bench.media.ocr import Polygon
from tvr_bench.media.tracking import Tracker, frames_to_detect

SIZE = (224, 160)


def noisy(frame: np.ndarray, quality: int = 45) -> np.ndarray:
    """Return the frame with the noise of a codec."""
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def board(text: str, left: int, top: int, px: int, shift: int = 0) -> Polygon:
    """Return the box that a detector would find around a word of `draw`."""
    width = font(px).getlength(text.upper())
    x0, x1 = max(0.0, left - 5 + shift), min(SIZE[0], left + width + 5 + shift)
    return ((x0, top - 3), (x1, top - 3), (x1, top + px + 5), (x0, top + px + 5))


def tracks_of(texts: Sequence[tuple[str, int, int]], px: int) -> int:
    frames = np.stack([noisy(draw([sign], SIZE, px)) for sign in texts])
    tracker = Tracker(frames)
    for i, sign in enumerate(texts):
        tracker.add(i, [board(*sign, px, shift=i % 2)])
    return len(tracker.tracks)


@pytest.mark.parametrize("px", [12, 16, 24])
@pytest.mark.parametrize(
    ("one", "other"),
    [("price 1.30", "price 1.50"), ("coffee", "coffie"), ("12:08", "12:09"), ("bank", "bark")],
)
def test_one_changed_character_is_another_text(one: str, other: str, px: int) -> None:
    assert tracks_of([(one, 30, 40), (one, 30, 40)], px) == 1
    assert tracks_of([(one, 30, 40), (other, 30, 40)], px) == 2


def test_a_sign_that_moves_stays_one_track() -> None:
    assert tracks_of([("bakery", 20 + 9 * i, 40 + 5 * i) for i in range(6)], 18) == 1


def test_a_sign_that_leaves_through_the_border_stays_one_track() -> None:
    assert tracks_of([("bakery", left, 40) for left in (110, 130, 140)], 18) == 1


def test_two_signs_at_once_are_two_tracks_even_with_one_text() -> None:
    frames = np.stack([draw([("hotel", 20, 20), ("hotel", 20, 100)], SIZE)] * 2)
    tracker = Tracker(frames)
    for i in range(2):
        tracker.add(i, [board("hotel", 20, 20, 18), board("hotel", 20, 100, 18)])
    assert [len(track.sightings) for track in tracker.tracks] == [2, 2]


def test_a_text_that_comes_back_is_the_same_track() -> None:
    shown = draw([("museum", 40, 60)], SIZE)
    tracker = Tracker(np.stack([shown, draw([], SIZE), noisy(shown)]))
    tracker.add(0, [board("museum", 40, 60, 18)])
    tracker.add(2, [board("museum", 40, 60, 18)])
    assert [s.frame for s in tracker.tracks[0].sightings] == [0, 2]
    assert len(tracker.tracks) == 1


def test_follow_fills_the_frames_that_the_detector_skipped() -> None:
    signs = [[] if i < 2 or i > 7 else [("station", 30 + 3 * i, 50 - i)] for i in range(10)]
    tracker = Tracker(np.stack([noisy(draw(sign, SIZE)) for sign in signs]))
    tracker.add(5, [board(*signs[5][0], 18)])
    tracker.follow()
    sightings = tracker.tracks[0].sightings
    assert [s.frame for s in sightings] == [2, 3, 4, 5, 6, 7]
    assert [s.found for s in sightings] == [False, False, False, True, False, False]
    moved = sightings[-1].polygon[0][0] - sightings[0].polygon[0][0]
    assert moved == pytest.approx(15, abs=1)


def test_a_flat_box_is_never_followed() -> None:
    tracker = Tracker(np.full((4, 160, 224, 3), GREY, np.uint8))
    tracker.add(1, [board("hotel", 40, 60, 18)])
    tracker.follow()
    assert [s.frame for s in tracker.tracks[0].sightings] == [1]


def test_frames_that_show_the_same_are_detected_once() -> None:
    still = [noisy(draw([("hotel", 20, 20)], SIZE), quality) for quality in range(45, 57)]
    assert len(frames_to_detect(still, 1)) == 1
    still[7] = draw([("hotel", 20, 20), ("bank", 150, 120)], SIZE, 10)
    assert 7 in frames_to_detect(still, 1)


def test_stride_thins_the_detector_and_a_cut_brings_it_back() -> None:
    moving = [draw([("hotel", 10 + 9 * i, 20)], SIZE) for i in range(12)]
    assert frames_to_detect(moving, 3) == [1, 4, 7, 10]
    moving[9:] = [255 - frame for frame in moving[9:]]
    assert frames_to_detect(moving, 3) == [1, 4, 7, 9, 10]
    assert frames_to_detect(moving[:2], 5) == [0]
    assert frames_to_detect([], 3) == []
