"""LSMDC: short clips of movies, 1,000 of them to test on.

A clip may have several sentences in training (its id repeats there): it is one clip with several
captions, so that it is decoded once and no clip is a negative of itself.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from tvr_bench.datamodules.annotated import AnnotatedDataModule, Counts, Entry
from tvr_bench.datamodules.tables import read_lines
from tvr_bench.datamodules.text_files import FETCH, read_text
from tvr_bench.datamodules.types import Split
from tvr_bench.errors import UserError
from tvr_bench.registry import register_dataset

_FILES = {
    "train": "LSMDC16_annos_training.csv",
    "val": "LSMDC16_annos_val.csv",
    "test": "LSMDC16_challenge_1000_publictect.csv",  # spelt so by its makers
}
_STATED = 7_408  # sentences of val that LSMDC's readme states; not seen in a file
_SPAN = re.compile(r"_\d\d\.\d\d\.\d\d\.\d{3}-\d\d\.\d\d\.\d\d\.\d{3}$")


@register_dataset("lsmdc")
class LsmdcDataModule(AnnotatedDataModule):
    """LSMDC 2016 with the 1,000 clips that the challenge made public."""

    folders = (
        *("annotations", "LSMDC", "lsmdc", "lsmdc_data", "lsmdc2016", "LSMDC16", "lsmdc16"),
        *("LSMDC-annotation", "data/LSMDC", "meta_data/lsmdc", "structured-symlinks"),
    )
    counts: ClassVar[dict[str, Counts]] = {
        "train": Counts(None, 101_079),
        "test": Counts(1_000, 1_000),
    }

    def read_entries(self, name: str) -> list[Entry]:
        """Return the clips of a split in the order in which the file first names them."""
        captions: dict[str, list[str]] = {}
        for clip, sentence in read_rows(self.file(_FILES[name])):
            captions.setdefault(clip, []).append(sentence)
        return [Entry(clip, tuple(some), _names(clip)) for clip, some in captions.items()]

    def units(self, split: Split) -> dict[str, str]:
        """Return the film that each clip is from: its clips share actors, light and places."""
        return {clip.id: _SPAN.sub("", clip.id) for clip in split.clips}

    def official(self, name: str) -> Counts | None:
        """Return what a split counts; of `train` the sentences alone are known, of `val` nothing.

        LSMDC's readme states the 101,079.
        """
        return self.counts.get(name)

    def notes(self) -> list[str]:
        """Return how many clips have several sentences, and whether val is as stated."""
        lines = []
        for name, place in _FILES.items():
            if not self.has(place):
                lines.append(f"{place} is not there")
                continue
            entries = self.read_entries(name)
            found = sum(len(entry.captions) for entry in entries)
            several = sum(len(entry.captions) > 1 for entry in entries)
            lines.append(f"{name}: {several:,} of {len(entries):,} clips have several sentences")
            if name == "val" and found != _STATED:
                lines.append(f"val has {found:,} sentences; LSMDC's readme states {_STATED:,}")
        return lines


def read_rows(path: Path) -> list[tuple[str, str]]:
    """Return the clip id and the sentence of every line, as they stand; quotes are plain signs.

    Raises UserError, naming the line, for one that has not six fields or an empty one of the two.
    """
    lines = read_lines(path, read_text(path), FETCH, delimiter="\t", quoting=csv.QUOTE_NONE)
    return [_row(line.cells, f"{path} line {line.number}") for line in lines]


def _row(fields: Sequence[str], where: str) -> tuple[str, str]:
    if len(fields) != 6:
        raise UserError(
            f"{where} has {len(fields)} fields between tabs instead of 6 (clip, four times, "
            "sentence); fetch the file again"
        )
    clip, sentence = fields[0].strip(), fields[5]
    if not clip or not sentence.strip():
        raise UserError(f"{where} has no {'sentence' if clip else 'clip'}; fetch the file again")
    return clip, sentence


def _names(clip: str) -> tuple[str, ...]:
    """Return `movie/clip` and `clip`; the dots of an id are no suffix."""
    movie = _SPAN.sub("", clip)
    return (f"{movie}/{clip}.avi", clip)
