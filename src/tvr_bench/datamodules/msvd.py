"""MSVD: 1,970 YouTube clips with 18 to 81 captions each; every caption trains and is a query.

Sorted by name, the first 1,200 clips train, the next 100 validate and the last 670 test. Copies
that number the clips (`vid1` to `vid1970`, or `video0` to `video1969`) do it in the same order.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from tvr_bench.datamodules.annotated import AnnotatedDataModule, Counts, Entry
from tvr_bench.datamodules.annotation_files import (
    in_order,
    read_json,
    read_list,
    read_table,
    texts_of,
)
from tvr_bench.datamodules.base import SPLITS
from tvr_bench.datamodules.contents import same_source
from tvr_bench.datamodules.folder import seconds_in
from tvr_bench.datamodules.text_files import lines_of, read_text
from tvr_bench.datamodules.types import Split
from tvr_bench.errors import UserError
from tvr_bench.registry import register_dataset
from tvr_bench.safe_pickle import load_plain

Captions = dict[str, tuple[str, ...]]

_JSON = "captions_msvd.json"
_PICKLE = "raw-captions.pkl"
_SENTENCES = tuple(f"sents_{part}_lc_nopunc.txt" for part in SPLITS)
_MAPPING = "youtube_mapping.txt"
_CORPUS = ("MSR Video Description Corpus.csv", "video_corpus.csv")
_CORPUS_PARTS = tuple(f"{part}.csv" for part in SPLITS)


@register_dataset("msvd")
class MsvdDataModule(AnnotatedDataModule):
    """MSVD, from whichever of its caption files is there."""

    folders = ("msvd_data", "annotations", "annotation", "captions", "metadata", "csv_corpus")
    counts: ClassVar[dict[str, Counts]] = {
        "train": Counts(1_200, 48_774),
        "val": Counts(100, 4_290),
        "test": Counts(670, 27_763),
    }

    def read_entries(self, name: str) -> list[Entry]:
        """Return the clips of a split, each with all its captions."""
        where = f"the list of split '{name}'"
        ids = in_order(self._names[name], self._captions, where)
        return [
            Entry(one, self._captions[one], (self._files[one],), seconds=seconds_in(one))
            for one in ids
        ]

    def units(self, split: Split) -> dict[str, str]:
        """Return the YouTube video that each clip was cut from."""
        return same_source(split)

    def official(self, name: str) -> Counts | None:
        """Return what a split counts; the corpus has a few captions more than the papers."""
        counts = self.counts[name]
        return Counts(counts.clips, None) if self._source == "corpus" else counts

    def unlike_papers(self) -> str:
        """Return how the captions differ from the papers', where they are those of the corpus."""
        if self._source != "corpus":
            return ""
        found = sum(len(self._captions[one]) for one in self._names["test"])
        return (
            f"the captions are those of the corpus, with capitals and punctuation: {found:,} in "
            f"the test split, where the papers have {self.counts['test'].captions:,} without; "
            f"bring {_JSON} or {_PICKLE} for scores to compare"
        )

    @property
    def _source(self) -> str:
        """Which captions are read: `json`, `pickle`, `sentences` or `corpus`."""
        places = {"json": (_JSON,), "pickle": (_PICKLE,), "sentences": _SENTENCES}
        places["corpus"] = (*_CORPUS, *_CORPUS_PARTS)
        for source, some in places.items():
            if self.has(*some):
                return source
        self.file(_JSON, _PICKLE, _SENTENCES[-1], _CORPUS[0])
        raise AssertionError("has and file disagree")

    @cached_property
    def _captions(self) -> Captions:
        """The captions of every clip, by its name."""
        if self._source == "json":
            path = self.file(_JSON)
            found = read_json(path, dict)
            return {one: texts_of(texts, f"{path}: {one[:60]!r}") for one, texts in found.items()}
        if self._source == "pickle":
            return read_tokens(self.file(_PICKLE))
        if self._source == "sentences":
            if not self.has(_MAPPING, "train_list.txt"):
                self.file(_MAPPING, "train_list.txt")
            return read_sentences([self.file(place) for place in _SENTENCES], self._numbered)
        whole = self.has(*_CORPUS)
        places = [_CORPUS] if whole else [(place,) for place in _CORPUS_PARTS]
        return read_corpus([self.file(*place) for place in places])

    @cached_property
    def _names(self) -> dict[str, list[str]]:
        """The clips of every split, of the lists or, where there are none, in sorted order."""
        lists = {part: f"{part}_list.txt" for part in SPLITS}
        if self.has(*lists.values()):
            return {part: read_list(self.file(place)) for part, place in lists.items()}
        names = sorted(read_mapping(self.file(_MAPPING)) if self.has(_MAPPING) else self._captions)
        parts: dict[str, list[str]] = {}
        start = 0
        for part, counts in self.counts.items():
            assert counts.clips is not None
            parts[part] = names[start : start + counts.clips]
            start += counts.clips
        if len(names) != start:
            raise UserError(
                f"{len(names):,} videos have captions and MSVD has {start:,}; bring "
                f"{', '.join(lists.values())}, or fetch the captions again"
            )
        return parts

    @property
    def _all_names(self) -> list[str]:
        """All clips; raises UserError for one that is in two splits, or for a wrong number."""
        names = [one for part in SPLITS for one in self._names[part]]
        wanted = sum(counts.clips or 0 for counts in self.counts.values())
        if len(set(names)) != wanted or len(names) != wanted:
            raise UserError(
                f"train_list.txt, val_list.txt and test_list.txt name {len(names):,} videos, "
                f"{len(set(names)):,} of them different, and MSVD has {wanted:,}; fetch them again"
            )
        return names

    @property
    def _numbered(self) -> dict[str, str]:
        """The clips' names by `vid1` to `vid1970`."""
        if self.has(_MAPPING):
            return {vid: one for one, vid in read_mapping(self.file(_MAPPING)).items()}
        return {f"vid{number}": one for number, one in enumerate(sorted(self._all_names), 1)}

    @cached_property
    def _files(self) -> dict[str, str]:
        """What the file of each clip is called: all of them in one of the three ways.

        Raises UserError for `video1` to `video1970`, each of which would be another clip's.
        """
        names = self._all_names
        numbers = {one: int(vid.removeprefix("vid")) for vid, one in self._numbered.items()}
        in_order(names, numbers, "a list")
        ways = (
            {one: f"{one}.avi" for one in names},
            {one: f"vid{numbers[one]}.avi" for one in names},
            {one: f"video{numbers[one] - 1}.avi" for one in names},
        )
        found = [way for way in ways if any(map(self.folder.find, way.values()))] or [ways[0]]
        if found[0] is ways[2] and self.folder.find(f"video{len(names)}"):
            raise UserError(
                f"{self.folder.root} has a video{len(names)}, but MSVD's videos are video0 to "
                f"video{len(names) - 1}, or vid1 to vid{len(names)}; rename them, or set "
                "data.videos to their folder"
            )
        return found[0]


def read_tokens(path: Path) -> Captions:
    """Return the captions in a pickle of token lists by name, the tokens joined by spaces."""
    value = load_plain(path, (dict, list, str))
    if not isinstance(value, dict):
        raise UserError(f"{path} must hold captions by video; is it the right file?")
    found = {}
    for one, captions in value.items():
        where = f"{path}: {one[:60]!r}" if isinstance(one, str) else f"{path}"
        if not isinstance(one, str) or not isinstance(captions, list) or not captions:
            raise UserError(f"{where} has no list of captions; fetch the file again")
        found[one] = tuple(" ".join(texts_of(tokens, where)) for tokens in captions)
    return found


def read_mapping(path: Path) -> dict[str, str]:
    """Return `vidN` by name, of lines `name vidN`; UserError for others or one of them twice."""
    found: dict[str, str] = {}
    lines = read_list(path)
    for line in lines:
        name, _, vid = line.rpartition(" ")
        if not name or not re.fullmatch(r"vid[1-9][0-9]{0,3}", vid):
            raise UserError(f"{path} has a line {line[:60]!r}, no 'NAME vidN'; fetch it again")
        found[name.strip()] = vid
    if not len(lines) == len(found) == len(set(found.values())):
        raise UserError(f"{path} names a video twice; fetch it again")
    return found


def read_sentences(paths: Iterable[Path], names: dict[str, str]) -> Captions:
    """Return captions by name, of lines `vidN<TAB>caption`; `names` gives the name of a `vidN`."""
    found: dict[str, list[str]] = {}
    for path in paths:
        for number, line in enumerate(lines_of(read_text(path)), 1):
            if not line.strip():
                continue
            vid, tab, text = line.partition("\t")
            if not tab or not text.strip():
                raise UserError(f"{path} line {number} has no caption; fetch it again")
            if vid not in names:
                raise UserError(
                    f"{path} line {number} is about {vid[:60]!r}, which no video is; fetch it again"
                )
            found.setdefault(names[vid], []).append(text)
    return {one: tuple(texts) for one, texts in found.items()}


def read_corpus(paths: Iterable[Path]) -> Captions:
    """Return the English descriptions in the corpus by `VideoID_Start_End`, empty ones left out."""
    found: dict[str, list[str]] = {}
    columns = ("VideoID", "Start", "End", "Language", "Description")
    for path in paths:
        for row in read_table(path, columns):
            if row["Language"] == "English" and row["Description"].strip():
                name = f"{row['VideoID']}_{row['Start']}_{row['End']}"
                found.setdefault(name, []).append(row["Description"])
    return {one: tuple(texts) for one, texts in found.items()}
