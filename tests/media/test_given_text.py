"""Scene text that others read: the same windows and words as our own, and no file that harms."""

from __future__ import annotations

import json
import math
import os
import resource
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from make_clips import make_clip
from ocr_clips import ColourEngine, clip

from tiny import TINY_MODEL, TINY_RUN
from tvr_bench import config, report
from tvr_bench.datamodules.csv import CsvDataModule
from tvr_bench.datamodules.tokens import build_tokenizer
from tvr_bench.datamodules.types import Clip
from tvr_bench.errors import UserError
from tvr_bench.files import Ledger
from tvr_bench.media import given_files, given_text
from tvr_bench.media.captioner import read_windows
from tvr_bench.media.given_files import read_kwai, read_tracks
from tvr_bench.media.given_text import GivenSpec, build_given
from tvr_bench.media.windows import WindowSpec
from tvr_bench.parts import Part

SPEC = WindowSpec(windows=4, reads=2)
FPS = 10
SIGNS = {  # text, left and top, frames that show it; of 40 frames
    "hotel": (20, 115, range(40)),
    "bakery": (30, 20, range(20, 40)),
    "museum": (120, 115, range(30, 40)),
    "lotto 777": (60, 66, range(30, 40)),
}


def box(left: float, top: float, width: float = 60, height: float = 20) -> list[float]:
    """Return a place as Kwai has it: four corners, and two numbers more."""
    right, bottom = left + width, top + height
    return [left, top, right, top, right, bottom, left, bottom, 0, 1]


def track(text: str, frames: Sequence[int], score: Any = 0.9, at: tuple[int, int] = (5, 5)) -> Any:
    return {"text": text, "score": score, "tracks": {str(n): box(*at) for n in frames}}


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four seconds at ten frames each, with the signs in their frames."""

    def shown(frame: int) -> list[tuple[str, int, int]]:
        return [(t, x, y) for t, (x, y, frames) in SIGNS.items() if frame in frames]

    return clip(tmp_path_factory.mktemp("clips") / "street.mp4", shown)


@pytest.fixture
def kwai(tmp_path: Path) -> GivenSpec:
    """Kwai's file of the clip `street`, its tracks in no order."""
    tracks = {
        str(100 - i): track(t.upper(), list(f), 0.9, (x, y)) for i, (t, (x, y, f)) in _signs()
    }
    (tmp_path / "kwai").mkdir()
    (tmp_path / "kwai" / "street.json").write_text(json.dumps(tracks))
    return GivenSpec("kwai", tmp_path / "kwai")


@pytest.fixture
def tracks(tmp_path: Path) -> GivenSpec:
    """The same as a file of tracks."""
    lines = [
        {"video": "street", "text": t, "score": 0.9, "start": f[0] / FPS, "end": (f[-1] + 1) / FPS}
        for _, (t, (_, _, f)) in reversed(list(_signs()))
    ]
    path = tmp_path / "tracks.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return GivenSpec("tracks", tmp_path)


def _signs() -> Any:
    return enumerate(SIGNS.items())


def build(
    given: GivenSpec, clips: Sequence[Clip], spec: WindowSpec = SPEC, **how: Any
) -> dict[str, list[str]]:
    names = how.pop("names", {c.id: (c.id,) for c in clips})
    root = how.pop("root", given.place.parent / "cache")
    return build_given(clips, names, given, spec, root, **{"ledger": Ledger(), **how})


def test_windows_and_words_are_the_captioners(
    video: Path, kwai: GivenSpec, tracks: GivenSpec
) -> None:
    for spec in (SPEC, replace(SPEC, windows=3), replace(SPEC, xi=0.4), replace(SPEC, max_words=2)):
        ours = [w.caption for w in read_windows(video, spec, ColourEngine())]
        assert any("bakery" in caption for caption in ours)
        assert build(kwai, [Clip("street", video)], spec)["street"] == ours
        others = build(tracks, [Clip("street", video)], spec)["street"]
        if (
            spec.max_words > 2
        ):  # a file of tracks has no places, so signs of one moment have no order
            assert [sorted(o.split()) for o in others] == [sorted(o.split()) for o in ours]


def test_a_part_of_a_video_has_the_text_of_its_seconds(
    video: Path, kwai: GivenSpec, tracks: GivenSpec
) -> None:
    part = Clip("street", video, 1.0, 3.0)
    spec = replace(SPEC, windows=2)
    for given in (kwai, tracks):
        assert build(given, [part], spec)["street"] == ["hotel", "hotel bakery"]


def test_words_are_folded_dropped_and_counted_as_our_own(video: Path, tmp_path: Path) -> None:
    said = {
        "Café £1.30": 0.9,
        "出口 exit": 0.9,
        "a 7": 0.9,
        "doubtful": 0.49,
        "SURE!": 0.5,
        "sure": 0.9,
        "---": 0.9,
    }
    tracks = {str(i): track(t, [0], s, (5, 20 * i)) for i, (t, s) in enumerate(said.items())}
    (tmp_path / "street.json").write_text(json.dumps(tracks))
    found = build(GivenSpec("kwai", tmp_path), [Clip("street", video)], root=tmp_path / "cache")
    assert found["street"] == ["cafe 1.30 exit 7 sure", "", "", ""]


def test_text_is_ordered_by_its_first_frame_then_by_lines(video: Path, tmp_path: Path) -> None:
    tracks = {
        "1": track("third", [1, 2], at=(5, 5)),
        "2": track("second", [0], at=(90, 52)),
        "3": track("first", [0], at=(5, 50)),
    }
    (tmp_path / "street.json").write_text(json.dumps(tracks))
    found = build(GivenSpec("kwai", tmp_path), [Clip("street", video)], root=tmp_path / "cache")
    assert found["street"][0] == "first second third"


def test_text_that_goes_and_comes_back_is_not_there_between(video: Path, tmp_path: Path) -> None:
    (tmp_path / "street.json").write_text(json.dumps({"1": track("ticker", [0, 1, 35])}))
    found = build(GivenSpec("kwai", tmp_path), [Clip("street", video)], root=tmp_path / "cache")
    assert found["street"] == ["ticker", "", "", "ticker"]


def test_text_of_one_moment_is_in_the_window_of_that_moment(video: Path, tmp_path: Path) -> None:
    for second, windows in ((0, [0]), (0.999, [0]), (1, [1]), (3.999, [3])):
        line = {"video": "street", "text": "flash", "start": second, "end": second}
        (tmp_path / "tracks.jsonl").write_text(json.dumps(line))
        found = build(GivenSpec("tracks", tmp_path), [Clip("street", video)])["street"]
        assert [i for i, caption in enumerate(found) if caption] == windows


def test_a_text_longer_than_any_window_is_in_all_of_them(video: Path, tmp_path: Path) -> None:
    line = {"video": "street", "text": "logo", "start": 0.5, "end": 3.5}
    (tmp_path / "tracks.jsonl").write_text(json.dumps(line))
    found = build(GivenSpec("tracks", tmp_path), [Clip("street", video)], replace(SPEC, xi=0.2))
    assert found["street"] == ["logo"] * 4


def test_frames_are_those_of_a_video_of_any_rate_unless_told(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "slow.mp4", count=8, fps=2, size=(48, 32))
    (tmp_path / "slow.json").write_text(json.dumps({"1": track("late", [6, 7])}))
    own = GivenSpec("kwai", tmp_path)
    assert build(own, [Clip("slow", path)])["slow"] == ["", "", "", "late"]
    told = replace(own, fps=4.0)
    assert build(told, [Clip("slow", path)])["slow"] == ["", "late", "", ""]


def test_frames_that_the_video_has_not_are_named(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "slow.mp4", count=8, fps=2, size=(48, 32))
    (tmp_path / "slow.json").write_text(json.dumps({"1": track("x2", [0, 100])}))
    ledger = Ledger()
    assert build(GivenSpec("kwai", tmp_path), [Clip("slow", path)], ledger=ledger) == {}
    (entry,) = ledger.entries
    assert entry.stage == "ocr" and "at 50.5 s" in entry.message and "given_fps" in entry.message


def test_seconds_after_the_end_are_named(video: Path, tmp_path: Path) -> None:
    line = {"video": "street", "text": "x2", "start": 1000, "end": 2000}
    (tmp_path / "tracks.jsonl").write_text(json.dumps(line))
    ledger = Ledger()
    assert build(GivenSpec("tracks", tmp_path), [Clip("street", video)], ledger=ledger) == {}
    assert "at 2000.0 s, and the video ends at 4.0 s; give seconds" in ledger.entries[0].message


def test_a_second_build_reads_no_file_again(
    video: Path, kwai: GivenSpec, tracks: GivenSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = [Clip("street", video)]
    first = [build(given, clips) for given in (kwai, tracks)]
    with monkeypatch.context() as patch:
        patch.setattr(given_text, "open_video", None)
        assert [build(given, clips) for given in (kwai, tracks)] == first
    text = (kwai.place / "street.json").read_text()
    (kwai.place / "street.json").write_text(text.replace("HOTEL", "MOTEL"))
    assert build(kwai, clips)["street"][0] == "motel"
    assert build(kwai, clips, replace(SPEC, min_score=0.95))["street"] == [""] * 4
    assert build(kwai, clips, replace(SPEC, side=32, votes=9))["street"][0] == "motel"


@pytest.mark.slow
def test_processes_place_the_same_as_one(video: Path, kwai: GivenSpec, tmp_path: Path) -> None:
    clips = [Clip(f"c{i}", video, 0.0, 2.0 + i / 2) for i in range(4)]
    names = {c.id: ("street",) for c in clips}
    alone = build(kwai, clips, names=names, root=tmp_path / "one")
    assert build(kwai, clips, names=names, root=tmp_path / "two", workers=2) == alone
    assert len(set(map(tuple, alone.values()))) > 1


def test_what_is_missing_is_empty_and_on_the_ledger_each_time(
    video: Path, kwai: GivenSpec, tmp_path: Path
) -> None:
    (kwai.place / "broken.json").write_text("{")
    (kwai.place / "gone.json").write_text("{}")
    (kwai.place / "bad.json").write_text("{}")
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    clips = [Clip(name, video) for name in ("street", "untold", "broken")]
    clips += [Clip("gone", tmp_path / "gone.mp4"), Clip("bad", tmp_path / "bad.mp4")]
    for _ in range(2):
        ledger = Ledger()
        assert set(build(kwai, clips, ledger=ledger)) == {"street"}
        lines = {entry.id: entry.message for entry in ledger.entries}
        assert set(lines) == {"untold", "broken", "gone", "bad"}
        assert {entry.stage for entry in ledger.entries} == {"ocr"}
        assert "untold.json is not there" in lines["untold"]
        assert "broken.json is not readable JSON" in lines["broken"]


def test_a_clip_without_a_line_is_on_the_ledger_and_one_without_text_is_not(
    video: Path, tracks: GivenSpec
) -> None:
    with open(tracks.tracks, "a", encoding="utf-8") as file:
        file.write('\n{"video": "bare"}\n')
    ledger = Ledger()
    clips = [Clip(name, video) for name in ("street", "bare", "untold")]
    found = build(tracks, clips, ledger=ledger)
    assert set(found) == {"street", "bare"} and found["bare"] == [""] * 4
    assert [entry.id for entry in ledger.entries] == ["untold"]
    assert "has no line about untold" in ledger.entries[0].message


def test_the_first_name_with_text_is_read(video: Path, kwai: GivenSpec, tracks: GivenSpec) -> None:
    names = {"a": ("x" * 300, "nowhere/a", "street", "b")}
    for given in (kwai, tracks):
        assert build(given, [Clip("a", video)], names=names)["a"][0] == "hotel"


def test_a_part_of_the_work_is_done_by_each_of_several(video: Path, kwai: GivenSpec) -> None:
    clips = [Clip(f"c{i}", video, 0.0, 1.0 + i / 10) for i in range(12)]
    names = {c.id: ("street",) for c in clips}
    done = [set(build(kwai, clips, names=names, part=Part(i, 2))) for i in (0, 1)]
    assert done[0] and done[0] < done[1] == {c.id for c in clips}, "the second finds the first's"


def test_a_clip_that_took_too_long_is_tried_again_under_another_limit(
    video: Path, kwai: GivenSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(title: str, shards: Any, work: Any, **_: Any) -> None:
        for shard in shards:
            work(replace(shard, lost={0: "took longer than 9 s"}), lambda: None)

    clips, spec = [Clip("street", video)], replace(SPEC, timeout=9.0)
    with monkeypatch.context() as patch:
        patch.setattr(given_text, "run_shards", lose)
        build(kwai, clips, spec)
    ledger = Ledger()
    assert build(kwai, clips, spec, ledger=ledger) == {}
    assert "took longer than 9 s" in ledger.entries[0].message
    again = build(kwai, clips, replace(spec, timeout=60.0))
    assert again["street"][0] == "hotel"


def test_a_pipe_is_not_waited_for(video: Path, kwai: GivenSpec, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "street.mp4")
    os.mkfifo(kwai.place / "other.json")
    ledger = Ledger()
    clips = [Clip("street", tmp_path / "street.mp4"), Clip("other", video)]
    assert build(kwai, clips, ledger=ledger) == {}
    assert {entry.id for entry in ledger.entries} == {"street", "other"}


@pytest.mark.parametrize(
    ("source", "place", "expected"),
    [
        ("kwai", "nowhere", "nowhere is no folder"),
        ("kwai", "tracks.jsonl", "is no folder"),
        ("kwai", ".", r"holds no scene text of any of 1 clips, such as other\.json"),
        ("tracks", "nowhere", "there is no .*nowhere"),
        ("tracks", "kwai", r"there is no .*kwai.tracks\.jsonl"),
        ("tracks", ".", "names none of 1 clips; .* such as other"),
        ("tracks", "tracks.jsonl", "names none of 1 clips"),
    ],
)
def test_a_wrong_place_is_said(
    source: str, place: str, expected: str, video: Path, kwai: GivenSpec, tracks: GivenSpec
) -> None:
    given = GivenSpec(source, tracks.place / place)
    with pytest.raises(UserError, match=expected) as error:
        build(given, [Clip("other", video)])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["../secret", "/secret", "link/secret", "loop", "link"])
def test_nothing_outside_of_the_folder_is_opened(name: str, video: Path, kwai: GivenSpec) -> None:
    outside = kwai.place.parent
    (outside / "secret.json").write_text(json.dumps({"1": track("secret", [0])}))
    (kwai.place / "link").symlink_to(outside)
    (kwai.place / "link.json").symlink_to(outside / "secret.json")
    (kwai.place / "loop.json").symlink_to(kwai.place / "loop.json")
    clips = [Clip("street", video), Clip("a", video)]
    names = {"street": ("street",), "a": (name,)}
    try:
        assert "a" not in build(kwai, clips, names=names)
    except UserError as error:
        assert "leads out of ocr.given" in str(error)


SOME = track("exit", [0, 1])


def _kwai_with(**changes: Any) -> str:
    return json.dumps({"7": {**SOME, **changes}})


def _at(frames: Any) -> str:
    return _kwai_with(tracks=frames)


GOOD_KWAI = {
    "nothing": ("{}", []),
    "plain": (json.dumps({"7": SOME}), ["exit"]),
    "byte-order mark": (b"\xef\xbb\xbf" + json.dumps({"7": SOME}).encode(), ["exit"]),
    "CRLF": (json.dumps({"7": SOME}, indent=1).replace("\n", "\r\n"), ["exit"]),
    "score in quotes": (_kwai_with(score="0.9"), ["exit"]),
    "whole score": (_kwai_with(score=1), ["exit"]),
    "score below the limit": (_kwai_with(score=0.1), []),
    "no frame": (_at({}), []),
    "empty text": (_kwai_with(text=""), []),
    "emoji": (_kwai_with(text="🐕‍🦺 dog 🚪"), ["dog"]),
    "half a character": ('{"7": {"text": "a \\ud83d dog", "score": 1, "tracks": {}}}', []),
    "10,000 characters": (_kwai_with(text="word " * 2000), ["word"] * 2000),
    "eight numbers": (_at({"0": box(1, 2)[:8]}), ["exit"]),
    "frames without order": (_at({"9": box(1, 2), "3": box(1, 2)}), ["exit"]),
    "a fraction of a pixel": (_at({"0": box(0.5, -3.25)}), ["exit"]),
    "further keys": (_kwai_with(recommend_box=[1, 2]), ["exit"]),
}
BAD_KWAI = {
    "empty file": ("", "not readable JSON"),
    "cut off": (json.dumps({"7": SOME})[:-4], "not readable JSON"),
    "a list": ("[]", "must hold an object of tracks"),
    "latin-1": ('{"é": 1}'.encode("latin-1"), "not UTF-8 at byte 2"),
    "nested": ("[" * 100_000, "nested too deeply"),
    "a huge number": ("1" * 10_000, "not readable JSON"),
    "track is text": ('{"7": "exit"}', "track '7': it has no object 'tracks'"),
    "no tracks": (_kwai_with(tracks=None), "it has no object 'tracks'"),
    "tracks are a list": (_kwai_with(tracks=[1]), "it has no object 'tracks'"),
    "no text": (_kwai_with(text=None), "its text is no text"),
    "text is a number": (_kwai_with(text=7), "its text is no text"),
    "too long a text": (_kwai_with(text="a" * 10_001), "its text has 10,001 characters"),
    "no score": (_kwai_with(score=None), "its score is no finite number"),
    "score NaN": (_kwai_with(score=math.nan), "NaN is no number"),
    "score NaN in quotes": (_kwai_with(score="nan"), "its score is no finite number"),
    "score infinite": (_kwai_with(score=math.inf), "Infinity is no number"),
    "score too large": ('{"7": {"score": 1e999, "text": "a", "tracks": {}}}', "no finite number"),
    "score a whole number too large": (_kwai_with(score=10**400), "its score is no finite number"),
    "score is true": (_kwai_with(score=True), "its score is no finite number"),
    "score is a list": (_kwai_with(score=[0.9]), "its score is no finite number"),
    "negative frame": (_at({"-1": box(1, 2)}), "'-1' is no number of a frame"),
    "half a frame": (_at({"1.5": box(1, 2)}), "'1.5' is no number of a frame"),
    "frame of no number": (_at({"first": box(1, 2)}), "'first' is no number of a frame"),
    "frame of other digits": (_at({"\u0661": box(1, 2)}), "is no number of a frame"),
    "frame without end": (_at({"9" * 5000: box(1, 2)}), "'99999999999999999999' is no number"),
    "place missing": (_at({"0": None}), "a place needs 8 numbers"),
    "place too short": (_at({"0": [1, 2, 3, 4]}), "a place needs 8 numbers"),
    "place of text": (_at({"0": ["a"] * 8}), "its place is no finite number"),
    "place of lists": (_at({"0": [[1, 2]] * 8}), "its place is no finite number"),
    "place far away": (_at({"0": [1e300] * 8}), "a million pixels away"),
}


@pytest.mark.parametrize("name", GOOD_KWAI)
def test_good_kwai_files_are_read(name: str, tmp_path: Path) -> None:
    content, words = GOOD_KWAI[name]
    path = tmp_path / "a.json"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    assert [word for said, _ in read_kwai(path, SPEC) for word in said] == words


@pytest.mark.parametrize("name", BAD_KWAI)
def test_bad_kwai_files_are_one_line(name: str, tmp_path: Path) -> None:
    content, expected = BAD_KWAI[name]
    path = tmp_path / "a.json"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UserError, match=expected) as error:
        read_kwai(path, SPEC)
    message = str(error.value)
    assert str(path) in message and "\n" not in message and len(message) < 300 + len(str(path))


def _line(**changes: Any) -> str:
    line = {"video": "a", "text": "exit", "score": 0.9, "start": 1, "end": 2.5}
    return json.dumps({k: v for k, v in (line | changes).items() if v != "leave out"})


GOOD_TRACKS = {
    "plain": (_line(), {"a": [("exit", 1.0, 2.5)]}),
    "no score": (_line(score="leave out"), {"a": [("exit", 1.0, 2.5)]}),
    "byte-order mark": (b"\xef\xbb\xbf" + _line().encode(), {"a": [("exit", 1.0, 2.5)]}),
    "CRLF and blank lines": (f"\r\n{_line()}\r\n \r\n\r\n", {"a": [("exit", 1.0, 2.5)]}),
    "in the order of the start": (
        "\n".join(
            [_line(start=2, text="b1"), _line(start=0, text="b2"), _line(start=0, text="b3")]
        ),
        {"a": [("b2", 0.0, 2.5), ("b3", 0.0, 2.5), ("b1", 2.0, 2.5)]},
    ),
    "of other videos": (_line(video="b"), {}),
    "score below the limit": (_line(score=0.2), {"a": []}),
    "empty text": (_line(text=""), {"a": []}),
    "video alone": ('{"video": "a"}', {"a": []}),
    "video alone and a line": (f'{{"video": "a"}}\n{_line()}', {"a": [("exit", 1.0, 2.5)]}),
    "emoji": (_line(text="🐕‍🦺 dog"), {"a": [("dog", 1.0, 2.5)]}),
    "half a character": (_line(text="\ud83d dog"), {"a": [("dog", 1.0, 2.5)]}),
    "line separator in a text": (_line(text="big\u2028dog"), {"a": [("big dog", 1.0, 2.5)]}),
    "10,000 characters": (_line(text="dog " * 2500), {"a": [("dog " * 2499 + "dog", 1.0, 2.5)]}),
    "one moment": (_line(end=1), {"a": [("exit", 1.0, 1.0)]}),
    "the very same twice": (f"{_line()}\n{_line()}", {"a": [("exit", 1.0, 2.5)] * 2}),
    "empty file": ("", {}),
}
BAD_TRACKS = {
    "no JSON": ("exit", "line 1: Expecting value"),
    "cut off": (f"{_line()}\n{_line()[:-3]}", "line 2: "),
    "a list": ("[1]", "line 1: it is no JSON object"),
    "an object over lines": (json.dumps(json.loads(_line()), indent=1), "line 1: "),
    "latin-1": (_line(text="e").encode() + b'\n{"video": "\xe9"}', "line 2: not UTF-8 at byte 11"),
    "UTF-16": (_line().encode("utf-16"), "line 1: not UTF-8"),
    "nested": ("[" * 100_000, "line 1: nested too deeply"),
    "too long a line": (_line(text="a" * 1_000_001), "line 1: it is longer than 1 MB"),
    "too long a text": (_line(text="a" * 10_001), "line 1: its text has 10,001 characters"),
    "unknown key": (_line(begin=1), "line 1: it has 'begin'; known are video, text"),
    "no video": (_line(video="leave out"), "it names no video"),
    "empty video": (_line(video=""), "it names no video"),
    "video is a number": (_line(video=7), "it names no video"),
    "no text": (_line(text="leave out"), "its text is no text"),
    "text is a list": (_line(text=["exit"]), "its text is no text"),
    "score NaN": (_line(score=math.nan), "NaN is no number"),
    "score in percent": (_line(score=90), "its score must be 0 to 1"),
    "negative score": (_line(score=-0.1), "its score must be 0 to 1"),
    "score nothing": (_line(score=None), "its score is no finite number"),
    "no start": (_line(start="leave out"), "its start is no finite number"),
    "no end": (_line(end="leave out"), "its end is no finite number"),
    "negative start": (_line(start=-1), "start and end must be seconds from 0 on"),
    "end before start": (_line(end=0.5), "start and end must be seconds from 0 on"),
    "infinite end": (_line(end=math.inf), "Infinity is no number"),
    "end without end": (_line(end=1e12), "start and end must be seconds from 0 on"),
    "start is text": (_line(start="0:01"), "its start is no finite number"),
    "start is a list": (_line(start=[1]), "its start is no finite number"),
}


@pytest.mark.parametrize("name", GOOD_TRACKS)
def test_good_files_of_tracks_are_read(name: str, tmp_path: Path) -> None:
    content, expected = GOOD_TRACKS[name]
    path = tmp_path / "tracks.jsonl"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    found = read_tracks(path, {"a"}, SPEC)
    said = {v: [(" ".join(w), *shown[0]) for w, shown in texts] for v, texts in found.items()}
    assert said == expected


@pytest.mark.parametrize("name", BAD_TRACKS)
def test_bad_files_of_tracks_are_one_line(name: str, tmp_path: Path) -> None:
    content, expected = BAD_TRACKS[name]
    path = tmp_path / "tracks.jsonl"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UserError, match=expected) as error:
        read_tracks(path, {"a"}, SPEC)
    message = str(error.value)
    assert str(path) in message and "\n" not in message and len(message) < 300 + len(str(path))


def test_files_above_the_limits_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    with open(path, "wb") as file:
        file.truncate(33_000_000)
    with pytest.raises(UserError, match="larger than 32 MB"):
        read_kwai(path, SPEC)
    with open(path, "wb") as file:
        file.truncate(2_000_000_001)
    with pytest.raises(UserError, match="larger than 2 GB"):
        read_tracks(path, {"a"}, SPEC)
    path.write_text(json.dumps({str(i): SOME for i in range(4)}))
    monkeypatch.setattr(given_files, "_MOST_KWAI", 3)
    with pytest.raises(UserError, match="has 4 tracks; a clip has 3 at most"):
        read_kwai(path, SPEC)
    path.write_text(f"{_line()}\n" * 4 + f"{_line(video='b')}\n" * 9)
    monkeypatch.setattr(given_files, "_MOST_TRACKS", 4)
    assert len(read_tracks(path, {"a"}, SPEC)["a"]) == 4
    with pytest.raises(UserError, match="more than 4 texts"):
        read_tracks(path, {"a", "b"}, SPEC)


@pytest.mark.slow
def test_a_million_tracks_are_read_in_bounded_memory(video: Path, tmp_path: Path) -> None:
    with open(tmp_path / "tracks.jsonl", "w", encoding="utf-8") as file:
        for i in range(1_000_000):
            second = i // 1000 % 4
            line = {"video": f"v{i % 1000}", "text": f"word{i}", "start": second, "end": second + 1}
            file.write(json.dumps(line) + "\n")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    clips = [Clip(f"v{i}", video) for i in range(0, 1000, 100)]
    found = build(GivenSpec("tracks", tmp_path), clips)
    assert all(len(caption.split()) == 32 for windows in found.values() for caption in windows)
    few = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert few - before < 50_000, "kB: only what is asked for is held"
    read_tracks(tmp_path / "tracks.jsonl", {f"v{i}" for i in range(1000)}, SPEC)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - few < 800_000


Make = Callable[..., CsvDataModule]


@pytest.fixture
def module(tmp_path: Path, video: Path) -> Make:
    """A function that makes a data module of two clips whose text is given as tracks."""
    (tmp_path / "sub").mkdir()
    for name in ("a", "b"):
        (tmp_path / "sub" / f"{name}.mp4").write_bytes(video.read_bytes())
    rows = ["video,caption,split,start,end", "sub/a.mp4,x,test,,", "sub/a.mp4,y,test,2,4"]
    (tmp_path / "my.csv").write_text("\n".join([*rows, "sub/b.mp4,z,test,,"]))

    def made(*settings: str) -> CsvDataModule:
        words = [*TINY_MODEL, *TINY_RUN, "ocr.enabled=true", "ocr.windows=4", *settings]
        places = [f"data.file={tmp_path / 'my.csv'}", f"paths.cache={tmp_path / 'cache'}"]
        data = CsvDataModule(config.load(["data=csv", *words, *places]))
        data.tokenizer = build_tokenizer(data.cfg, ["exit"])
        return data

    return made


def test_a_data_module_reads_what_others_read(
    module: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = {"video": "sub/a.mp4", "text": "exit", "start": 2.2, "end": 2.6}
    (tmp_path / "tracks.jsonl").write_text(json.dumps(line))
    monkeypatch.setattr("tvr_bench.datamodules.base.build_windows", None)
    monkeypatch.setattr("tvr_bench.datamodules.base.engine_version", None)
    data = module("ocr.source=tracks", f"ocr.given={tmp_path}")
    data.prepare(["test"])
    whole, part, other = data.split("test").clips
    assert data.windows(whole.id) == ["", "", "exit", ""]
    assert data.windows(part.id) == ["exit", "exit", "", ""]
    assert data.windows(other.id) == [""] * 4
    assert [(e.id, e.stage) for e in data.ledger.entries] == [(other.id, "ocr")]
    ocr = report.protocol(data.cfg, data).ocr
    assert (ocr.enabled, ocr.source, ocr.engine, ocr.windows) == (True, "tracks", "tracks", 4)
    assert ocr.reads == 0


def test_kwai_is_named_in_the_record_and_an_engine_as_before(module: Make) -> None:
    data: Any = SimpleNamespace(reads_text=True, split=module().split, cfg=None, captions="all")
    for settings, expected in (
        (["ocr.source=kwai", "ocr.given=x"], ("kwai", "kwai", 0)),
        (["ocr.engine=easyocr"], ("engine", "easyocr", 2)),
    ):
        data.cfg = module(*settings).cfg
        ocr = report.protocol(data.cfg, data).ocr
        assert (ocr.source, ocr.engine, ocr.reads) == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["ocr.source=kwai"], r"ocr\.source=kwai needs ocr\.given=FOLDER"),
        (["ocr.source=tracks", "ocr.given=nowhere"], "there is no nowhere"),
        (["ocr.source=kwai", "ocr.given=nowhere"], "nowhere is no folder"),
        (["ocr.source=qwai"], "Did you mean 'kwai'"),
        (["ocr.source=kwai", "ocr.given_fps=0"], r"ocr\.given_fps=0.* must be > 0"),
        (["ocr.source=kwai", "ocr.given_fps=fast"], "given_fps"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_read(
    settings: list[str], expected: str, module: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CsvDataModule, "read_split", None)
    with pytest.raises(UserError, match=expected):
        module(*settings).prepare(["test"])
