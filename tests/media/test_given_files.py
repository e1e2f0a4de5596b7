"""Files of scene text: what others write is read, and no file that is broken or hostile harms."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from given_case import SPEC, box, track

from tvr_bench.errors import UserError
from tvr_bench.media import given_files
from tvr_bench.media.given_files import read_kwai, read_tracks

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
