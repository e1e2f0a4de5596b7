"""What every published data set shares: its files found, its counts held to, its videos looked up.

A data set's file says where its annotations lie and how they read; nothing else.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from tvr_bench.datamodules.base import VideoTextDataModule
from tvr_bench.datamodules.folder import VideoFolder, checked_name, on_links, without_suffix
from tvr_bench.datamodules.types import Clip, Query, Split
from tvr_bench.errors import UserError


@dataclass(frozen=True)
class Entry:
    """One clip as its annotations have it: an id, what its file may be called, its captions.

    `names` are file names or paths below the folder of the videos, with or without a suffix, the
    best first; `key` is what `AnnotatedDataModule.key_of` makes of its file's stem. `start` and
    `end` in seconds from its first picture where the clip is a part of its file; `seconds` is how
    long the annotations say that the file is.
    """

    id: str
    captions: tuple[str, ...]
    names: tuple[str, ...]
    start: float | None = None
    end: float | None = None
    key: str | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Counts:
    """How many clips and captions a split officially has; None for what is not known."""

    clips: int | None
    captions: int | None


class AnnotatedDataModule(VideoTextDataModule):
    """A data set of annotation files and a folder of videos; it defines `read_entries`.

    Keys: `data.root` (everything), `data.annotations` and `data.videos` (where they lie apart).
    """

    key_of: ClassVar[Callable[[str], str] | None] = None  # see VideoFolder
    under: ClassVar[tuple[str, ...]] = ()  # folders that paths of the annotations may start below
    edition: ClassVar[str] = ""  # the key of `data` that chooses between sets of clips
    folders: ClassVar[tuple[str, ...]] = ()  # where annotation files may lie below their folder

    def read_entries(self, name: str) -> list[Entry]:
        """Return the clips of the split `train`, `val` or `test`, in the official order."""
        raise NotImplementedError(f"{type(self).__name__} must define read_entries")

    def official(self, name: str) -> Counts | None:
        """Return what a split officially counts, None where nothing is known."""
        return None

    @property
    def variant(self) -> str:
        """The edition that was chosen, where there are several."""
        return str(self.cfg.data[self.edition]) if self.edition else ""

    @property
    def annotation_files(self) -> dict[str, Path]:
        """The annotation files that were opened so far, by the name they were asked for."""
        return dict(self._opened)

    @cached_property
    def seconds_of(self) -> dict[str, float]:
        """How long the annotations say that files are, by clip id, as far as splits were read."""
        return {}

    @cached_property
    def _opened(self) -> dict[str, Path]:
        return {}

    @cached_property
    def folder(self) -> VideoFolder:
        """The videos that there are."""
        folder = VideoFolder(self._place("videos"), type(self).key_of)
        if folder.outward:
            self.remark(on_links(folder.outward, len(folder), folder.root))
        return folder

    def read_split(self, name: str) -> Split:
        """Return a split; raises UserError for files that are missing, broken or of other size.

        A clip whose video is missing keeps its place, with the path where it was looked for.
        """
        entries = self.read_entries(name)
        self._check_counts(name, entries)
        clips, queries = [], []
        data, how = self.cfg.data.name, self.cfg.text.normalise  # reading a setting takes a while
        for entry in entries:
            for wanted in (entry.id, *entry.names):
                checked_name(wanted, data)
            assert "/" not in entry.id, f"{data} makes an id with a slash, {entry.id}"
            path = self.folder.find(*entry.names, key=entry.key, under=self.under)
            missing = self.folder.root / _with_suffix(entry.names[0])
            clips.append(Clip(entry.id, path or missing, entry.start, entry.end))
            queries += self._queries(entry, how)
            if entry.seconds is not None:
                self.seconds_of[entry.id] = entry.seconds
        return Split(tuple(clips), tuple(queries))

    def file(self, *places: str) -> Path:
        """Return the first of `places` that exists, each a path below the annotations' folder.

        Each is also looked for below its `folders`. Raises UserError that names the first place
        for one that is missing.
        """
        root = self._place("annotations")
        for place in places:
            for path in self._paths(root, place):
                if path.is_file():
                    self._opened[places[0]] = path
                    return path
        others = f" (or {', '.join(places[1:4])})" if places[1:] else ""
        raise UserError(
            f"data={self.cfg.data.name} needs {places[0]}{others} in {root}; put it there, or set "
            "data.annotations to its folder"
        )

    def has(self, *places: str) -> bool:
        """Return whether one of `places` exists below the annotations' folder."""
        root = self._place("annotations")
        return any(path.is_file() for place in places for path in self._paths(root, place))

    def held_to(self, name: str, entries: list[Entry], wanted: Counts) -> list[Entry]:
        """Return `entries` of the split; raises UserError where they count other than `wanted`."""
        found = Counts(len(entries), sum(len(entry.captions) for entry in entries))
        if wanted.clips in (None, found.clips) and wanted.captions in (None, found.captions):
            return entries
        files = ", ".join(sorted({str(path) for path in self._opened.values()}))
        raise UserError(
            f"split '{name}' of {self.cfg.data.name} has {found.clips:,} videos and "
            f"{found.captions:,} captions instead of the official {_stated(wanted)} ({files}); "
            "fetch the official files, or use data=csv for a selection of your own"
        )

    def _paths(self, root: Path, place: str) -> list[Path]:
        return [root / place, *(root / folder / place for folder in self.folders)]

    def _place(self, kind: str) -> Path:
        data = self.cfg.data
        chosen = data[kind] or data.root
        if not chosen:
            raise UserError(
                f"data={data.name} needs data.root=FOLDER, the folder of its annotations and "
                "videos, or data.annotations and data.videos where they lie apart"
            )
        if not Path(chosen).is_dir():
            key = f"data.{kind}" if data[kind] else "data.root"
            raise UserError(f"{key}={chosen} is no folder; give the data set's folder")
        return Path(chosen)

    def _queries(self, entry: Entry, how: str) -> list[Query]:
        texts = [normalised(text, how) for text in entry.captions]
        if self.captions == "paragraph":
            texts = [" ".join(texts)]
        return [Query(f"{entry.id}#{i}", text, entry.id) for i, text in enumerate(texts)]

    def _check_counts(self, name: str, entries: Sequence[Entry]) -> None:
        wanted = self.official(name)
        if wanted is not None:
            self.held_to(name, list(entries), wanted)


def _stated(wanted: Counts) -> str:
    if wanted.clips is None:
        return f"{wanted.captions:,} captions"
    return f"{wanted.clips:,}" + (
        " videos" if wanted.captions is None else f" and {wanted.captions:,}"
    )


def held_out(
    entries: Sequence[Entry],
    count: int,
    size: int = 500,
    group: Callable[[Entry], str] = lambda entry: entry.id,
) -> tuple[list[Entry], ...]:
    """Return training and validation clips of a data set whose papers have no validation split.

    `count` clips, chosen by a hash of their ids, are kept out of training. With 0 nothing is, and
    `size` clips that are trained on validate: choose `eval.selection=last` then. Clips of one
    `group` stay together, so there may be some more. Raises UserError where no clip would be left
    to train on.
    """
    ranked = sorted(entries, key=lambda entry: hashlib.sha256(group(entry).encode()).digest())
    chosen = {group(entry) for entry in ranked[: count or size]}
    kept = [entry for entry in entries if not count or group(entry) not in chosen]
    if not kept:
        raise UserError(
            f"data.holdout={count} leaves nothing of {len(entries)} training videos; lower it"
        )
    return kept, [entry for entry in entries if group(entry) in chosen]


def normalised(text: str, how: str) -> str:
    """Return a caption as it is (`none`), with single spaces (`spaces`) or lower-case too."""
    if how == "none":
        return text
    text = " ".join(text.split())
    return text.lower() if how == "lower" else text


def _with_suffix(name: str) -> str:
    return name if without_suffix(name) != name else f"{re.sub(r'[.]$', '', name)}.mp4"
