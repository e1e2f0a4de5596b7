"""The preflight of a data set: what is there, what can be read, and whether it is the papers' set.

Every video is opened and decoded once, in parallel; what was seen of a file is kept by its content,
so that a check that was stopped goes on, and a second one reads only what is new.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tvr_bench.datamodules.annotated import AnnotatedDataModule, Counts
from tvr_bench.datamodules.base import SPLITS, VideoTextDataModule
from tvr_bench.datamodules.types import Clip, Split
from tvr_bench.errors import UserError
from tvr_bench.files import Ledger, atomic_write, file_fingerprint, settings_hash
from tvr_bench.media.video import open_video, segment_centres
from tvr_bench.shards import Shard, run_shards

MANIFEST, LEDGER = "manifest.jsonl", "failures.jsonl"
_SHARD = 32  # videos
_FRAMES = 12  # decoded of each video, at the centres of equal segments
_FAR = 2.0  # seconds that a video may differ from its annotation; keyframes round them
_STAGE = "check"
Facts = dict[str, Any]


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

    `whole` decodes every frame of every video instead of twelve. Raises UserError where no split
    can be read.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / LEDGER).unlink(missing_ok=True)
    ledger = Ledger(out / LEDGER)
    reports, splits = _read_splits(data)
    clips = {clip.path: clip for split in splits.values() for clip in split.clips}
    facts = look_at(
        [path for path in clips if path.is_file()],
        data.cache / "checks",
        whole=whole,
        workers=data.workers,
    )
    for report in reports:
        if report.name in splits:
            _fill(report, splits[report.name], facts, ledger, _expected(data))
    _write_manifest(out / MANIFEST, splits, facts)
    notes, unlike = _remarks(data)
    return Report(data.cfg.data.name, reports, notes, out / MANIFEST, out / LEDGER, unlike)


def look_at(
    paths: Sequence[Path], cache: Path, *, whole: bool = False, workers: int = 0
) -> dict[Path, Facts]:
    """Return what each file holds: bytes, sha256, duration, size, fps, codec, or its `error`."""
    keys = {path: settings_hash([file_fingerprint(path), whole]) for path in paths}
    known = _load(cache)
    todo = sorted({key: path for path, key in keys.items() if key not in known}.items())
    groups = [tuple(todo[low : low + _SHARD]) for low in range(0, len(todo), _SHARD)]
    shards = [
        Shard(cache / f"{settings_hash([key for key, _ in group])}.json", group) for group in groups
    ]
    run_shards("check videos", shards, partial(_look_at_shard, whole=whole), workers=workers)
    known |= _load(cache)
    return {path: known[key] for path, key in keys.items()}


def _load(cache: Path) -> dict[str, Facts]:
    found: dict[str, Facts] = {}
    for file in sorted(cache.glob("*.json")):
        found |= json.loads(file.read_text(encoding="utf-8"))
    return found


def _look_at_shard(shard: Shard, tick: Callable[[], None], *, whole: bool) -> None:
    found = {}
    for key, path in shard.items:
        found[key] = _look_at(path, whole)
        tick()
    atomic_write(shard.output, json.dumps(found))


def _look_at(path: Path, whole: bool) -> Facts:
    with open(path, "rb") as file:
        facts: Facts = {
            "bytes": path.stat().st_size,
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
        }
    try:
        with open_video(path) as video:
            facts |= asdict(video.info())
            times = video.times if whole else segment_centres(video.duration, _FRAMES)
            for low in range(0, len(times), 64):  # a whole video need not fit into memory
                video.read(times[low : low + 64], (64, 64))
    except UserError as error:
        facts["error"] = str(error)
    return facts


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
    if not isinstance(data, AnnotatedDataModule):
        return [], ""
    try:
        return data.notes(), data.unlike_papers()
    except UserError as error:
        return [str(error)], ""


def _expected(data: VideoTextDataModule) -> dict[str, float]:
    """Return the seconds that the annotations say of each clip, where they do."""
    return data.seconds_of if isinstance(data, AnnotatedDataModule) else {}


def _fill(
    report: SplitReport,
    split: Split,
    facts: dict[Path, Facts],
    ledger: Ledger,
    expected: dict[str, float],
) -> None:
    report.clips, report.captions = len(split.clips), len(split.queries)
    for clip in split.clips:
        seen = facts.get(clip.path)
        if seen is None:
            report.missing.append(clip.id)
            ledger.add(id=clip.id, path=str(clip.path), stage=_STAGE, error="no such file")
        elif "error" in seen:
            report.unreadable.append(clip.id)
            ledger.add(id=clip.id, path=str(clip.path), stage=_STAGE, error=seen["error"])
        else:
            report.seconds += _shown(clip, seen["duration"])
            if clip.id in expected and abs(expected[clip.id] - seen["duration"]) > _FAR:
                report.far.append(clip.id)


def _shown(clip: Clip, duration: float) -> float:
    """Return the seconds of a file that belong to the clip."""
    end = duration if clip.end is None else min(clip.end, duration)
    return max(0.0, end - (clip.start or 0.0))


def _write_manifest(path: Path, splits: dict[str, Split], facts: dict[Path, Facts]) -> None:
    lines = (
        {"id": clip.id, "split": name, "path": str(clip.path), "start": clip.start, "end": clip.end}
        | facts.get(clip.path, {"error": "no such file"})
        for name, split in splits.items()
        for clip in split.clips
    )
    atomic_write(path, _jsonl(lines))


def _jsonl(lines: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
