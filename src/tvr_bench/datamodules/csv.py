"""Anybody's own videos: a CSV with the columns `video,caption` and, if wanted, `start,end,split`.

`start` and `end` are seconds of the video, counted from its first picture; a row with either is
about that part alone, which is a clip of its own.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path

from tvr_bench.datamodules.base import VideoTextDataModule
from tvr_bench.datamodules.csv_rows import Row, read_rows
from tvr_bench.datamodules.folder import Names, leads_out, on_links
from tvr_bench.datamodules.types import Clip, Query, Split
from tvr_bench.errors import UserError
from tvr_bench.files import links_top
from tvr_bench.registry import register_dataset

_FEW = 8  # videos: with fewer, every one that is not trained on is dear


@register_dataset("csv")
class CsvDataModule(VideoTextDataModule):
    """The data set that a CSV file describes; several rows of one video are several captions."""

    def read_split(self, name: str) -> Split:
        """Return the rows of one split; raises UserError for whatever is wrong with the file."""
        split = build_split(name, self._rows, self._root)
        outside = [clip.path for clip in split.clips if leads_out(clip.path, self._top)]
        if outside:
            self.remark(f"{name}: {on_links(outside, len(split.clips), self._root)}")
        return split

    @property
    def title(self) -> str:
        """The file's name."""
        return Path(self.cfg.data.file).name

    def text_names(self, clip: Clip) -> tuple[str, ...]:
        """Return the video as the CSV has it, that without its suffix, and the clip's id."""
        video = Path(self._videos[clip.id])
        return video.as_posix(), video.with_suffix("").as_posix(), clip.id

    @cached_property
    def _rows(self) -> list[Row]:
        """All rows of the file, each with the split that it is in."""
        if not self.cfg.data.file:
            raise UserError("data=csv needs data.file=VIDEOS.csv, a file with video,caption rows")
        if not self._root.is_dir():
            raise UserError(f"data.root={self._root} is no folder; give the folder of the videos")
        rows, notes = read_rows(Path(self.cfg.data.file))
        rows, other = found_rows(rows, self._root)
        for note in (*notes, *other):
            self.remark(note)
        return assign_splits(rows)

    @cached_property
    def _videos(self) -> dict[str, str]:
        return {_clip_id(_named(row)): row.video for row in self._rows}

    @property
    def _root(self) -> Path:
        return Path(self.cfg.data.root) if self.cfg.data.root else Path(self.cfg.data.file).parent

    @cached_property
    def _top(self) -> Path:
        return links_top(self._root)


def found_rows(rows: list[Row], root: Path) -> tuple[list[Row], list[str]]:
    """Return the rows with the `file` of each, and a line that says which are spelt otherwise.

    Rows of one file are rows of one video, named as the first of them has it.
    """
    names = Names(root)
    find = cache(names.find)
    files = [find(row.video) for row in rows]
    first: dict[str, str] = {}
    for row, file in zip(rows, files, strict=True):
        first.setdefault(file, file if "\\" in row.video else row.video)
    found = [
        replace(row, video=first[file], file=file) for row, file in zip(rows, files, strict=True)
    ]
    others = {row.video: file for row, file in zip(rows, files, strict=True) if row.video != file}
    if not others:
        return found, []
    written, file = next(iter(others.items()))
    return found, [
        f"{len(others):,} videos are found under another spelling (slashes for backslashes, or the "
        f"same letters in another form of Unicode), such as {written!a} as {file!a}"
    ]


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
    path = root / (row.file or row.video)
    inside = "\0" not in row.video and (
        Path(os.path.abspath(path)).is_relative_to(os.path.abspath(root))
        or Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))
    )
    if not inside:
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
