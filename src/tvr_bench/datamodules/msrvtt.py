"""MSR-VTT: 10,000 clips with 20 captions each, and the three ways in which papers split them.

`1ka` (JSFusion) tests 1,000 clips with one sentence each, `full` is the official split, `1kb`
(Miech) one that overlaps the test clips of 1k-A.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from tvr_bench.datamodules.annotated import AnnotatedDataModule, Counts, Entry, held_out
from tvr_bench.datamodules.annotation_files import in_order, read_json, read_list, read_table
from tvr_bench.errors import UserError
from tvr_bench.registry import register_dataset
from tvr_bench.safe_pickle import load_plain

_OFFICIAL = ("train_val_videodatainfo.json", "test_videodatainfo.json")
_SENTENCES = "MSRVTT_JSFUSION_test.csv"
_JSFUSION = "val_list_jsfusion.txt"
_INDEX = "jsfusion_val_caption_idx.pkl"
_MIECH = {"train": "train_list_miech.txt", "test": "test_list_miech.txt"}
# lists of CLIP4Clip and of collaborative-experts; they must be what the numbers of the ids say
_LISTS = {
    "9k": ("MSRVTT_train.9k.csv", "train_list_jsfusion.txt"),
    "7k": ("MSRVTT_train.7k.csv",),
    "train": ("MSRVTT_train.full.csv", "train_list_full.txt"),
    "val": ("MSRVTT_val.full.csv", "val_list_full.txt"),
    "test": ("MSRVTT_test.full.csv", "test_list_full.txt"),
}


@register_dataset("msrvtt")
class MsrvttDataModule(AnnotatedDataModule):
    """MSR-VTT; `data.split` says which clips train and test, `data.train` how many of 1k-A."""

    edition = "split"
    folders = (
        *("msrvtt_data", "annotation", "annotations", "official", "csv", "ce_lists"),
        *("structured-symlinks", "high-quality/structured-symlinks", "data"),
    )
    parts: ClassVar[dict[str, range]] = {  # of the official split: the numbers in its ids
        "train": range(6_513),
        "val": range(6_513, 7_010),
        "test": range(7_010, 10_000),
    }
    one_each: ClassVar[int] = 1_000  # test clips of 1k-A and of 1k-B, each with one sentence
    miech: ClassVar[int] = 6_656  # training clips of 1k-B
    per_clip: ClassVar[int] = 20

    def read_entries(self, name: str) -> list[Entry]:
        """Return the clips of a split; raises UserError for 1k-B where it is not forced."""
        split = self.cfg.data.split
        if split == "full":
            return self._entries(self._listed(name, self._ids(name)))
        if split == "1kb" and not self.cfg.data.force_1kb:
            raise UserError(
                "data.split=1kb trains on 453 of the 1,000 test videos of 1k-A and tests on 296 of "
                "them, so neither its weights nor its scores go with those of 1k-A; choose "
                "data.split=1ka, or set data.force_1kb=true and keep its runs apart"
            )
        if name == "test":
            return self._miech_test() if split == "1kb" else self._jsfusion_test()
        train, val = held_out(self._training(), self.cfg.data.holdout)
        return train if name == "train" else val

    def official(self, name: str) -> Counts | None:
        """Return what a split counts; training clips are checked before any is held out."""
        if self.cfg.data.split == "full":
            return Counts(len(self.parts[name]), len(self.parts[name]) * self.per_clip)
        return Counts(self.one_each, self.one_each) if name == "test" else None

    def notes(self) -> list[str]:
        """Return what sets the test sentences of 1k-A apart from the clips' own captions."""
        if self.cfg.data.split == "full":
            return []
        kept = f"{self.cfg.data.holdout} of the {len(self._training()):,} training clips validate"
        lines = [kept] if self.cfg.data.holdout else []
        if self.cfg.data.split == "1kb":
            return [*lines, "1k-B shares test and training clips with the test set of 1k-A"]
        found = differences(self._sentences, self._captions)
        if found:
            lines.append(
                f"{len(found)} of {len(self._sentences):,} test sentences are not word for word "
                f"among the {self.per_clip} captions of their clip: {_by_kind(found)}"
            )
        return lines

    def _ids(self, *parts: str) -> list[str]:
        return [f"video{number}" for part in parts for number in self.parts[part]]

    def _training(self) -> list[Entry]:
        """Return all training clips of 1k-A or 1k-B."""
        if self.cfg.data.split == "1kb":
            path = self.file(_MIECH["train"])
            entries = self._entries(in_order(read_ids(path), self._captions, str(path)))
            return self.held_to("train", entries, Counts(self.miech, self.miech * self.per_clip))
        if self.cfg.data.train == "7k":
            return self._entries(self._listed("7k", self._ids("train", "val")))
        others = [one for one in self._ids(*self.parts) if one not in self._sentences]
        return self._entries(self._listed("9k", others))

    def _listed(self, which: str, wanted: list[str]) -> list[str]:
        """Return `wanted` in the order of its list where that is there; UserError if it differs."""
        if not self.has(*_LISTS[which]):
            return wanted
        path = self.file(*_LISTS[which])
        listed = read_ids(path)
        if odd := set(listed) ^ set(wanted):
            raise UserError(
                f"{path} has {len(listed):,} videos and is not the official list of "
                f"{len(wanted):,}: {min(odd)[:60]!r} is in one of the two alone; fetch it again, "
                "or remove it, and the official list is used"
            )
        return in_order(listed, self._captions, str(path))

    def _entries(self, ids: list[str]) -> list[Entry]:
        return [self._entry(one, self._captions[one]) for one in ids]

    def _entry(self, one: str, texts: tuple[str, ...]) -> Entry:
        return Entry(one, texts, (one,), seconds=self._seconds.get(one))

    def _jsfusion_test(self) -> list[Entry]:
        return [self._entry(one, (text,)) for one, text in self._sentences.items()]

    def _miech_test(self) -> list[Entry]:
        """Return the test clips of 1k-B with their first captions, as collaborative-experts."""
        path = self.file(_MIECH["test"])
        ids = in_order(read_ids(path), self._captions, str(path))
        return [self._entry(one, self._captions[one][:1]) for one in ids]

    @property
    def _captions(self) -> dict[str, tuple[str, ...]]:
        """All captions, by clip."""
        return self._annotations[0]

    @property
    def _seconds(self) -> dict[str, float]:
        """How long clips are, where the annotations say it."""
        return self._annotations[1]

    @cached_property
    def _annotations(self) -> tuple[dict[str, tuple[str, ...]], dict[str, float]]:
        places: list[tuple[str, ...]] = [("MSRVTT_data.json", "MSR_VTT.json", _OFFICIAL[0])]
        if self.has(_OFFICIAL[0]) and not self.has("MSRVTT_data.json"):
            places = [(place,) for place in _OFFICIAL]
        paths = [self.file(*place) for place in places]
        found: dict[str, list[str]] = {}
        seconds: dict[str, float] = {}
        for path in paths:
            captions, lengths = read_annotations(path)
            for clip, texts in captions.items():
                found.setdefault(clip, []).extend(texts)
            seconds |= lengths
        return self._complete(found, " and ".join(map(str, paths))), seconds

    def _complete(self, found: dict[str, list[str]], where: str) -> dict[str, tuple[str, ...]]:
        """Return the captions of all clips; UserError for one too many or one too few."""
        ids = self._ids(*self.parts)
        if odd := set(found) ^ set(ids):
            one = min(odd)
            what = "captions of" if one in found else "no captions of"
            raise UserError(
                f"{where}: {what} {one[:60]!r}, and the clips are {ids[0]} to {ids[-1]}; fetch "
                "it again"
            )
        for clip, texts in found.items():
            if len(texts) != self.per_clip:
                raise UserError(
                    f"{where}: {len(texts)} captions of '{clip}' instead of {self.per_clip}; "
                    "fetch it again"
                )
        return {clip: tuple(texts) for clip, texts in found.items()}

    @cached_property
    def _sentences(self) -> dict[str, str]:
        """The test sentence of each clip of 1k-A."""
        if self.has(_SENTENCES) or not self.has(_JSFUSION):
            path = self.file(_SENTENCES, _JSFUSION)
            rows = read_table(path, ("video_id", "sentence"))
            if len(rows) != self.one_each:
                raise UserError(
                    f"{path} has {len(rows):,} sentences instead of {self.one_each:,}; fetch it "
                    "again"
                )
            in_order([row["video_id"] for row in rows], dict.fromkeys(self._ids("test")), str(path))
            return {row["video_id"]: row["sentence"] for row in rows}
        path = self.file(_JSFUSION)
        ids = in_order(read_ids(path), dict.fromkeys(self._ids("test")), str(path))
        return picked(ids, self._captions, self.file(_INDEX))


def read_annotations(path: Path) -> tuple[dict[str, list[str]], dict[str, float]]:
    """Return the captions of each clip in an official, CLIP4Clip's or CE's JSON file, in its order.

    And how long clips are in seconds, where it says so. Raises UserError for one that is broken.
    """
    value = read_json(path, dict)
    key, clip_key = (
        ("sentences", "video_id") if "sentences" in value else ("annotations", "image_id")
    )
    rows = value.get(key)
    if not isinstance(rows, list):
        raise UserError(f"{path} has no list 'sentences' or 'annotations'; is it the right file?")
    found: dict[str, list[str]] = {}
    for number, row in enumerate(rows, 1):
        clip, text = _cells(row, clip_key)
        if not isinstance(clip, str) or not isinstance(text, str) or not text.strip():
            raise UserError(
                f"{path}: entry {number} of '{key}' has no text '{clip_key}' or 'caption'; fetch "
                "the file again"
            )
        found.setdefault(clip, []).append(text)
    return found, _lengths(value.get("videos"))


def _lengths(videos: Any) -> dict[str, float]:
    found = {}
    for row in videos if isinstance(videos, list) else ():
        one, _ = _cells(row, "video_id")
        times = [row.get(f"{which} time") for which in ("start", "end")] if one else []
        if isinstance(one, str) and all(isinstance(time, (int, float)) for time in times):
            found[one] = float(times[1] - times[0])
    return found


def _cells(row: Any, clip_key: str) -> tuple[Any, Any]:
    return (row.get(clip_key), row.get("caption")) if isinstance(row, dict) else (None, None)


def read_ids(path: Path) -> list[str]:
    """Return the ids of a list: a CSV with the column `video_id`, or a text file of one a line."""
    if path.suffix == ".csv":
        return [row["video_id"] for row in read_table(path, ("video_id",))]
    return read_list(path)


def picked(ids: list[str], captions: Mapping[str, tuple[str, ...]], index: Path) -> dict[str, str]:
    """Return the caption of each clip that CE's pickle of positions chooses."""
    try:
        chosen = load_plain(index, (dict, str, int))
    except UserError as error:
        raise UserError(f"{error}, or bring {_SENTENCES} instead") from error
    if not isinstance(chosen, dict):
        raise UserError(f"{index} holds no positions by video; bring {_SENTENCES} instead")
    found = {}
    for one in ids:
        place = chosen.get(one)
        if not isinstance(place, int) or not 0 <= place < len(captions[one]):
            raise UserError(f"{index} has no position of a caption of '{one}'; fetch it again")
        found[one] = captions[one][place]
    return found


def differences(
    sentences: Mapping[str, str], captions: Mapping[str, tuple[str, ...]]
) -> dict[str, str]:
    """Return, for each clip whose sentence is none of its captions word for word, what differs.

    That is `white space`, `punctuation` (letters and digits are those of a caption) or `words`.
    """
    found = {}
    for clip, sentence in sentences.items():
        own = captions.get(clip, ())
        if sentence in own:
            continue
        if " ".join(sentence.split()) in {" ".join(text.split()) for text in own}:
            found[clip] = "white space"
        else:
            same = _letters(sentence) in {_letters(text) for text in own}
            found[clip] = "punctuation" if same else "words"
    return found


def _by_kind(found: Mapping[str, str]) -> str:
    """Return, by what differs, how many clips there are and which."""
    kinds = {kind: [clip for clip, how in found.items() if how == kind] for kind in found.values()}
    return "; ".join(
        f"{len(ids)} differ in {kind} ({', '.join(ids)})" for kind, ids in kinds.items()
    )


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text))
