"""YouCook2 as clip retrieval: every annotated segment of a cooking video is a clip.

Trained on the segments of the official training videos; tested on the 3,350 validation segments of
HowTo100M and MIL-NCE, or on all 3,492.
"""

from __future__ import annotations

from typing import Any, ClassVar, TypeGuard

from tvr_bench.datamodules.annotated import AnnotatedDataModule, Counts, Entry, held_out
from tvr_bench.datamodules.annotation_files import read_json, read_table
from tvr_bench.errors import UserError
from tvr_bench.registry import register_dataset

_OFFICIAL = "youcookii_annotations_trainval.json"
_MILNCE = "validation_youcook.csv"
_LONGEST = 1e6  # seconds


@register_dataset("youcook2")
class Youcook2DataModule(AnnotatedDataModule):
    """YouCook2's segments; some training videos validate, for the papers have no other videos."""

    edition = "test"
    folders = (
        *("annotations", "csv", "YouCook2", "YouCookII", "youcook2", "youcook"),
        *("YouCookII/annotations", "data/youcook2"),
    )
    counts: ClassVar[dict[str, Counts]] = {
        "train": Counts(10_337, 10_337),
        "official": Counts(3_492, 3_492),
        "milnce": Counts(3_350, 3_350),
    }

    def read_entries(self, name: str) -> list[Entry]:
        """Return the segments of a split, `VIDEO_n` the n-th segment of a video, from 0."""
        if name == "test":
            milnce = self.cfg.data.test == "milnce"
            return self._milnce() if milnce else self._official("validation")
        entries = self._official("training")
        if "train" in self.counts:
            entries = self.held_to("train", entries, self.counts["train"])
        # by video: segments of one recipe look alike, and test videos are not trained on either
        train, val = held_out(entries, self.cfg.data.holdout, group=video_of)
        return train if name == "train" else val

    def official(self, name: str) -> Counts | None:
        """Return what the test set counts; training segments are counted before any is held out."""
        return self.counts.get(self.cfg.data.test) if name == "test" else None

    def _official(self, subset: str) -> list[Entry]:
        path = self.file(_OFFICIAL)
        videos = read_json(path, dict).get("database")
        if not isinstance(videos, dict):
            raise UserError(f"{path} has no 'database' of videos; is it the right file?")
        entries: list[Entry] = []
        for video, value in videos.items():
            entries += _segments(video, value, subset, f"{path}: video {video[:40]!r}")
        return entries

    def _milnce(self) -> list[Entry]:
        if not self.has(_MILNCE) and self.has(_OFFICIAL):
            raise UserError(
                f"data.test=milnce needs {_MILNCE} of MIL-NCE_HowTo100M; fetch it, or set "
                "data.test=official to test on all 3,492 segments"
            )
        path = self.file(_MILNCE)
        entries: list[Entry] = []
        seen: dict[str, int] = {}
        for i, row in enumerate(read_table(path, ("end", "start", "task", "text", "video_id")), 1):
            where = f"{path}: row {i}"
            try:
                span = [float(row["start"]), float(row["end"])]
            except ValueError as error:
                raise UserError(f"{where} has a time that is no number ({error})") from error
            video = row["video_id"]
            seen[video] = seen.get(video, -1) + 1
            place = f"validation/{row['task']}/{video}"
            entries.append(_entry(video, seen[video], place, span, row["text"], None, where))
        return entries


def video_of(entry: Entry) -> str:
    """Return the video that a segment is of."""
    return entry.names[-1]


def _segments(video: str, value: Any, subset: str, where: str) -> list[Entry]:
    """Return the segments of one video of the official file; none if it is of another subset."""
    if not isinstance(value, dict) or not isinstance(value.get("annotations"), list):
        raise UserError(f"{where} has no list 'annotations'; fetch the file again")
    if value.get("subset") not in ("training", "validation"):
        raise UserError(f"{where} is of no subset 'training' or 'validation'; fetch the file again")
    if value["subset"] != subset:
        return []
    place = f"{subset}/{value.get('recipe_type')}/{video}"
    length = value.get("duration")
    seconds = float(length) if _is_time(length) else None
    entries = []
    for i, segment in enumerate(value["annotations"]):
        if not isinstance(segment, dict):
            raise UserError(f"{where}, segment {i} is no object; fetch the file again")
        span, text = segment.get("segment"), segment.get("sentence")
        entries.append(_entry(video, i, place, span, text, seconds, f"{where}, segment {i}"))
    return entries


def _entry(
    video: str, i: int, place: str, span: Any, text: Any, seconds: float | None, where: str
) -> Entry:
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"{where} has no sentence; fetch the file again")
    start, end = _span(span, where)
    return Entry(f"{video}_{i}", (text,), (place, video), start, end, seconds=seconds)


def _span(span: Any, where: str) -> tuple[float, float]:
    times = isinstance(span, list) and len(span) == 2 and all(_is_time(time) for time in span)
    if not times or not span[0] < span[1]:
        raise UserError(
            f"{where} has no start and end in seconds, the start first; fetch the file again"
        )
    return float(span[0]), float(span[1])


def _is_time(value: Any) -> TypeGuard[float]:
    return type(value) in (int, float) and 0 <= value < _LONGEST
