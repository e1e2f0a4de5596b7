"""TextVR: clips with captions that name the text to be seen in them (Wu et al., 2025).

The file of the benchmark's competition, `TextVR_test_rand.json`, has every caption at another
clip. It is refused by what it holds, so also under another name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from tvr_bench.datamodules.annotated import AnnotatedDataModule, Counts, Entry, held_out
from tvr_bench.datamodules.annotation_files import read_json
from tvr_bench.datamodules.folder import checked_name, without_suffix
from tvr_bench.datamodules.types import Clip
from tvr_bench.errors import UserError
from tvr_bench.files import settings_hash
from tvr_bench.registry import register_dataset

_SHUFFLED = "TextVR_test_rand.json"
_WRONG = (
    "has the test captions shuffled, for the competition's server; fetch TextVR_test.json from the "
    "data set's repository"
)


@dataclass(frozen=True)
class Record:
    """A clip: the path of its video, its captions, the path of its text without `.json`."""

    path: str
    captions: tuple[str, ...]
    text: str

    @property
    def id(self) -> str:
        """The path as one name."""
        return without_suffix(self.path).replace("/", "__")

    @property
    def name(self) -> str:
        """The file's name without folder and suffix."""
        return without_suffix(self.path).rpartition("/")[2]


@register_dataset("textvr")
class TextVrDataModule(AnnotatedDataModule):
    """TextVR; `data.holdout` training clips validate, by their first caption as in the test."""

    under = ("Videos", "Video")
    folders = ("TextVR", "data/TextVR", "annotations")
    counts: ClassVar[dict[str, Counts]] = {
        "train": Counts(None, 39_650),
        "test": Counts(2_727, 2_727),
    }
    # hashes of the official test file: its captions, and these with the clips they belong to
    captions_hash: ClassVar[str] = "e868468d40d768d3"
    pairs_hash: ClassVar[str] = "6e098d789f8f2d66"

    def read_entries(self, name: str) -> list[Entry]:
        """Return the clips of a split in the order of its file."""
        if name == "test":
            return self._read("test")
        train, val = held_out(self._training, self.cfg.data.holdout)
        return train if name == "train" else [_first(entry) for entry in val]

    def official(self, name: str) -> Counts | None:
        """Return what the test counts; training captions are counted before any is held out."""
        return self.counts["test"] if name == "test" else None

    def notes(self) -> list[str]:
        """Return how many of the test's captions are those of several clips."""
        try:
            texts = [entry.captions[0] for entry in self._read("test")]
        except UserError:  # it is said of the split itself
            return []
        return [
            f"test: {len(set(texts)):,} different captions of {len(texts):,}; the others cannot "
            "all find their own clip first"
        ]

    def text_names(self, clip: Clip) -> tuple[str, ...]:
        """Return the path of a clip's file of text, then that of its video, then its id."""
        return tuple(dict.fromkeys((*self._texts.get(clip.id, ()), clip.id)))

    @cached_property
    def _texts(self) -> dict[str, tuple[str, str]]:
        return {}

    @cached_property
    def _training(self) -> list[Entry]:
        return self.held_to("train", self._read("train"), self.counts["train"])

    def _read(self, name: str) -> list[Entry]:
        """Return the clips of a file; the test has the first caption of each, as in its code."""
        place = f"TextVR_{name}.json"
        if name == "test" and not self.has(place) and self.has(_SHUFFLED):
            raise UserError(f"{self.file(_SHUFFLED)} {_WRONG}")
        path = self.file(place)
        records = read_records(path)
        if name == "test" and self._is_shuffled(records):
            raise UserError(f"{path} {_WRONG}")
        self._check_texts(path, records)
        self._texts |= {r.id: (r.text, without_suffix(r.path)) for r in records}
        lower = self.cfg.data.lower
        entries = [_entry(record, lower) for record in records]
        return [_first(entry) for entry in entries] if name == "test" else entries

    def _is_shuffled(self, records: Sequence[Record]) -> bool:
        """Whether the captions are the official ones, but not all at their own clips."""
        pairs = sorted((r.name, " ".join(r.captions[0].lower().split())) for r in records)
        captions = settings_hash(sorted(caption for _, caption in pairs))
        return captions == self.captions_hash and settings_hash(pairs) != self.pairs_hash

    def _check_texts(self, path: Path, records: Sequence[Record]) -> None:
        """Raise UserError where text is to be read from files that are other clips'."""
        if not self.reads_text or self.cfg.ocr.source != "kwai":
            return
        strangers = sum(r.name != r.text.rpartition("/")[2] for r in records)
        if 2 * strangers > len(records):
            raise UserError(
                f"{path} names, as Kwai_OCR, the scene text of other clips ({strangers:,} of "
                f"{len(records):,}), as an early edition did; fetch today's from the data set's "
                "repository"
            )


def read_records(path: Path) -> list[Record]:
    """Return the records of a file of TextVR; UserError, naming the record, for another form."""
    rows = enumerate(read_json(path, list), 1)
    return [_record(row, f"{path}: record {number}") for number, row in rows]


def _record(row: Any, where: str) -> Record:
    if not isinstance(row, dict):
        raise UserError(f"{where} is no object; fetch the file again")
    path, found = row.get("path"), row.get("captions_info")
    if not isinstance(path, str):
        raise UserError(f"{where} has no text 'path'; fetch the file again")
    checked_name(path, where)
    if not isinstance(found, list) or not found:
        raise UserError(f"{where} has no list 'captions_info'; fetch the file again")
    captions = tuple(_caption(one, where) for one in found)
    info = row.get("videos_info")
    text = info.get("Kwai_OCR", path) if isinstance(info, dict) else path
    if not isinstance(text, str):
        raise UserError(f"{where} has a 'Kwai_OCR' that is no text; fetch the file again")
    return Record(path, captions, without_suffix(checked_name(text, where).removesuffix(".json")))


def _caption(info: Any, where: str) -> str:
    caption = info.get("caption") if isinstance(info, dict) else None
    if not isinstance(caption, str) or not caption.strip():
        raise UserError(f"{where} has a caption that is no text; fetch the file again")
    return caption


def _entry(record: Record, lower: bool) -> Entry:
    captions = tuple(text.lower() if lower else text for text in record.captions)
    return Entry(record.id, captions, (record.path, record.path.rpartition("/")[2]))


def _first(entry: Entry) -> Entry:
    return replace(entry, captions=entry.captions[:1])
