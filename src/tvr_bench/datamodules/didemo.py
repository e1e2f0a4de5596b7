"""DiDeMo as paragraph retrieval: a video's descriptions joined in the order of the file.

Some videos are annotated under two extensions, such as `.mov` and `.mp4`: they are one by their
Flickr id. CLIP4Clip compares whole names and so loses the descriptions under the second.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, ClassVar

from tvr_bench.datamodules.annotated import AnnotatedDataModule, Counts, Entry
from tvr_bench.datamodules.annotation_files import in_order, read_json, read_list, read_table
from tvr_bench.datamodules.base import SPLITS
from tvr_bench.errors import UserError
from tvr_bench.registry import register_dataset

Descriptions = list[tuple[str, str]]  # name of the video's file, one description, in file order


def flickr_id(name: str) -> str:
    """Return the id inside `user@N00_ID_hash.ext`, the whole name where it has no such form."""
    found = re.match(r"[^_]+_(\d+)(_|$)", name)
    return found[1] if found else name


@register_dataset("didemo")
class DidemoDataModule(AnnotatedDataModule):
    """DiDeMo; `data.selection` says which descriptions make up a video's paragraph."""

    edition = "selection"
    captions = "paragraph"
    key_of: ClassVar[Callable[[str], str] | None] = staticmethod(flickr_id)
    folders = (
        *("annotations", "data", "ce_lists", "tmass_csv", "didemo", "DiDeMo", "Didemo"),
        *("data/Didemo", "data/didemo"),
    )
    counts: ClassVar[dict[str, dict[str, Counts]]] = {
        "all": {"val": Counts(1_065, 4_180), "test": Counts(1_004, 4_021)},
        "clip4clip": {"val": Counts(1_065, 4_109), "test": Counts(1_004, 3_932)},
        "tmass": {
            "train": Counts(8_362, 8_362),
            "val": Counts(1_062, 1_062),
            "test": Counts(1_004, 1_004),
        },
    }
    listed: ClassVar[Counts] = Counts(8_392, None)  # what train_list.txt names

    def read_entries(self, name: str) -> list[Entry]:
        """Return the videos of a split in the order of the file with the descriptions."""
        wanted = self._wanted(name)
        entries = self._read(name)
        return self.held_to(name, entries, wanted) if wanted else entries

    def official(self, name: str) -> Counts | None:
        """Return how many videos a split has; `read_entries` holds the descriptions to theirs."""
        wanted = self._wanted(name)
        return Counts(wanted.clips, None) if wanted else None

    def _wanted(self, name: str) -> Counts | None:
        """Return the counts of the chosen selection; of its training videos a list alone tells."""
        known = self.counts[self.cfg.data.selection].get(name)
        return known or (self.listed if name == "train" and self.has("train_list.txt") else None)

    def _read(self, name: str) -> list[Entry]:
        if self.cfg.data.selection == "tmass":
            return self._entries({row[0]: [row[1]] for row in self._rows(name)}, {})
        found, listed = self._descriptions(name), self._list(name)
        whole = self.cfg.data.selection == "clip4clip"
        texts, files = _grouped(found, listed, (lambda video: video) if whole else flickr_id)
        if listed:
            in_order(files, texts, str(self.file(f"{name}_list.txt")))
        return self._entries(texts, files)

    def notes(self) -> list[str]:
        """Return, by split, how many descriptions another extension costs in this selection."""
        if self.cfg.data.selection == "tmass":
            return [
                "data.selection=tmass: the texts are those of data.selection=clip4clip, and train "
                "and val have 30 and 3 videos fewer"
            ]
        return [self._note(name) for name in SPLITS]

    def _note(self, name: str) -> str:
        if not self.has(f"{name}_data.json"):
            return f"{name}_data.json is not there"
        found, listed = self._descriptions(name), self._list(name)
        if not listed:
            return f"{name}_list.txt is not there; all videos of {name}_data.json are used"
        ids = {flickr_id(video) for video in listed}
        other = sum(flickr_id(video) in ids and video not in set(listed) for video, _ in found)
        how = "are kept" if self.cfg.data.selection == "all" else "are lost, as in CLIP4Clip"
        return (
            f"{name}: {other} of {len(found):,} descriptions name a listed video with another "
            f"extension and {how} (data.selection={self.cfg.data.selection})"
        )

    def _list(self, name: str) -> list[str]:
        """Return the names of CE's list; none where it is missing and not needed."""
        place = f"{name}_list.txt"
        if self.cfg.data.selection != "clip4clip" and not self.has(place):
            return []
        path = self.file(place)
        names = read_list(path)
        if not names:
            raise UserError(f"{path} is empty; fetch it again")
        return in_order(names, dict.fromkeys(names), str(path))

    def _descriptions(self, name: str) -> Descriptions:
        place, table = f"{name}_data.json", _table(name)
        if not self.has(place) and self.has(table):
            raise UserError(
                f"data.selection={self.cfg.data.selection} needs {place}; fetch it, or set "
                f"data.selection=tmass to read {table}"
            )
        path = self.file(place)
        rows = enumerate(read_json(path, list), 1)
        return [_description(row, f"{path}: description {i}") for i, row in rows]

    def _rows(self, name: str) -> Descriptions:
        path = self.file(_table(name))
        rows = read_table(path, ("video_path", "text"))
        names = [row["video_path"].rpartition("/")[2] for row in rows]
        in_order(names, dict.fromkeys(names), str(path))
        return [(video, row["text"]) for video, row in zip(names, rows, strict=True)]

    def _entries(self, texts: dict[str, list[str]], files: dict[str, list[str]]) -> list[Entry]:
        end, found = float(self.cfg.data.seconds), []
        for key, some in texts.items():
            names = list(dict.fromkeys(files.get(key, [key])))
            stem = names[0].rpartition(".")[0] or names[0]
            entry = Entry(stem, tuple(some), (*names, stem), 0.0, end, flickr_id(stem))
            found.append(entry)
        return found


def _grouped(
    found: Descriptions, listed: list[str], key_of: Callable[[str], str]
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return the texts and the file names of each video by its key, in the order of `found`.

    Only of listed videos where any are; a video's listed name comes first.
    """
    texts: dict[str, list[str]] = {}
    files = {key_of(video): [video] for video in listed}
    for video, text in found:
        key = key_of(video)
        if not listed or key in files:
            texts.setdefault(key, []).append(text)
            files.setdefault(key, []).append(video)
    return texts, files


def _table(name: str) -> str:
    return f"didemo_{name}_label.csv"


def _description(row: Any, where: str) -> tuple[str, str]:
    if not isinstance(row, dict):
        raise UserError(f"{where} is no object; fetch the file again")
    for key in ("video", "description"):
        if not isinstance(row.get(key), str):
            raise UserError(f"{where} has no text '{key}'; fetch the file again")
    return row["video"], row["description"]
