"""Anybody's own videos: a CSV with the columns `video,caption` and, if wanted, `start,end,split`.

`start` and `end` are seconds of the video; a row with either is about that part alone, which is a
clip of its own.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
import os
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from tvr_bench.datamodules.base import SPLITS, VideoTextDataModule
from tvr_bench.datamodules.types import Clip, Query, Split
from tvr_bench.errors import UserError, nearest
from tvr_bench.registry import register_dataset

_COLUMNS = ("video", "caption", "split", "start", "end")
_SECONDS = re.compile(r"-?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_FEW = 8  # videos: with fewer, every one that is not trained on is dear


@dataclass(frozen=True)
class Row:
    """One line of the file: a video (its path, normalised), one caption of it, and its split.

    Of the whole video, or of the part from `start` to `end` (seconds).
    """

    line: int
    video: str
    caption: str
    split: str
    start: float | None = None
    end: float | None = None


@register_dataset("csv")
class CsvDataModule(VideoTextDataModule):
    """The data set that a CSV file describes; several rows of one video are several captions."""

    def read_split(self, name: str) -> Split:
        """Return the rows of one split; raises UserError for whatever is wrong with the file."""
        if not self.cfg.data.file:
            raise UserError("data=csv needs data.file=VIDEOS.csv, a file with video,caption rows")
        root = self._root()
        if not root.is_dir():
            raise UserError(f"data.root={root} is no folder; give the folder of the videos")
        return build_split(name, assign_splits(read_rows(Path(self.cfg.data.file))), root)

    @property
    def title(self) -> str:
        """The file's name."""
        return Path(self.cfg.data.file).name

    def text_names(self, clip: Clip) -> tuple[str, ...]:
        """Return the video as the CSV has it, that without its suffix, and the clip's id."""
        video = clip.path.relative_to(self._root())
        return video.as_posix(), video.with_suffix("").as_posix(), clip.id

    def _root(self) -> Path:
        return Path(self.cfg.data.root) if self.cfg.data.root else Path(self.cfg.data.file).parent


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a CSV file (UTF-8, any line ends, with or without a byte-order mark)."""
    if not path.is_file():
        raise UserError(f"data.file={path} does not exist; give a CSV with video,caption rows")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    try:
        lines = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        header = [name.strip().lower() for name in lines.fieldnames or []]
        _check_header(path, header)
        lines.fieldnames = header
        rows = [_row(path, lines.line_num, line) for line in lines]
    except csv.Error as error:
        raise UserError(f"{path} is not a readable CSV: {error}; check its quotes") from error
    if not rows:
        raise UserError(f"{path} has no rows below its header; write one per caption")
    return rows


def _check_header(path: Path, header: list[str]) -> None:
    for column in ("video", "caption"):
        if column not in header:
            raise UserError(
                f"{path} has no column '{column}'; its first line must be video,caption"
            )
    for column in header:
        if column not in _COLUMNS:
            hint = nearest(column, _COLUMNS)
            raise UserError(f"{path} has a column '{column}'.{hint} Known: {', '.join(_COLUMNS)}")
        if header.count(column) > 1:
            raise UserError(f"{path} has two columns '{column}'; keep one of them")


def _row(path: Path, line: int, cells: dict[str | None, str | None]) -> Row:
    video, caption = (cells.get("video") or "").strip(), (cells.get("caption") or "").strip()
    split = (cells.get("split") or "").strip().lower()
    if None in cells:
        raise UserError(f"{path} line {line} has too many cells; put quotes around the caption")
    if not video:
        raise UserError(f"{path} line {line} names no video; write its file name")
    video = os.path.normpath(video)  # ./a.mp4 and a.mp4 are one video
    if not caption:
        raise UserError(f"{path} line {line} has an empty caption for {video}; write one")
    if split and split not in SPLITS:
        raise UserError(
            f"{path} line {line} has split '{split}'.{nearest(split, SPLITS)} Known: "
            f"{', '.join(SPLITS)}"
        )
    start, end = (_seconds(path, line, cells, name) for name in ("start", "end"))
    if end is not None and end <= (start or 0):
        raise UserError(
            f"{path} line {line} ends at {end:g} s and starts at {start or 0:g} s; the end must be "
            "the later one"
        )
    return Row(line, video, caption, split, start, end)


def _seconds(path: Path, line: int, cells: dict[str | None, str | None], name: str) -> float | None:
    """Return the seconds of a cell, None where it is empty."""
    text = (cells.get(name) or "").strip()
    if not text:
        return None
    value = float(text) if _SECONDS.fullmatch(text) else math.nan
    if not math.isfinite(value):
        raise UserError(f"{path} line {line} has {name} {text[:40]!r}; write seconds, such as 12.5")
    if value < 0:
        raise UserError(f"{path} line {line} has {name} {text[:40]}; seconds count from 0")
    return value + 0.0  # -0 is 0


def assign_splits(rows: list[Row]) -> list[Row]:
    """Return the rows with a split each: their own or, where no row has one, a fixed 80/10/10.

    The share depends on the videos' names alone, so adding a row moves no other video. Where that
    leaves fewer than two to validate or to test with (a handful of videos), the last in hash order
    do: two each, or one each of fewer than eight.
    """
    if any(row.split for row in rows):
        for row in rows:
            if not row.split:
                raise UserError(f"line {row.line} has no split although others have; give it one")
        _check_apart(rows)
        return rows
    order = sorted({row.video for row in rows}, key=_share)
    if len(order) < 4:
        raise UserError(
            f"{len(order)} videos cannot make train, val and test; bring at least 4, or a column "
            "'split'"
        )
    chosen = {video: _split_of(_share(video)) for video in order}
    counts = Counter(chosen.values())
    least = 1 if len(order) < _FEW else 2
    if counts["train"] < 2 or min(counts["val"], counts["test"]) < least:
        val, test = order[-2 * least : -least], order[-least:]
        chosen = dict.fromkeys(order, "train")
        chosen |= dict.fromkeys(val, "val") | dict.fromkeys(test, "test")
    return [replace(row, split=chosen[row.video]) for row in rows]


def _check_apart(rows: list[Row]) -> None:
    split_of: dict[str, str] = {}
    for row in rows:
        if split_of.setdefault(row.video, row.split) != row.split:
            raise UserError(
                f"line {row.line}: {row.video} is in '{split_of[row.video]}' and in "
                f"'{row.split}'; keep all captions of a video in one split"
            )


def _share(video: str) -> float:
    return int(hashlib.sha256(video.encode()).hexdigest()[:8], 16) / 2**32


def _split_of(share: float) -> str:
    return "train" if share < 0.8 else "val" if share < 0.9 else "test"


def build_split(name: str, rows: list[Row], root: Path) -> Split:
    """Return the clips and queries of one split; raises UserError for a path outside `root`."""
    clips: dict[str, Clip] = {}
    queries: list[Query] = []
    for row in rows:
        if row.split != name:
            continue
        named = _named(row)
        if named not in clips:
            clips[named] = Clip(_clip_id(named), _inside(root, row), row.start, row.end)
        clip = clips[named]
        queries.append(Query(f"{clip.id}#{row.line}", row.caption, clip.id))
    return Split(tuple(clips.values()), tuple(queries))


def _inside(root: Path, row: Row) -> Path:
    path = root / row.video
    if "\0" in row.video or not path.resolve().is_relative_to(root.resolve()):
        raise UserError(
            f"line {row.line}: video {row.video!r} lies outside {root}; set data.root to the "
            "folder that holds all videos"
        )
    return path


def _named(row: Row) -> str:
    """Return the video, with its part if the row is about one: `a.mp4`, NUL, `1.5-3`.

    No video's name holds a NUL, so no part is taken for another video.
    """
    if row.start is None and row.end is None:
        return row.video
    ends = (
        "" if second is None else f"{second!r}".removesuffix(".0")
        for second in (row.start, row.end)
    )
    return f"{row.video}\0{'-'.join(ends)}"


def _clip_id(video: str) -> str:
    """Return a short id that is unique per name and safe in a file name."""
    readable = re.sub(r"[^A-Za-z0-9_.-]+", "_", video)[:80]
    unchanged = readable == video and not video.startswith(".")
    return readable if unchanged else f"{readable}-{hashlib.sha256(video.encode()).hexdigest()[:8]}"
