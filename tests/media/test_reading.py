"""From the frames of a clip to its texts: votes, order, repairs, thresholds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from ocr_clips import ColourEngine, draw

from tvr_bench.media.ocr import Polygon
from tvr_bench.media.reading import SceneText, in_order, read_texts, settle
from tvr_bench.media.tracking import Sighting
from tvr_bench.media.windows import WindowSpec


def box(left: float, top: float, width: float = 60, height: float = 20) -> Polygon:
    right, bottom = left + width, top + height
    return ((left, top), (right, top), (right, bottom), (left, bottom))


def text(words: str, frame: int = 0, left: float = 0, top: float = 0, **rest: object) -> SceneText:
    first = Sighting(frame, box(left, top))
    values: dict = {"score": 0.99, "frames": frozenset({frame})} | rest
    return SceneText(words=tuple(words.split()), first=first, **values)


class Scripted(ColourEngine):
    """Reads what it is told to, one list of readings per call."""

    def __init__(self, script: Sequence[Sequence[tuple[str, float]]]) -> None:
        super().__init__()
        self.script = list(script)

    def recognise(self, crops: Sequence[np.ndarray]) -> list[tuple[str, float]]:
        super().recognise(crops)
        readings = self.script.pop(0)
        assert len(readings) == len(crops)
        return list(readings)


def moving_hotel(count: int = 6) -> np.ndarray:
    return np.stack([draw([("hotel", 10 + 10 * i, 40)]) for i in range(count)])


def test_a_sign_is_recognised_once_and_stands_in_every_frame() -> None:
    engine = ColourEngine()
    texts = read_texts(moving_hotel(), WindowSpec(), engine)
    assert [(t.words, t.frames) for t in texts] == [(("hotel",), frozenset(range(6)))]
    assert engine.crops == 1


def test_stride_saves_detector_calls_and_loses_no_frame() -> None:
    engine = ColourEngine()
    texts = read_texts(moving_hotel(), WindowSpec(stride=3), engine)
    assert texts[0].frames == frozenset(range(6))
    assert engine.frames == 2


def test_reading_order_is_by_line_then_from_left() -> None:
    texts = [
        text("d", frame=1, top=0),
        text("c", left=0, top=40),
        text("b", left=90, top=4),
        text("a", left=5, top=9),
    ]
    assert [t.words[0] for t in in_order(texts)] == ["a", "b", "c", "d"]


def test_first_appearance_comes_before_the_place_on_the_screen() -> None:
    early, late = ("museum", 20, 110), ("bakery", 20, 20)
    frames = np.stack([draw([early] if i < 3 else [early, late]) for i in range(6)])
    texts = read_texts(frames, WindowSpec(), ColourEngine())
    assert [t.words for t in texts] == [("museum",), ("bakery",)]


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ([[("HOTEL", 0.95)]], ("hotel",)),  # sure: one reading
        ([[("HOTFL", 0.6)], [("HOTEL", 0.97)]], ("hotel",)),  # a sure second one wins
        ([[("ALL", 0.8)], [("X", 0.2)]], None),  # contradicted: dropped
        ([[("HOTEL", 0.7)], [("HOTEL", 0.6)]], ("hotel",)),  # confirmed: kept
        ([[("HOTEL", 0.2)]], None),  # below every threshold: not even asked again
        ([[("+*+", 0.6)]], None),  # no letter in it
    ],
)
def test_doubtful_readings_are_put_to_the_vote(
    script: list[list[tuple[str, float]]], expected: tuple[str, ...] | None
) -> None:
    engine = Scripted(script)
    texts = read_texts(moving_hotel(), WindowSpec(votes=2), engine)
    assert [t.words for t in texts] == ([expected] if expected else [])
    assert not engine.script


def test_low_scores_and_short_words_are_dropped_but_numbers_stay() -> None:
    frames = moving_hotel()
    spec = WindowSpec(votes=1, min_score=0.5, min_chars=3)
    assert read_texts(frames, spec, Scripted([[("HOTEL", 0.49)]])) == []
    texts = read_texts(frames, spec, Scripted([[("HOTEL by 7 x", 0.95)]]))
    assert texts[0].words == ("hotel", "7")


def test_words_of_other_scripts_are_dropped() -> None:
    read = read_texts(moving_hotel(), WindowSpec(), Scripted([[("Café 北京 ОТЕЛЬ", 0.99)]]))
    assert [t.words for t in read] == [("cafe",)]


def test_cut_and_doubtful_words_become_the_whole_ones() -> None:
    texts = [
        text("everyday low price"),
        text("veryday low", cut=(True, False)),
        text("low pri", cut=(False, True)),
        text("lov prise", score=0.6),
        text("veryday"),  # whole and sure: left alone
        text("zebra", score=0.6),
    ]
    assert [" ".join(t.words) for t in settle(texts)] == [
        "everyday low price",
        "everyday low",
        "low price",
        "lov price",
        "veryday",
        "zebra",
    ]


@pytest.mark.parametrize(
    ("read", "expected"),
    [
        ("toky0", "tokyo"),
        ("be11", "bell"),
        ("5a1e", "sale"),
        ("10", "10"),  # a number, whatever it looks like
        ("t0kyoo", "t0kyoo"),
        ("a4", "a4"),
    ],
)
def test_a_digit_among_letters_is_the_letter_that_was_read_elsewhere(
    read: str, expected: str
) -> None:
    texts = settle([text("tokyo bell sale lo"), text(read)])
    assert texts[1].words == (expected,)


def test_frames_without_text_ask_nothing_of_the_recogniser() -> None:
    engine = ColourEngine()
    assert read_texts(np.stack([draw([])] * 4), WindowSpec(), engine) == []
    assert engine.crops == 0


def test_of_a_page_of_text_only_the_most_visible_lines_are_read() -> None:
    shown = [("hotel", 20, 20), ("museum", 20, 60), ("bakery", 20, 100)]
    frames = np.stack([draw(shown if i else shown[:2], px=12) for i in range(4)])
    engine = ColourEngine()
    texts = read_texts(frames, WindowSpec(windows=1, max_words=2), engine)
    assert [t.words for t in texts] == [("hotel",), ("museum",)]
    assert engine.crops == 2


@pytest.mark.parametrize(
    ("words", "cut", "expected"),
    [
        ("breakii", (False, True), "breaking"),  # misread, and mostly to be seen
        ("brea", (False, True), ""),
        ("ws", (True, False), ""),
        ("aking news", (True, False), "breaking news"),
        ("bi", (False, True), ""),  # of what is no word of this line nothing is left
    ],
)
def test_a_moving_line_has_whole_words_alone_where_the_border_cuts_it(
    words: str, cut: tuple[bool, bool], expected: str
) -> None:
    line = [text("breaking news", line=3), text("museum breakfast", top=90), text(words, cut=cut)]
    for number in (3, None):  # also where the tracker has not seen that it is the same line
        line[-1] = text(words, frame=5, cut=cut, line=number)
        assert " ".join(settle(line)[-1].words).strip() == expected
