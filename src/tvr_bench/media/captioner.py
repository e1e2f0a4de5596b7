"""Window-OCR captions of whole data sets: read once per file content, then looked up.

A few frames of each of the W windows of a clip are read; what stands in them becomes the window's
caption. Results lie in shards under `ROOT/<settings>/`, each clip under the hash of its file's
content and span, so a renamed, copied or newly added clip costs nothing or only itself.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from tvr_bench.datamodules.types import Clip
from tvr_bench.errors import UserError
from tvr_bench.files import Ledger, atomic_write, file_fingerprint, settings_hash
from tvr_bench.media.ocr import OcrEngine, create_engine, engine_version
from tvr_bench.media.reading import SceneText, read_texts
from tvr_bench.media.video import VideoError, probe, read_frames
from tvr_bench.media.windows import Span, Window, WindowSpec, read_times, window_spans
from tvr_bench.shards import Shard, run_shards

__all__ = ["Window", "WindowSpec", "build_windows", "read_windows", "window_spans"]

Record = dict[str, Any]  # of one clip: {"windows": [[start, end, words], ...]} or {"error": ...}

_VERSION = 1  # of this code: a change of what is read from the same clip raises it
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
    info = probe(path)
    spans = window_spans(info.duration, spec, start, end)
    times = read_times(spans, spec.reads)
    frames = read_frames(path, times, _read_size(info.height, info.width))
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
) -> dict[str, list[str]]:
    """Return the W captions of each clip by its id, reading only what was never read before.

    A clip that cannot be read is absent and has a line in the ledger. `workers` processes share
    the work, 0 is this process. Raises UserError where the engine or its models are missing.
    """
    folder = root / _settings(spec)
    keys = _keys(clips, ledger)
    known = _load(folder, retry=True)
    todo = {keys[c.id]: c for c in clips if c.id in keys and keys[c.id] not in known}
    if todo:
        shards = _shards(folder, list(todo.items()), workers)
        run_shards("read scene text", shards, partial(_read_shard, spec=spec), workers=workers)
        known |= _load(folder)
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
    return settings_hash({"code": _VERSION, **values})


def _keys(clips: Iterable[Clip], ledger: Ledger) -> dict[str, str]:
    """Return the cache key of each clip whose file exists; the others go to the ledger."""
    keys = {}
    for clip in clips:
        try:
            content = file_fingerprint(clip.path)
        except OSError as error:
            ledger.add(id=clip.id, path=str(clip.path), stage="ocr", error=error)
            continue
        keys[clip.id] = settings_hash([content, clip.start, clip.end])
    return keys


def _load(folder: Path, *, retry: bool = False) -> dict[str, Record]:
    """Return all records; `retry` first forgets failures that do not lie in a file's content."""
    records: dict[str, Record] = {}
    for file in sorted(folder.glob("*.json")):
        found = json.loads(file.read_text(encoding="utf-8"))
        kept = {key: r for key, r in found.items() if r.get("lasting", True)}
        if retry and len(kept) < len(found):
            atomic_write(_shard_path(folder, kept), json.dumps(kept))
            file.unlink()
            found = kept
        records |= found
    return records


def _shard_path(folder: Path, keys: Iterable[str]) -> Path:
    return folder / f"{settings_hash(list(keys))}.json"


def _shards(folder: Path, items: list[tuple[str, Clip]], workers: int) -> list[Shard]:
    """Return the shards of the missing clips, several per worker so that all end together."""
    size = min(_SHARD, math.ceil(len(items) / (4 * max(1, workers))))
    groups = [tuple(items[low : low + size]) for low in range(0, len(items), size)]
    return [Shard(_shard_path(folder, (key for key, _ in group)), group) for group in groups]


def _read_shard(shard: Shard, tick: Callable[[], None], *, spec: WindowSpec) -> None:
    engine = _engine(spec.engine, spec.side, spec.weights)
    records = {}
    for key, clip in shard.items:
        records[key] = _read_clip(clip, spec, engine)
        tick()
    atomic_write(shard.output, json.dumps(records))


@lru_cache(maxsize=1)
def _engine(name: str, side: int, weights: str | None) -> OcrEngine:
    """Return this process's engine; opening one takes as long as reading several clips."""
    return create_engine(name, side=side, weights=weights)


def _read_clip(clip: Clip, spec: WindowSpec, engine: OcrEngine) -> Record:
    try:
        windows = read_windows(clip.path, spec, engine, clip.start, clip.end)
    except Exception as error:  # whatever it is, one clip must not cost its whole shard
        lasting = isinstance(error, UserError)
        return {"error": str(error), "exception": type(error).__name__, "lasting": lasting}
    return {"windows": [[round(w.start, 3), round(w.end, 3), w.words] for w in windows]}


def _error(record: Record) -> BaseException | str:
    for known in (VideoError, UserError):
        if record["exception"] == known.__name__:
            return known(record["error"])
    return f"{record['exception']}: {record['error']}"
