"""Scene text that others read, as window captions: results then need no engine of ours.

`ocr.source=kwai`: a JSON file per clip, as TextVR's Kwai_VideoOCR has them, `{track: {"text": str,
"score": float, "tracks": {frame: [x1, y1, .., x4, y4, ..]}}}`; frames count from 0.

`ocr.source=tracks`: one file `tracks.jsonl`, one JSON object per line, `{"video": id, "text": str,
"score": 0 to 1, "start": seconds, "end": seconds}`; a line with `video` alone says that nothing
stands in that clip. Seconds count from the first frame of the file, also where a clip is a part of
it. A score that is left out is 1.

Windows and words are the captioner's: the same spans, the same letters, the same limits. A text is
in a window if it is on show in any part of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from tvr_bench.contents import Contents
from tvr_bench.datamodules.types import Clip
from tvr_bench.errors import UserError
from tvr_bench.files import Ledger, file_sha256, links_top, settings_hash
from tvr_bench.media.cache import READER, limited_otherwise
from tvr_bench.media.demux import TooLarge, lost
from tvr_bench.media.given_files import Place, Text, read_kwai, read_tracks
from tvr_bench.media.video import Video, open_video
from tvr_bench.media.windows import Span, WindowSpec, window_spans
from tvr_bench.parts import WHOLE, Part
from tvr_bench.records import Record, read_records, records_path, write_records
from tvr_bench.shards import Shard, Tick, run_shards

TRACKS_FILE = "tracks.jsonl"

_VERSION = 2  # of this code: a change of what comes of the same files raises it
_SHARD = 256  # clips
_USED = ("windows", "xi", "min_score", "min_chars", "max_words")  # what of a WindowSpec matters
_LATE = (1.05, 1.0)  # a text may end after the video by this factor and so many seconds

Names: TypeAlias = Mapping[str, Sequence[str]]  # by clip id: what its text may be filed under
Source: TypeAlias = Path | list[Text]  # a clip's Kwai file, or what the file of tracks has of it


@dataclass(frozen=True)
class GivenSpec:
    """Where the text is: `source` is kwai or tracks, `place` the folder (or the file of tracks).

    `fps` is the rate at which Kwai's frames were counted, None for each frame of the video itself.
    """

    source: str
    place: Path
    fps: float | None = None

    @property
    def tracks(self) -> Path:
        """The file of all tracks."""
        return self.place / TRACKS_FILE if self.place.is_dir() else self.place


def check_given(given: GivenSpec) -> None:
    """Raise UserError where the folder or file is missing."""
    if given.source == "kwai" and not given.place.is_dir():
        raise UserError(f"ocr.given={given.place} is no folder; give that of the JSON files")
    if given.source == "tracks" and not given.tracks.is_file():
        raise UserError(f"there is no {given.tracks}; set ocr.given to the folder that holds it")


def build_given(
    clips: Sequence[Clip],
    names: Names,
    given: GivenSpec,
    spec: WindowSpec,
    root: Path,
    *,
    workers: int = 0,
    ledger: Ledger,
    part: Part = WHOLE,
    contents: Contents | None = None,
) -> dict[str, list[str]]:
    """Return the W window captions of each clip by its id; results are kept under `root`.

    `workers` processes share the work, 0 is this process; with a `part` only its clips are done.
    What the files hold is asked of `contents`, None: of a memory in `root`.

    A clip whose video or text cannot be read, or that has no text file, is absent and has a line in
    the ledger. Raises UserError where no clip at all has text, and for a broken `tracks.jsonl`.
    """
    check_given(given)
    found = _files(clips, names, given) if given.source == "kwai" else _tracks(names, given, spec)
    _check_found(clips, names, found, given)
    keys = _keys(clips, found, names, given, contents or Contents(root), ledger)
    folder = root / settings_hash(_settings(given, spec))
    known = read_records(folder, retry=lambda record: limited_otherwise(record, spec))
    mine = [clip for clip in clips if clip.id in keys and part.holds(keys[clip.id])]
    todo = {keys[c.id]: (c, found[c.id]) for c in mine if keys[c.id] not in known}
    if todo:
        shards = _shards(folder, todo, workers)
        work = partial(_make_shard, given=given, spec=spec)
        run_shards("place scene text", shards, work, workers=workers, timeout=spec.timeout)
        known |= read_records(folder)
    return _captions(clips, keys, known, ledger)


def _settings(given: GivenSpec, spec: WindowSpec) -> dict[str, Any]:
    values = asdict(spec)
    used = {name: values[name] for name in _USED}
    return {"code": _VERSION, "reader": READER, "source": given.source, "fps": given.fps, **used}


def _files(clips: Sequence[Clip], names: Names, given: GivenSpec) -> dict[str, Source]:
    """Return the JSON file of each clip that has one."""
    top = links_top(given.place)
    found: dict[str, Source] = {}
    for clip in clips:
        for name in names[clip.id]:
            path = given.place / f"{name}.json"
            if not _is_file(path):
                continue
            if not path.resolve().is_relative_to(top):
                raise UserError(
                    f"{path} leads out of ocr.given={given.place}; copy the files there"
                )
            found[clip.id] = path
            break
    return found


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long for the file system names no file
        return False


def _tracks(names: Names, given: GivenSpec, spec: WindowSpec) -> dict[str, Source]:
    """Return the texts of each clip that a line names, in the order of their start."""
    wanted = {name for some in names.values() for name in some}
    read = read_tracks(given.tracks, wanted, spec)
    found: dict[str, Source] = {}
    for clip_id, some in names.items():
        if name := next((n for n in some if n in read), None):
            found[clip_id] = read[name]
    return found


def _check_found(
    clips: Sequence[Clip], names: Names, found: Mapping[str, Source], given: GivenSpec
) -> None:
    """Raise UserError where no clip has text: the folder or the ids are not those of the clips."""
    if found:
        return
    wanted = names[clips[0].id][0]
    if given.source == "kwai":
        raise UserError(
            f"{given.place} holds no scene text of any of {len(clips):,} clips, such as "
            f"{wanted}.json; set ocr.given to the right folder"
        )
    raise UserError(
        f"{given.tracks} names none of {len(clips):,} clips; a line's 'video' must be a clip's "
        f"id, such as {wanted}"
    )


def _missing(name: str, given: GivenSpec) -> str:
    if given.source == "kwai":
        return f"{given.place / name}.json is not there, so the clip counts as one without text"
    return (
        f"{given.tracks} has no line about {name}, so it counts as a clip without text; write one "
        "with its id alone if that is so"
    )


def _keys(
    clips: Sequence[Clip],
    found: Mapping[str, Source],
    names: Names,
    given: GivenSpec,
    contents: Contents,
    ledger: Ledger,
) -> dict[str, str]:
    """Return, per clip, a hash of its video, span and text; the ledger gets what is missing."""
    keys = {}
    videos = contents.of(clip.path for clip in clips)
    for clip in clips:
        try:
            if clip.id not in found:
                raise UserError(_missing(names[clip.id][0], given))
            video = videos[clip.path]
            if isinstance(video, OSError):
                raise video
            keys[clip.id] = settings_hash([video, clip.start, clip.end, _digest(found[clip.id])])
        except (OSError, UserError) as error:
            ledger.add(id=clip.id, path=str(clip.path), stage="ocr", error=error)
    return keys


def _digest(source: Source) -> str:
    return file_sha256(source) if isinstance(source, Path) else settings_hash(source, 64)


def _shards(folder: Path, todo: Mapping[str, Any], workers: int) -> list[Shard]:
    items = list(todo.items())
    size = min(_SHARD, math.ceil(len(items) / (4 * max(1, workers))))
    groups = [tuple(items[low : low + size]) for low in range(0, len(items), size)]
    return [Shard(records_path(folder, dict(group)), group) for group in groups]


def _make_shard(shard: Shard, tick: Tick, *, given: GivenSpec, spec: WindowSpec) -> None:
    records: dict[str, Record] = {}
    for position, (key, (clip, source)) in enumerate(shard.items):
        if reason := shard.lost.get(position):
            records[key] = {"error": str(lost(clip.path, reason)), "limit": spec.timeout}
        else:
            records[key] = _record(clip, source, given, spec)
        tick()
    write_records(shard.output, records)


def _record(clip: Clip, source: Source, given: GivenSpec, spec: WindowSpec) -> Record:
    try:
        return {"windows": window_words(clip, source, given, spec)}
    except TooLarge as error:
        return {"error": str(error), "max_pixels": spec.max_pixels}
    except UserError as error:  # it lies in the files, whose content the key holds
        return {"error": str(error)}


def _captions(
    clips: Iterable[Clip], keys: Mapping[str, str], known: Mapping[str, Record], ledger: Ledger
) -> dict[str, list[str]]:
    captions = {}
    for clip in clips:
        record = known.get(keys.get(clip.id, ""))
        if record and "error" in record:
            error = UserError(record["error"])
            ledger.add(id=clip.id, path=str(clip.path), stage="ocr", error=error)
        elif record:
            captions[clip.id] = [" ".join(words) for words in record["windows"]]
    return captions


def window_words(clip: Clip, source: Source, given: GivenSpec, spec: WindowSpec) -> list[list[str]]:
    """Return the words of each of the W windows of a clip, of a Kwai file or of read tracks.

    Raises UserError for a file that is broken, and for text that is on show after the video's end.
    """
    with open_video(clip.path, max_pixels=spec.max_pixels) as video:
        duration, clock = video.duration, _clock(video, given.fps)
    spans = window_spans(duration, spec, clip.start, clip.end)
    texts = source if isinstance(source, list) else _timed(read_kwai(source, spec), clock)
    latest = max((end for _, shown in texts for _, end in shown), default=0.0)
    if latest > _LATE[0] * duration + _LATE[1]:
        where = given.tracks if isinstance(source, list) else source
        hint = "give seconds" if isinstance(source, list) else "set ocr.given_fps to their rate"
        raise UserError(
            f"{where} has text of {clip.id} at {latest:.1f} s, and the video ends at "
            f"{duration:.1f} s; {hint}"
        )
    return [_inside(texts, span, spec.max_words) for span in spans]


def _clock(video: Video, fps: float | None) -> Callable[[int], float]:
    """Return the function from a frame's number to the second at which it appears."""
    if fps is not None:
        return lambda number: number / fps
    times, duration = video.times, video.duration
    count = len(times)
    return lambda n: times[n] if n < count else duration + (n - count) * duration / count


def _timed(placed: Sequence[Place], clock: Callable[[int], float]) -> list[Text]:
    return [(words, [(clock(a), clock(b + 1)) for a, b in runs]) for words, runs in placed]


def _inside(texts: Sequence[Text], span: Span, limit: int) -> list[str]:
    """Return the words on show between the times of `span`, each once, in order."""
    low, high = span
    words: dict[str, None] = {}
    for said, shown in texts:
        if any(start < high and (end > low or start >= low) for start, end in shown):
            words.update(dict.fromkeys(said))
        if len(words) >= limit:
            break
    return list(words)[:limit]
