"""ActivityNet Captions as paragraph retrieval: train.json, tested on val_1.json.

A video's sentences are joined to one paragraph, as CLIP4Clip does. Its span is 0 to the annotated
duration, rounded up, so that a longer copy of a video shows what the annotators saw.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from tvr_bench.datamodules.annotated import AnnotatedDataModule, Counts, Entry, held_out
from tvr_bench.datamodules.annotation_files import in_order, read_json, read_list, texts_of
from tvr_bench.errors import UserError
from tvr_bench.registry import register_dataset

# captions; then the lists of ids, of which one may be there: the official one, CE's
_FILES = {
    "train": ("train.json", "train_ids.json", "train_list.txt"),
    "test": ("val_1.json", "val_ids.json", "val_1_list.txt"),
}
_BAD = "bad_vids.txt"
_LONGEST = 1e6  # seconds


@register_dataset("activitynet")
class ActivityNetDataModule(AnnotatedDataModule):
    """ActivityNet Captions; `data.holdout` training videos validate, val_1 is the test set."""

    captions = "paragraph"
    folders = (
        *("annotations", "captions", "ce_lists", "ActivityNet", "activitynet", "activity-net"),
        *("data/ActivityNet", "splits"),
    )
    counts: ClassVar[dict[str, Counts]] = {
        "train": Counts(10_009, 37_421),
        "test": Counts(4_917, 17_505),
    }

    def read_entries(self, name: str) -> list[Entry]:
        """Return the videos of a split, each with its sentences."""
        if name == "test":
            return self._kept(self._read("test"))
        train, val = held_out(self._kept(self._read("train")), self.cfg.data.holdout)
        return train if name == "train" else val

    def official(self, name: str) -> Counts | None:
        """Return how many videos val_1 has; `read_entries` holds train.json and all sentences to
        theirs, before any video is held out or left out.
        """
        if name != "test" or name not in self.counts or self.cfg.data.skip_bad:
            return None
        return Counts(self.counts[name].clips, None)

    def notes(self) -> list[str]:
        """Return the ids without captions, by list, and the videos that were left out."""
        lines = []
        for name in _FILES:
            known = {entry.id: entry for entry in self._read(name)}
            for path, ids in self._lists(name):
                if lost := [one for one in ids if _key(one, known) not in known]:
                    lines.append(
                        f"{path.name} names {len(lost)} videos that have no captions and are in "
                        f"no split: {', '.join(lost)}"
                    )
        if bad := self._bad():
            lines.append(
                f"data.skip_bad leaves out {len(bad)} videos ({', '.join(bad)}); scores on the "
                "smaller test set are not those of the papers"
            )
        return lines

    def _read(self, name: str) -> list[Entry]:
        """Return the captioned videos of a file that its list names, if there is a list."""
        path = self.file(_FILES[name][0])
        videos, strip = read_json(path, dict), self.cfg.data.strip
        entries = {key: _entry(key, value, path, strip) for key, value in videos.items()}
        for _, ids in self._lists(name):
            listed = {_key(one, entries) for one in ids}
            entries = {key: entry for key, entry in entries.items() if key in listed}
        found = list(entries.values())
        return self.held_to(name, found, self.counts[name]) if name in self.counts else found

    def _lists(self, name: str) -> Iterator[tuple[Path, list[str]]]:
        """Yield the lists of ids that are there, with their paths."""
        for place in _FILES[name][1:]:
            if self.has(place):
                path = self.file(place)
                yield path, read_ids(path)

    def _bad(self) -> list[str]:
        return read_list(self.file(_BAD)) if self.cfg.data.skip_bad else []

    def _kept(self, entries: list[Entry]) -> list[Entry]:
        bad = set(self._bad())
        return [entry for entry in entries if entry.id not in bad]


def read_ids(path: Path) -> list[str]:
    """Return the ids of a list, JSON or one a line; UserError for other things or one twice."""
    if path.suffix != ".json":
        ids = read_list(path)
    else:
        ids = read_json(path, list)
        if not all(isinstance(one, str) for one in ids):
            raise UserError(f"{path} holds ids that are no text; fetch it again")
    return in_order(ids, dict.fromkeys(ids), str(path))


def _key(listed: str, entries: dict[str, Entry]) -> str:
    """Return the id as the captions have it; some lists leave out its `v_`."""
    return listed if listed in entries else f"v_{listed}"


def _entry(key: str, value: Any, path: Path, strip: bool) -> Entry:
    where = f"{path}: video {key[:40]!r}"
    if not isinstance(value, dict):
        raise UserError(f"{where} is no object with sentences; fetch the file again")
    duration = value.get("duration")
    if isinstance(duration, bool) or not isinstance(duration, (int, float)):
        raise UserError(f"{where} has no duration in seconds; fetch the file again")
    if not 0 < duration < _LONGEST:
        raise UserError(f"{where} has the duration {duration}; fetch the file again")
    sentences = texts_of(value.get("sentences"), where)
    if strip:
        sentences = tuple(text.strip() for text in sentences)
    names = tuple(dict.fromkeys((key.removeprefix("v_"), key)))  # files are mostly without `v_`
    end = float(math.ceil(duration))
    return Entry(key, sentences, names, 0.0, end, seconds=float(duration))
