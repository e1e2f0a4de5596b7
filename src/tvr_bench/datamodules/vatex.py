"""VATEX with its English captions, in HGR's partition: the official validation set in two halves.

CLIP2Video halves it in another way (`data.test_list=sec`), so a score needs the list's name.
"""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from tvr_bench.datamodules.annotated import AnnotatedDataModule, Counts, Entry
from tvr_bench.datamodules.annotation_files import in_order, read_json, read_list, texts_of
from tvr_bench.datamodules.contents import same_source
from tvr_bench.datamodules.folder import seconds_in
from tvr_bench.datamodules.types import Split
from tvr_bench.errors import UserError
from tvr_bench.registry import register_dataset

Captions = dict[str, tuple[str, ...]]

_TRAINING, _VALIDATION = "vatex_training_v1.0.json", "vatex_validation_v1.0.json"
_BY_ID = ("ref_captions.json", "vatex_data.json")
_MAPPING = "vatex_mapping.txt"
_SEC = "test1k5_sec_list.txt"


@register_dataset("vatex")
class VatexDataModule(AnnotatedDataModule):
    """VATEX; `data.test_list` says which half of the official validation set is tested."""

    edition = "test_list"
    folders = (
        *("vatex_data", "VATEX", "vatex", "annotations", "annotation", "annotation/RET", "data"),
        *("data/vatex_data",),
    )
    counts: ClassVar[dict[str, Counts]] = {
        "train": Counts(25_991, 259_910),
        "val": Counts(1_500, 15_000),
        "test": Counts(1_500, 15_000),
    }

    def read_entries(self, name: str) -> list[Entry]:
        """Return the clips of a split, each with its English captions."""
        where = f"the list of split '{name}'"
        ids = in_order(self._names[name], self._captions, where)
        files = self._files
        return [
            Entry(one, self._captions[one], (files.get(one, one),), seconds=seconds_in(one))
            for one in ids
        ]

    def units(self, split: Split) -> dict[str, str]:
        """Return the YouTube video that each clip was cut from."""
        return same_source(split)

    def official(self, name: str) -> Counts:
        """Return what a split counts."""
        return self.counts[name]

    def notes(self) -> list[str]:
        """Return how CLIP2Video's test list lies to HGR's, where it is used."""
        if self.cfg.data.test_list == "hgr":
            return []
        sec, half = set(self._names["test"]), self._halves
        return [
            f"data.test_list=sec: {_SEC} holds {len(sec & set(half['val'])):,} clips of HGR's val "
            f"and {len(sec & set(half['test'])):,} of its test; the others of both validate, and "
            "scores are not to be put beside those of data.test_list=hgr"
        ]

    @cached_property
    def _names(self) -> dict[str, list[str]]:
        """The clips of every split; raises UserError for one that is in two of them."""
        parts = {"train": self._training} | self._halves
        if self.cfg.data.test_list == "sec":
            path = self.file(_SEC)
            test = read_list(path)
            others = [*self._halves["val"], *self._halves["test"]]
            in_order(test, dict.fromkeys(others), str(path))
            chosen = set(test)
            parts |= {"val": [one for one in others if one not in chosen], "test": test}
        names = [one for part in parts.values() for one in part]
        in_order(names, dict.fromkeys(names), "the lists of train, val and test together")
        return parts

    @cached_property
    def _training(self) -> list[str]:
        if not self.has("train_list.txt") and self.has(_TRAINING):
            return list(read_records(self.file(_TRAINING)))
        return read_list(self.file("train_list.txt", _TRAINING))

    @cached_property
    def _halves(self) -> dict[str, list[str]]:
        """HGR's two halves of the official validation set."""
        return {part: read_list(self.file(f"{part}_list.txt")) for part in ("val", "test")}

    @cached_property
    def _captions(self) -> Captions:
        if self.has(*_BY_ID) or not self.has(_TRAINING):
            path = self.file(*_BY_ID, _TRAINING)
            return read_by_id(path)
        return read_records(self.file(_TRAINING)) | read_records(self.file(_VALIDATION))

    @cached_property
    def _files(self) -> dict[str, str]:
        """What the files of clips are called: by their ids if any is, else as the mapping says."""
        names = [one for part in self._names.values() for one in part]
        if not self.has(_MAPPING) or any(map(self.folder.find, names)):
            return {}
        return read_mapping(self.file(_MAPPING))


def read_by_id(path: Path) -> Captions:
    """Return the English captions in a JSON object by id; UserError for one that is broken.

    Of each id a list (HGR), or an object with the list `enCap` (CLIP2Video).
    """
    found = {}
    for one, value in read_json(path, dict).items():
        texts = value.get("enCap") if isinstance(value, dict) else value
        found[one] = texts_of(texts, f"{path}: {one[:60]!r}")
    return found


def read_records(path: Path) -> Captions:
    """Return the English captions in an official JSON list; UserError for one that is broken."""
    found: Captions = {}
    for number, record in enumerate(read_json(path, list), 1):
        one = _id_of(record)
        if one is None or one in found:
            what = "has no text 'videoID'" if one is None else f"names {one[:60]!r} again"
            raise UserError(f"{path}: record {number} {what}; fetch the file again")
        found[one] = texts_of(record.get("enCap"), f"{path}: {one[:60]!r}")
    return found


def _id_of(record: Any) -> str | None:
    one = record.get("videoID") if isinstance(record, dict) else None
    return one if isinstance(one, str) else None


def read_mapping(path: Path) -> dict[str, str]:
    """Return CARE's name of each clip, of lines `VIDEOID videoN`; UserError for other lines."""
    found: dict[str, str] = {}
    for line in read_list(path):
        one, _, number = line.partition(" ")
        if not re.fullmatch(r"video[0-9]{1,5}", number) or one in found:
            raise UserError(f"{path} has a line {line[:60]!r}, no 'ID videoN'; fetch it again")
        found[one] = number
    return found
