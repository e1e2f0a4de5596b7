"""The two formats of scene text that others read, parsed with limits: see `given_text.py`."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from tvr_bench.errors import UserError
from tvr_bench.media.ocr import Polygon, latin_words
from tvr_bench.media.reading import SceneText, in_order
from tvr_bench.media.tracking import Sighting
from tvr_bench.media.windows import WindowSpec

Words: TypeAlias = tuple[str, ...]
Place: TypeAlias = tuple[Words, list[tuple[int, int]]]  # words, runs of frames (first, last)
Text: TypeAlias = tuple[Words, list[tuple[float, float]]]  # words, seconds (start, end)

_LARGEST_KWAI = 32_000_000  # bytes of a clip's file
_LARGEST_TRACKS = 2_000_000_000  # bytes of the file of all clips
_LONGEST_LINE = 1_000_000  # bytes
_LONGEST_TEXT = 10_000  # characters of one text
_MOST_KWAI = 100_000  # texts of a clip
_MOST_TRACKS = 5_000_000  # texts of all clips, which are held in memory
_FARTHEST = 1e6  # pixels
_LATEST = 1e6  # seconds
_FIELDS = ("video", "text", "score", "start", "end")


def read_kwai(path: Path, spec: WindowSpec) -> list[Place]:
    """Return what stands in a clip by its Kwai file: in the order of appearance, then of reading.

    Each text has the words that `spec` keeps and the frames that show it. Raises UserError, naming
    the file and the track, for one that is too large, no JSON or of another form.
    """
    tracks = _object(path)
    if len(tracks) > _MOST_KWAI:
        raise UserError(f"{path} has {len(tracks):,} tracks; a clip has {_MOST_KWAI:,} at most")
    texts = []
    for name, track in tracks.items():
        try:
            text = _scene_text(track, spec)
        except ValueError as error:
            shown = ascii(name[:40])
            raise UserError(f"{path} track {shown}: {error}; make the file again") from error
        if text is not None:
            texts.append(text)
    return [(text.words, _runs(sorted(text.frames))) for text in in_order(texts)]


def _object(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _LARGEST_KWAI:
        raise UserError(f"{path} is larger than 32 MB; is it the text of one clip?")
    try:
        value = _parse(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path} is not readable JSON ({error}); make the file again") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} must hold an object of tracks; is it the right file?")
    return value


def _parse(data: bytes) -> Any:
    """Return the value of UTF-8 JSON; raises ValueError, in one line, for anything else."""
    try:
        return _DECODER.decode(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)  # one for a million lines


def _scene_text(track: Any, spec: WindowSpec) -> SceneText | None:
    """Return a track with the frames that show it; None where `spec` keeps none of its words."""
    if not isinstance(track, dict) or not isinstance(track.get("tracks"), dict):
        raise ValueError("it has no object 'tracks'")
    words = _words(track.get("text"), spec)
    score = _number(track.get("score"), "score")
    frames = {_frame(name): box for name, box in track["tracks"].items()}
    if not frames or not words or score < spec.min_score:
        return None
    first = min(frames)
    sighting = Sighting(first, _polygon(frames[first]))
    return SceneText(words, score, frozenset(frames), sighting)


def _frame(name: str) -> int:
    if not (name.isascii() and name.isdigit() and len(name) <= 9):
        raise ValueError(f"{name[:20]!a} is no number of a frame, which count from 0")
    return int(name)


def _polygon(box: Any) -> Polygon:
    if not isinstance(box, list) or len(box) < 8:
        raise ValueError("a place needs 8 numbers, x and y of four corners")
    corners = [_number(value, "place") for value in box[:8]]
    if max(map(abs, corners)) > _FARTHEST:
        raise ValueError("a corner lies more than a million pixels away")
    return tuple(zip(corners[::2], corners[1::2], strict=True))


def _number(value: Any, what: str) -> float:
    """Return a finite number; one in quotes is read too, as the data set's own code does."""
    try:
        number = float(value) if isinstance(value, (int, float, str)) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        raise ValueError(f"its {what} is no finite number")
    return number


def _words(text: Any, spec: WindowSpec) -> Words:
    """Return the words of a text that the captioner would keep."""
    if not isinstance(text, str):
        raise ValueError("its text is no text")
    if len(text) > _LONGEST_TEXT:
        raise ValueError(f"its text has {len(text):,} characters, and 10,000 are the most")
    return tuple(
        word
        for word in latin_words(text)
        if len(word) >= spec.min_chars or any(char.isdigit() for char in word)
    )


def _runs(frames: Sequence[int]) -> list[tuple[int, int]]:
    """Return rising numbers as (first, last) of each run without a gap."""
    runs = [(frames[0], frames[0])]
    for number in frames[1:]:
        if number == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs


def read_tracks(path: Path, wanted: Collection[str], spec: WindowSpec) -> dict[str, list[Text]]:
    """Return the texts of each of the `wanted` names that a line has, in the order of their start.

    A name whose lines hold no word that `spec` keeps has an empty list. Raises UserError, naming
    the line, for one that is too long, no JSON object or of another form.
    """
    if path.stat().st_size > _LARGEST_TRACKS:
        raise UserError(f"{path} is larger than 2 GB; split it by data set")
    found: dict[str, list[Text]] = {}
    kept = 0
    with open(path, "rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(_LONGEST_LINE + 1), b""), 1):
            if not line.strip(b" \t\r\n\xef\xbb\xbf"):
                continue
            try:
                video, track = _line(line)
                if video not in wanted:
                    continue
                text = _timed_text(track, spec) if track else None
            except ValueError as error:
                raise UserError(f"{path} line {number}: {error}; mend or remove it") from error
            texts = found.setdefault(video, [])
            if text is not None:
                texts.append(text)
                kept += 1
            if kept > _MOST_TRACKS:
                raise UserError(
                    f"{path} has more than {_MOST_TRACKS:,} texts; leave those of low score out"
                )
    return {video: sorted(texts, key=lambda text: text[1][0][0]) for video, texts in found.items()}


def _line(line: bytes) -> tuple[str, dict[str, Any]]:
    """Return the video of a line, and what else the line has."""
    if len(line) > _LONGEST_LINE:
        raise ValueError("it is longer than 1 MB")
    track = _parse(line)
    if not isinstance(track, dict):
        raise ValueError("it is no JSON object")
    if unknown := [key for key in track if key not in _FIELDS]:
        raise ValueError(f"it has {unknown[0][:40]!a}; known are {', '.join(_FIELDS)}")
    video = track.pop("video", None)
    if not isinstance(video, str) or not video:
        raise ValueError("it names no video")
    return video, track


def _timed_text(track: dict[str, Any], spec: WindowSpec) -> Text | None:
    """Return what a line says and when, None where `spec` keeps no word of it."""
    words = _words(track.get("text"), spec)
    score = _number(track.get("score", 1.0), "score")
    start, end = _number(track.get("start"), "start"), _number(track.get("end"), "end")
    if not 0 <= score <= 1:
        raise ValueError("its score must be 0 to 1")
    if not 0 <= start <= end <= _LATEST:
        raise ValueError("start and end must be seconds from 0 on, the end not before the start")
    return (words, [(start, end)]) if words and score >= spec.min_score else None
