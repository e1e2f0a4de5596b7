"""What every published data set shares: its files found, its counts held to, its videos looked up.

A data set's file says where its annotations lie and how they read; nothing else.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from tvr_bench.datamodules.base import VideoTextDataModule
from tvr_bench.datamodules.folder import VideoFolder, checked_name, without_suffix
from tvr_bench.datamodules.types import Clip, Query, Split
from tvr_bench.errors import UserError

_LARGEST = 512_000_000  # bytes of an annotation file; the largest official one has 160 MB


@dataclass(frozen=True)
class Entry:
    """One clip as its annotations have it: an id, what its file may be called, its captions.

    `names` are file names or paths below the folder of the videos, with or without a suffix, the
    best first; `key` is what `AnnotatedDataModule.key_of` makes of its file's stem. `start` and
    `end` in seconds where the clip is a part of its file.
    """

    id: str
    captions: tuple[str, ...]
    names: tuple[str, ...]
    start: float | None = None
    end: float | None = None
    key: str | None = None


@dataclass(frozen=True)
class Counts:
    """How many clips and captions a split officially has."""

    clips: int
    captions: int


class AnnotatedDataModule(VideoTextDataModule):
    """A data set of annotation files and a folder of videos; it defines `read_entries`.

    Keys: `data.root` (everything), `data.annotations` and `data.videos` (where they lie apart).
    """

    captions: ClassVar[str] = "all"  # or "paragraph": a clip's captions are joined to one
    key_of: ClassVar[Callable[[str], str] | None] = None  # see VideoFolder
    under: ClassVar[tuple[str, ...]] = ()  # folders that paths of the annotations may start below

    def read_entries(self, name: str) -> list[Entry]:
        """Return the clips of the split `train`, `val` or `test`, in the official order."""
        raise NotImplementedError(f"{type(self).__name__} must define read_entries")

    def official(self, name: str) -> Counts | None:
        """Return what a split officially counts, None where nothing is known."""
        return None

    @property
    def annotation_files(self) -> dict[str, Path]:
        """The annotation files that were opened so far, by the name they were asked for."""
        return dict(self._opened)

    @cached_property
    def _opened(self) -> dict[str, Path]:
        return {}

    @cached_property
    def folder(self) -> VideoFolder:
        """The videos that there are."""
        return VideoFolder(self._place("videos"), type(self).key_of)

    def read_split(self, name: str) -> Split:
        """Return a split; raises UserError for files that are missing, broken or of other size.

        A clip whose video is missing keeps its place, with the path where it was looked for.
        """
        entries = self.read_entries(name)
        self._check_counts(name, entries)
        clips, queries = [], []
        for entry in entries:
            for wanted in (entry.id, *entry.names):
                checked_name(wanted, self.cfg.data.name)
            path = self.folder.find(*entry.names, key=entry.key, under=self.under)
            missing = self.folder.root / _with_suffix(entry.names[0])
            clips.append(Clip(entry.id, path or missing, entry.start, entry.end))
            queries += self._queries(entry)
        return Split(tuple(clips), tuple(queries))

    def file(self, *places: str) -> Path:
        """Return the first of `places` that exists, each a path below the annotations' folder.

        Raises UserError that names the first place for one that is missing.
        """
        root = self._place("annotations")
        for place in places:
            if (root / place).is_file():
                self._opened[places[0]] = root / place
                return root / place
        others = f" (or {', '.join(places[1:4])})" if places[1:] else ""
        raise UserError(
            f"data={self.cfg.data.name} needs {places[0]}{others} in {root}; put it there, or set "
            "data.annotations to its folder"
        )

    def has(self, *places: str) -> bool:
        """Return whether one of `places` exists below the annotations' folder."""
        root = self._place("annotations")
        return any((root / place).is_file() for place in places)

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

    def _queries(self, entry: Entry) -> list[Query]:
        texts = [normalised(text, self.cfg.text.normalise) for text in entry.captions]
        if self.captions == "paragraph":
            texts = [" ".join(texts)]
        return [Query(f"{entry.id}#{i}", text, entry.id) for i, text in enumerate(texts)]

    def _check_counts(self, name: str, entries: Sequence[Entry]) -> None:
        wanted = self.official(name)
        if wanted is None:
            return
        found = Counts(len(entries), sum(len(entry.captions) for entry in entries))
        if found != wanted:
            files = ", ".join(sorted({str(path) for path in self._opened.values()}))
            raise UserError(
                f"split '{name}' of {self.cfg.data.name} has {found.clips:,} videos and "
                f"{found.captions:,} captions instead of the official {wanted.clips:,} and "
                f"{wanted.captions:,} ({files}); fetch the official files, or use data=csv for a "
                "selection of your own"
            )


def held_out(entries: Sequence[Entry], count: int, size: int = 500) -> tuple[list[Entry], ...]:
    """Return training and validation clips of a data set whose papers have no validation split.

    `count` clips, chosen by a hash of their ids, are kept out of training. With 0 nothing is, and
    `size` clips that are trained on validate: choose `eval.selection=last` then. Raises UserError
    where no clip would be left to train on.
    """
    if count >= len(entries):
        raise UserError(
            f"data.holdout={count} leaves nothing of {len(entries)} training videos; lower it"
        )
    ranked = sorted(entries, key=lambda entry: hashlib.sha256(entry.id.encode()).digest())
    chosen = {entry.id for entry in ranked[: count or size]}
    kept = [entry for entry in entries if not count or entry.id not in chosen]
    return kept, [entry for entry in entries if entry.id in chosen]


def normalised(text: str, how: str) -> str:
    """Return a caption as it is (`none`), with single spaces (`spaces`) or lower-case too."""
    if how == "none":
        return text
    text = " ".join(text.split())
    return text.lower() if how == "lower" else text


def read_text(path: Path) -> str:
    """Return a UTF-8 file's text, a byte-order mark left out; UserError where it is something else.

    Files above 512 MB are refused.
    """
    if path.stat().st_size > _LARGEST:
        raise UserError(f"{path} is larger than 512 MB; is it an annotation file?")
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}); fetch it again") from error


def read_json(path: Path, kind: type) -> Any:
    """Return a JSON file's value, a `kind` (dict or list); UserError where it is not."""
    try:
        value = json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not readable JSON ({reason}); fetch it again") from error
    if not isinstance(value, kind):
        what = "an object" if kind is dict else "a list"
        raise UserError(f"{path} must hold {what}; is it the right file?")
    return value


def read_list(path: Path) -> list[str]:
    """Return the lines of a file that are not blank, without the space around them."""
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def read_table(path: Path, columns: Sequence[str], delimiter: str = ",") -> list[dict[str, str]]:
    """Return the rows of a CSV with a header that has `columns`; UserError where it has not."""
    lines = csv.DictReader(read_text(path).splitlines(), delimiter=delimiter)
    try:
        rows = list(lines)
    except csv.Error as error:
        raise UserError(f"{path} is not a readable CSV ({error}); fetch it again") from error
    missing = [column for column in columns if column not in (lines.fieldnames or [])]
    if missing:
        raise UserError(f"{path} has no column '{missing[0]}'; is it the right file?")
    for number, row in enumerate(rows, 2):
        if any(row[column] is None for column in columns):
            raise UserError(f"{path} line {number} has too few cells; fetch it again")
    return rows


def texts_of(value: Any, where: str) -> tuple[str, ...]:
    """Return a non-empty list of strings as a tuple; UserError, naming `where`, for others."""
    if not isinstance(value, list) or not value or not all(isinstance(v, str) for v in value):
        raise UserError(f"{where} has captions that are no list of texts; fetch the file again")
    return tuple(value)


def in_order(ids: Iterable[str], known: dict[str, Any], where: str) -> list[str]:
    """Return `ids`, each in `known` and none twice; UserError, naming `where`, for others."""
    found: dict[str, None] = {}
    for one in ids:
        if one in found:
            raise UserError(f"{where} names '{one}' twice; fetch it again")
        if one not in known:
            raise UserError(f"{where} names '{one}', of which there are no captions; fetch both")
        found[one] = None
    return list(found)


def _with_suffix(name: str) -> str:
    return name if without_suffix(name) != name else f"{re.sub(r'[.]$', '', name)}.mp4"
