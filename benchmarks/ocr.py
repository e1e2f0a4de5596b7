"""Reading real images and clips: word recall and precision per engine, and what a setting costs.

The images, the clips and the words that stand in them are not part of the repository: the folder
`ocr_images` with its GT.tsv, and `videos/datasets` with textvr_visible_text.tsv, are looked for in
$TVR_BENCH_REALDATA, or else in ../shared/data. Seconds are CPU seconds of one process with one
thread. Run it from the repository root; a part that is run alone replaces its own figures:

    python benchmarks/ocr.py
    python benchmarks/ocr.py --parts images frames
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from time import process_time
from typing import Any
from unittest.mock import patch

import numpy as np
from ocr_engines import SIDES, Counting, engines, random_easyocr
from ocr_truth import SURE, Count, pages, read_words, visible
from ocr_view import markdown

from tvr_bench.datamodules.types import Clip
from tvr_bench.files import Ledger, atomic_write
from tvr_bench.media import captioner
from tvr_bench.media.captioner import WindowSpec, build_windows, read_windows
from tvr_bench.media.ocr import OcrEngine, create_engine, crop_polygon, latin_words
from tvr_bench.media.video import probe, read_frames
from tvr_bench.media.windows import Window, read_times, window_spans

SIZE = (720, 1280)  # at which the captioner reads these clips
Row = dict[str, Any]


def measure_images(folder: Path) -> Row:
    """Return accuracy and seconds per photograph of each engine and setting."""
    found = pages(folder)
    photos = {id(p.image): p.image for p in found if not p.word}
    rows = []
    for name, setting, engine in engines():
        engine.read(np.zeros((64, 96, 3), np.uint8))
        start, crops, scenes = process_time(), Count(), Count()
        lines = {key: engine.read(image) for key, image in photos.items()}
        seconds = (process_time() - start) / len(photos)
        for page in found:
            if page.word:
                text, score = engine.recognise([page.image])[0]
                crops.add(set(latin_words(text)) if score >= SURE else set(), page.words)
            else:
                scenes.add(read_words(lines[id(page.image)], page.region), page.words)
        rows.append({"engine": name, "setting": setting, "photographs": scenes.row()})
        rows[-1] |= {"crops": crops.row(), "seconds": seconds}
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return {"photographs": len(photos), "rows": rows}


def measure_frames(folder: Path) -> Row:
    """Return the seconds of detecting in one frame at several sizes, and of reading one line."""
    frame = read_frames(max(visible(folder)), [0.2], SIZE)[0]
    rows = []
    with random_easyocr() as make:
        for side in (320, 640, 960, 1280):
            easy = make(side=side)
            tried = {
                "easyocr": easy,
                "easyocr, half": make(side=side, half=True),
                "rapidocr": create_engine("rapidocr", side=side),
            }
            seconds = {name: _seconds(e.detect, [frame]) for name, e in tried.items()}
            rows.append({"side": side, "seconds": seconds})
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
        rapid = tried["rapidocr"]
        crops = [crop_polygon(frame, polygon) for polygon in rapid.detect([frame])[0]]
        line = {
            "easyocr's own, box by box": _seconds(_one_by_one, easy._reader, crops),
            "easyocr, batched": _seconds(easy.recognise, crops),
            "rapidocr": _seconds(rapid.recognise, crops),
        }
    return {"rows": rows, "lines": len(crops), "line": {k: s / len(crops) for k, s in line.items()}}


def _one_by_one(reader: Any, crops: Sequence[np.ndarray]) -> None:
    for crop in crops:
        reader.recognize(crop, contrast_ths=0.0)


def _seconds(work: Callable[..., object], *given: object) -> float:
    """Return the CPU seconds of a second run."""
    work(*given)
    start = process_time()
    work(*given)
    return process_time() - start


def from_scratch(path: Path, spec: WindowSpec, engine: OcrEngine) -> list[Window]:
    """Return the windows of a clip with every read frame detected and every line recognised."""
    info = probe(path)
    spans = window_spans(info.duration, spec)
    times = read_times(spans, spec.reads)
    read = [engine.read(frame) for frame in captioner.read_frames(path, times, SIZE)]
    windows = []
    for low, high in spans:
        inside = [boxes for time, boxes in zip(times, read, strict=True) if low <= time <= high]
        words = {w for boxes in inside for w in read_words(boxes, None)}
        windows.append(Window(low, high, "", tuple(w for w in words if len(w) >= spec.min_chars)))
    return windows


def measure_clips(folder: Path) -> Row:
    """Return what the window captions say of the words that a person saw, per setting."""
    truth, frames = visible(folder), {}

    def decoded(path: Path, times: Sequence[float], size: tuple[int, int] | None) -> np.ndarray:
        key = (path, tuple(times), size)
        if key not in frames:
            frames[key] = read_frames(path, times, size)
        return frames[key]

    default = WindowSpec()
    tried = {"the default: side=960 reads=2 stride=1 votes=2": (default, read_windows)}
    tried |= {f"side={side}": (replace(default, side=side), read_windows) for side in SIDES}
    del tried[f"side={default.side}"]
    for key, value in (("stride", 2), ("stride", 4), ("votes", 1), ("reads", 1)):
        tried[f"{key}={value}"] = (replace(default, **{key: value}), read_windows)
    tried["every read frame from scratch"] = (default, from_scratch)
    rows = []
    with patch.object(captioner, "read_frames", decoded):
        for setting, (spec, read) in tried.items():
            rows.append({"setting": setting} | _clips_row(truth, spec, read))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return {"rows": rows, "cache": measure_cache(min(truth))}


def _clips_row(truth: dict[Path, Any], spec: WindowSpec, read: Callable[..., Any]) -> Row:
    engine = Counting(create_engine(spec.engine, side=spec.side))
    clips, seconds = {}, 0.0
    for number, (path, moments) in enumerate(truth.items(), 1):
        spans = window_spans(probe(path).duration, spec)
        captioner.read_frames(path, read_times(spans, spec.reads), SIZE)  # decoding is not counted
        start = process_time()
        windows = read(path, spec, engine)
        seconds += process_time() - start
        at_once, ever = Count(), Count()
        for second, words in moments:
            shown = [w for w in windows if w.start <= second <= w.end]  # two at a border
            at_once.add({word for w in shown for word in w.words}, words)
        said = {word for w in windows for word in w.words}
        ever.add(said, frozenset().union(*(words for _, words in moments)))
        clips[f"clip {number}"] = {"window": asdict(at_once), "clip": asdict(ever)}
    return {
        "clips": clips,
        "seconds": seconds / len(truth),
        "frames": engine.frames / len(truth),
        "lines": engine.lines / len(truth),
    }


def measure_cache(path: Path) -> Row:
    """Return the seconds of captioning one clip, and of asking again."""
    with tempfile.TemporaryDirectory() as cache:
        seconds = []
        for _ in range(2):
            start = process_time()
            build_windows([Clip("a", path)], WindowSpec(), Path(cache), ledger=Ledger())
            seconds.append(process_time() - start)
    return {"first": seconds[0], "second": seconds[1]}


PARTS = {"images": measure_images, "frames": measure_frames, "clips": measure_clips}


def main() -> int:
    """Measure, and write the figures and their tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "ocr.json")
    options = parser.parse_args()
    folder = Path(os.environ.get("TVR_BENCH_REALDATA", "../shared/data"))
    if not (folder / "ocr_images" / "GT.tsv").is_file():
        print(f"skipped: no ocr_images/GT.tsv in {folder}; set TVR_BENCH_REALDATA to its folder")
        return 0
    figures = json.loads(options.json.read_text()) if options.json.is_file() else {}
    for part in options.parts:
        figures[part] = PARTS[part](folder) | {"machine": machine()}
    atomic_write(options.json, json.dumps(figures, indent=1) + "\n")
    atomic_write(options.out, markdown(figures))
    print(options.out.read_text(encoding="utf-8"))
    return 0


def machine() -> str:
    """Return what the figures were measured with."""
    names = ("rapidocr", "onnxruntime", "easyocr", "torch")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    load = f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}"
    return f"{platform.machine()}, {load}; {versions}"


if __name__ == "__main__":
    sys.exit(main())
