"""The preflight of a data set: what is there, what can be read, and whether it is the papers' set.

Every video is opened, and the frames that a run would read are decoded (`check_videos.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tvr_bench.datamodules import tokens
from tvr_bench.datamodules.annotated import AnnotatedDataModule, Counts
from tvr_bench.datamodules.base import SPLITS, VideoTextDataModule
from tvr_bench.datamodules.check_videos import Facts, Look, look_at
from tvr_bench.datamodules.types import Clip, Split
from tvr_bench.errors import UserError
from tvr_bench.files import Ledger, atomic_write, json_text
from tvr_bench.settings import extracted, split_frames

MANIFEST, LEDGER = "manifest.jsonl", "failures.jsonl"
_FAR = 2.0  # seconds that a video may differ from its annotation; keyframes round them
_STAGE = "check"


@dataclass
class SplitReport:
    """What was found of one split; `error` says in a line why its annotations cannot be read."""

    name: str
    official: Counts | None = None
    clips: int = 0
    captions: int = 0
    missing: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    seconds: float = 0.0
    far: list[str] = field(default_factory=list)
    error: str = ""

    @property
    def whole(self) -> bool:
        """Whether the split is there to the last video."""
        return not (self.error or self.missing or self.unreadable)


@dataclass
class Report:
    """What a check found: the splits, lines about the annotations, and where the files lie.

    `unlike` says why the annotations are not the papers', where they are not.
    """

    data: str
    splits: list[SplitReport]
    notes: list[str]
    manifest: Path
    ledger: Path
    unlike: str = ""

    @property
    def verdict(self) -> tuple[bool, str]:
        """Return whether scores will be comparable with the papers', and a line that says why."""
        test = next(one for one in self.splits if one.name == "test")
        train = next(one for one in self.splits if one.name == "train")
        if test.error:
            return False, f"not comparable: the test split cannot be read ({test.error})"
        gone = len(test.missing) + len(test.unreadable)
        if gone:
            return False, (
                f"not comparable: {gone:,} of {test.clips:,} test videos are missing or cannot be "
                "read, and count as misses"
            )
        if self.unlike:
            return False, f"not comparable: {self.unlike}"
        if test.official is None:
            return True, "the test split is whole; there is no official size to hold it to"
        if not train.whole:
            return False, (
                "an evaluation of given weights is comparable, a training is not: "
                + (train.error or f"{len(train.missing) + len(train.unreadable):,} of "
                   f"{train.clips:,} training videos are missing or cannot be read")
            )  # fmt: skip
        return True, "comparable: both splits have the official size and every video can be read"


def check(data: VideoTextDataModule, out: Path, *, whole: bool = False) -> Report:
    """Return what is there of a data set, and write its manifest and its ledger to `out`.

    `whole` decodes every frame of every video, not only those that a run would read. Raises
    UserError where no split can be read, or none has files.
    """
    if data.no_files:
        raise UserError(data.no_files)
    out.mkdir(parents=True, exist_ok=True)
    (out / LEDGER).unlink(missing_ok=True)
    ledger = Ledger(out / LEDGER)
    reports, splits = _read_splits(data)
    facts = look_at(
        [clip for split in splits.values() for clip in split.clips],
        _look(data, whole),
        data.cache / "checks",
        data.contents,
        workers=data.workers,
    )
    for report in reports:
        if report.name in splits:
            _fill(report, splits[report.name], facts, ledger, _expected(data))
    _write_manifest(out / MANIFEST, splits, facts)
    notes, unlike = _remarks(data)
    notes = [*data.remarks, *notes, *_cut(data, splits)]
    return Report(data.cfg.data.name, reports, notes, out / MANIFEST, out / LEDGER, unlike)


def _look(data: VideoTextDataModule, whole: bool) -> Look:
    counts = sorted({split_frames(data.cfg, name) for name in SPLITS})
    video = data.cfg.video
    return Look(tuple(counts), whole, video.timeout, video.max_pixels)


def _read_splits(data: VideoTextDataModule) -> tuple[list[SplitReport], dict[str, Split]]:
    reports, splits = [], {}
    for name in SPLITS:
        official = data.official(name) if isinstance(data, AnnotatedDataModule) else None
        report = SplitReport(name, official)
        reports.append(report)
        try:
            splits[name] = data.split(name)
        except UserError as error:
            report.error = str(error)
    if not splits:
        raise UserError(reports[-1].error)
    return reports, splits


def _remarks(data: VideoTextDataModule) -> tuple[list[str], str]:
    """Return what is odd about the annotations, and why they are not the papers'.

    A file that is missing is one such line.
    """
    try:
        return data.notes(), data.unlike_papers()
    except UserError as error:
        return [str(error)], ""


def _cut(data: VideoTextDataModule, splits: dict[str, Split]) -> list[str]:
    """Return how many captions the tokenizer of the chosen backbone cuts."""
    if extracted(data.cfg):
        return []
    texts = {name: [query.text for query in split.queries] for name, split in splits.items()}
    try:
        own = data.tokenizer or tokens.build_tokenizer(data.cfg, next(iter(texts.values())))
    except UserError as error:
        return [f"how many captions text.words cuts cannot be said: {error}"]
    lines = []
    for name, some in texts.items():
        cut = int(tokens.encode_counting(own, some)[2].sum())
        lines += tokens.on_cut(data.cfg.text.words, name, {"captions": (cut, len(some))})
    return lines


def _expected(data: VideoTextDataModule) -> dict[str, float]:
    """Return the seconds that the annotations say of each clip, where they do."""
    return data.seconds_of if isinstance(data, AnnotatedDataModule) else {}


def _fill(
    report: SplitReport,
    split: Split,
    facts: dict[Clip, Facts],
    ledger: Ledger,
    expected: dict[str, float],
) -> None:
    report.clips, report.captions = len(split.clips), len(split.queries)
    for clip in split.clips:
        seen = facts[clip]
        if "error" in seen:
            (report.unreadable if clip.path.is_file() else report.missing).append(clip.id)
            ledger.add(id=clip.id, path=str(clip.path), stage=_STAGE, error=seen["error"])
        else:
            report.seconds += _shown(clip, seen["duration"])
            if clip.id in expected and abs(expected[clip.id] - seen["duration"]) > _FAR:
                report.far.append(clip.id)


def _shown(clip: Clip, duration: float) -> float:
    """Return the seconds of a file that belong to the clip."""
    end = duration if clip.end is None else min(clip.end, duration)
    return max(0.0, end - (clip.start or 0.0))


def _write_manifest(path: Path, splits: dict[str, Split], facts: dict[Clip, Facts]) -> None:
    lines = (
        {"id": clip.id, "split": name, "path": str(clip.path), "start": clip.start, "end": clip.end}
        | facts[clip]
        for name, split in splits.items()
        for clip in split.clips
    )
    atomic_write(path, _jsonl(lines))


def _jsonl(lines: Iterable[dict[str, Any]]) -> str:
    return "".join(json_text(line) + "\n" for line in lines)
