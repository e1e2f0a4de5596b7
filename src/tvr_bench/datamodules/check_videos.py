"""A look at every file of a data set: the frames that a run would read of it, decoded once.

What was seen is kept by the file's content and its clips' spans, so that a look that was stopped
goes on, and a second one reads only what is new. A file that takes too long, or ends its process,
is one line, as it is in a run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from tvr_bench.contents import Contents
from tvr_bench.datamodules.folder import why_missing
from tvr_bench.datamodules.types import Clip
from tvr_bench.errors import UserError
from tvr_bench.files import settings_hash
from tvr_bench.media.cache import READER, limited_otherwise
from tvr_bench.media.demux import MAX_PIXELS, TooLarge, lost
from tvr_bench.media.video import Video, open_video, segment_centres
from tvr_bench.records import read_records, records_path, write_records
from tvr_bench.shards import Shard, Tick, run_shards

Facts: TypeAlias = dict[str, Any]
Span: TypeAlias = tuple[float | None, float | None]  # start and end of a clip, seconds

_SHARD = 32  # videos
_OURS = ("clips", "limit", "max_pixels")  # of what is kept, for this file alone
_AT_ONCE = 64  # frames of a whole video; all of them need not fit into memory
_SIZE = (64, 64)  # at which frames are read here: pixels are not looked at


@dataclass(frozen=True)
class Look:
    """What is read: per clip as many frames as each of `counts`, or the `whole` file; a worker
    process may take `timeout` seconds for a clip, None: any time, and frames have `max_pixels`.
    """

    counts: tuple[int, ...]
    whole: bool = False
    timeout: float | None = None
    max_pixels: int = MAX_PIXELS


def look_at(
    clips: Iterable[Clip], look: Look, root: Path, contents: Contents, *, workers: int = 0
) -> dict[Clip, Facts]:
    """Return what the file of each clip holds: bytes, sha256, duration, size, fps, codec, frames.

    `error` says why the clip cannot be used. Results are kept under `root`.
    """
    clips = list(clips)
    spans: dict[Path, set[Span]] = defaultdict(set)
    for clip in clips:
        spans[clip.path].add((clip.start, clip.end))
    holds = contents.of(spans)
    keys = {path: settings_hash([holds[path], sorted(spans[path], key=str)], 64) for path in spans}
    files = {
        keys[path]: (path, tuple(wanted))
        for path, wanted in spans.items()
        if isinstance(holds[path], str)
    }
    known = _known(files, look, root, workers)
    return {clip: _facts(clip, holds[clip.path], known.get(keys[clip.path], {})) for clip in clips}


def _known(
    files: dict[str, tuple[Path, tuple[Span, ...]]], look: Look, root: Path, workers: int
) -> dict[str, Facts]:
    """Return what was seen of all `files` by their keys, looking at those that are new."""
    folder = root / settings_hash([READER, look.counts, look.whole])
    known = read_records(folder, retry=lambda facts: limited_otherwise(facts, look))
    todo = sorted((key, *file) for key, file in files.items() if key not in known)
    groups = [tuple(todo[low : low + _SHARD]) for low in range(0, len(todo), _SHARD)]
    shards = [Shard(records_path(folder, (key for key, *_ in g)), g) for g in groups]
    work = partial(_look_at_shard, look=look)
    run_shards("check videos", shards, work, workers=workers, timeout=look.timeout)
    known |= read_records(folder)
    if lacking := next((path for key, (path, _) in files.items() if key not in known), None):
        raise UserError(f"what was seen of {lacking} was removed meanwhile; repeat the command")
    return known


def _facts(clip: Clip, held: str | OSError, seen: Facts) -> Facts:
    if isinstance(held, OSError):
        return {"error": str(held) if clip.path.exists() else why_missing(clip.path)}
    facts = {name: value for name, value in seen.items() if name not in _OURS}
    if wrong := seen.get("clips", {}).get(_name((clip.start, clip.end))):
        facts["error"] = wrong
    return {"bytes": clip.path.stat().st_size, "sha256": held, **facts}


def _look_at_shard(shard: Shard, tick: Tick, *, look: Look) -> None:
    found: dict[str, Facts] = {}
    for position, (key, path, spans) in enumerate(shard.items):
        if reason := shard.lost.get(position):
            found[key] = {"error": str(lost(path, reason)), "limit": look.timeout}
        else:
            found[key] = _look_at(path, spans, look, tick)
        tick()
    write_records(shard.output, found)


def _look_at(path: Path, spans: Sequence[Span], look: Look, tick: Tick) -> Facts:
    """Return what a file holds; `clips` says of each span that cannot be read why."""
    facts: Facts = {}
    try:
        with open_video(path, max_pixels=look.max_pixels) as video:
            facts |= asdict(video.info())
            if look.whole:
                for low in range(0, len(video.times), _AT_ONCE):
                    tick.more(1)
                    video.read(video.times[low : low + _AT_ONCE], _SIZE)
            wrong = {}
            for span in spans:
                tick.more(1)
                if error := _error_of(video, span, look.counts):
                    wrong[_name(span)] = error
            facts |= {"clips": wrong} if wrong else {}
    except UserError as error:
        facts["error"] = str(error)
        if isinstance(error, TooLarge):
            facts["max_pixels"] = look.max_pixels
    return facts


def _error_of(video: Video, span: Span, counts: Sequence[int]) -> str:
    """Return why a run could not read the frames of a clip, "" where it can."""
    try:
        times = {t for count in counts for t in segment_centres(video.duration, count, *span)}
        video.read(sorted(times), _SIZE)
    except UserError as error:
        return str(error)
    return ""


def _name(span: Span) -> str:
    return f"{span[0]} to {span[1]}"
