"""Window-OCR captions of whole data sets: read once per file content, then looked up.

A few frames of each of the W windows of a clip are read; what stands in them becomes the window's
caption. Results lie in shards under `ROOT/<settings>/`, each clip under the hash of its file's
content and span, so a renamed, copied or newly added clip costs nothing or only itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from tvr_bench.contents import Contents
from tvr_bench.datamodules.types import Clip
from tvr_bench.errors import UserError
from tvr_bench.files import Ledger, settings_hash
from tvr_bench.media.cache import READER, limited_otherwise
from tvr_bench.media.demux import TooLarge, lost
from tvr_bench.media.ocr import (
    OcrEngine,
    Polygon,
    TextBox,
    create_engine,
    engine_cards,
    engine_version,
)
from tvr_bench.media.reading import SceneText, read_texts
from tvr_bench.media.video import VideoError, open_video
from tvr_bench.media.windows import Span, Window, WindowSpec, read_times, window_spans
from tvr_bench.parts import WHOLE, Part
from tvr_bench.records import Record, read_records, records_path, write_records
from tvr_bench.shards import Shard, Tick, run_shards

__all__ = ["Window", "WindowSpec", "build_windows", "read_windows", "window_spans"]

# A clip's record is {"windows": [[start, end, words], ...]} or {"error": ...}
_VERSION = 3  # of this code: a change of what is read from the same clip raises it
_LONGEST = 1280  # pixels: larger frames are read smaller, text worth a caption survives it
_SHARD = 32  # clips


def read_windows(
    path: Path,
    spec: WindowSpec,
    engine: OcrEngine,
    start: float | None = None,
    end: float | None = None,
) -> list[Window]:
    """Return the W windows of a clip, with the text that stands in each.

    Raises VideoError where the file cannot be read, UserError where the span misses it.
    """
    with open_video(path, max_pixels=spec.max_pixels) as video:
        info = video.info()
        spans = window_spans(info.duration, spec, start, end)
        times = read_times(spans, spec.reads)
        frames = video.read(times, _read_size(info.height, info.width))
    texts = read_texts(frames, spec, engine)
    return [_window(span, times, texts, spec.max_words) for span in spans]


def _window(span: Span, times: Sequence[float], texts: Sequence[SceneText], limit: int) -> Window:
    inside = {i for i, time in enumerate(times) if span[0] <= time <= span[1]}
    words = dict.fromkeys(w for text in texts if text.frames & inside for w in text.words)
    kept = tuple(words)[:limit]
    return Window(*span, " ".join(kept), kept)


def _read_size(height: int, width: int) -> tuple[int, int] | None:
    """Return the (height, width) to read at, or None for the file's own."""
    ratio = _LONGEST / max(height, width)
    return None if ratio >= 1 else (max(2, round(height * ratio)), max(2, round(width * ratio)))


def build_windows(
    clips: Sequence[Clip],
    spec: WindowSpec,
    root: Path,
    *,
    workers: int = 0,
    ledger: Ledger,
    part: Part = WHOLE,
    contents: Contents | None = None,
) -> dict[str, list[str]]:
    """Return the W captions of each clip by its id, reading only what was never read before.

    A clip that cannot be read is absent and has a line in the ledger. `workers` processes share
    the work, 0 is this process; an engine that computes on cards has one process for each. With a
    `part` only that part's clips are read. What the files hold is asked of `contents`, None: of a
    memory in `root`. Raises UserError where the engine or its models are missing.
    """
    folder = root / _settings(spec)
    keys = _keys(clips, contents or Contents(root), ledger)
    known = read_records(folder, retry=lambda record: _is_worth_another_try(record, spec))
    mine = [clip for clip in clips if clip.id in keys and part.holds(keys[clip.id])]
    todo = {keys[clip.id]: clip for clip in mine if keys[clip.id] not in known}
    if todo:
        workers = min(workers, engine_cards(spec.engine) or workers)
        shards = _shards(folder, list(todo.items()), workers)
        work = partial(_read_shard, spec=spec)
        run_shards("read scene text", shards, work, workers=workers, timeout=spec.timeout)
        known |= read_records(folder)
    captions = {}
    for clip in clips:
        record = known.get(keys.get(clip.id, ""))
        if record and "error" in record:
            ledger.add(id=clip.id, path=str(clip.path), stage="ocr", error=_error(record))
        elif record:
            captions[clip.id] = [" ".join(words) for _, _, words in record["windows"]]
    return captions


def _settings(spec: WindowSpec) -> str:
    """Return the hash of all that decides what is read from a clip, the models' content too."""
    values = asdict(spec) | {"weights": engine_version(spec.engine, spec.weights)}
    del values["timeout"], values["max_pixels"]
    return settings_hash({"code": _VERSION, "reader": READER, **values})


def _keys(clips: Sequence[Clip], contents: Contents, ledger: Ledger) -> dict[str, str]:
    """Return the cache key of each clip whose file can be read; the others go to the ledger."""
    keys = {}
    found = contents.of(clip.path for clip in clips)
    for clip in clips:
        content = found[clip.path]
        if isinstance(content, OSError):
            ledger.add(id=clip.id, path=str(clip.path), stage="ocr", error=content)
        else:
            keys[clip.id] = settings_hash([content, clip.start, clip.end])
    return keys


def _is_worth_another_try(record: Record, spec: WindowSpec) -> bool:
    """Whether a failure does not lie in the file, or another time limit may end otherwise."""
    return not record.get("lasting", True) or limited_otherwise(record, spec)


def _shards(folder: Path, items: list[tuple[str, Clip]], workers: int) -> list[Shard]:
    """Return the shards of the missing clips, several per worker so that all end together."""
    size = min(_SHARD, math.ceil(len(items) / (4 * max(1, workers))))
    groups = [tuple(items[low : low + size]) for low in range(0, len(items), size)]
    return [Shard(records_path(folder, dict(group)), group) for group in groups]


def _read_shard(shard: Shard, tick: Tick, *, spec: WindowSpec) -> None:
    engine = _Timed(_engine(spec.engine, *spec.engine_options.items()), tick)
    tick.more(1)  # opening the engine is no clip's fault
    records: dict[str, Record] = {}
    for position, (key, clip) in enumerate(shard.items):
        if reason := shard.lost.get(position):
            message = str(lost(clip.path, reason))
            records[key] = {"error": message, "exception": "VideoError", "limit": spec.timeout}
        else:
            records[key] = _read_clip(clip, spec, engine)
        tick()
    write_records(shard.output, records)


@lru_cache(maxsize=1)
def _engine(name: str, *options: tuple[str, Any]) -> OcrEngine:
    """Return this process's engine; opening one takes as long as reading several clips."""
    return create_engine(name, **dict(options))


class _Timed:
    """An engine that is given the time limit anew for the pictures of each call: it may be slow."""

    def __init__(self, engine: OcrEngine, tick: Tick) -> None:
        self.name, self.version = engine.name, engine.version
        self._engine = engine
        self._tick = tick

    def detect(self, frames: Sequence[np.ndarray]) -> list[list[Polygon]]:
        """Return the text lines of each frame."""
        self._tick.more(len(frames))
        return self._engine.detect(frames)

    def recognise(self, crops: Sequence[np.ndarray]) -> list[tuple[str, float]]:
        """Return the text and the score of each crop."""
        self._tick.more(len(crops))
        return self._engine.recognise(crops)

    def read(self, frame: np.ndarray) -> list[TextBox]:
        """Return every line of one frame."""
        self._tick.more(1)
        return self._engine.read(frame)


def _read_clip(clip: Clip, spec: WindowSpec, engine: OcrEngine) -> Record:
    try:
        windows = read_windows(clip.path, spec, engine, clip.start, clip.end)
    except Exception as error:  # whatever it is, one clip must not cost its whole shard
        lasting = isinstance(error, UserError)
        record = {"error": str(error), "exception": type(error).__name__, "lasting": lasting}
        return record | ({"max_pixels": spec.max_pixels} if isinstance(error, TooLarge) else {})
    return {"windows": [[round(w.start, 3), round(w.end, 3), w.words] for w in windows]}


def _error(record: Record) -> BaseException | str:
    for known in (TooLarge, VideoError, UserError):
        if record["exception"] == known.__name__:
            return known(record["error"])
    return f"{record['exception']}: {record['error']}"
