"""Window reading against reading every frame, on the test split of SignVid.

Both use one engine with the same settings; the truth is what the scenes were drawn from. CPU
seconds are of one process with one thread. Run it from the repository root:

    python benchmarks/ocr_signvid.py
    python benchmarks/ocr_signvid.py --videos 64 --every 4 --side 160
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import numpy as np

from tvr_bench.datamodules.signvid.build import build
from tvr_bench.datamodules.signvid.render import render_scene
from tvr_bench.datamodules.signvid.spec import PRESETS, Scene
from tvr_bench.datamodules.types import Clip
from tvr_bench.files import Ledger
from tvr_bench.media.captioner import WindowSpec, build_windows, read_windows
from tvr_bench.media.ocr import OcrEngine, create_engine, latin_words
from tvr_bench.media.video import probe, read_frames
from tvr_bench.media.windows import Window, window_spans


@dataclass
class Score:
    """Words found, wanted and invented; CPU seconds; videos."""

    found: Counter[str] = field(default_factory=Counter)  # by kind of sign
    wanted: Counter[str] = field(default_factory=Counter)
    right: int = 0
    wrong: int = 0
    cpu: float = 0.0
    videos: int = 0
    in_place: int = 0  # words found in a window that shows them for at least half its length
    placed: int = 0

    def add(self, scene: Scene, words: set[str], cpu: float) -> None:
        """Count the words read in one video."""
        truth = {word for sign in scene.signs for word in sign.words}
        self.right += len(words & truth)
        self.wrong += len(words - truth)
        for sign in scene.signs:
            self.wanted[sign.kind] += len(sign.words)
            self.found[sign.kind] += len(words & set(sign.words))
        self.cpu += cpu
        self.videos += 1

    def add_windows(self, scene: Scene, windows: Sequence[Window]) -> None:
        """Count the words that stand in the windows that show them."""
        for window in windows:
            half = (window.end - window.start) / 2
            for sign in scene.signs:
                if min(sign.end, window.end) - max(sign.start, window.start) >= half:
                    self.placed += len(sign.words)
                    self.in_place += len(set(sign.words) & set(window.words))

    def recall(self, kind: str | None = None) -> float:
        """Return the share of the words (of one kind of sign) that were read; NaN of none."""
        found, wanted = self.found.total(), self.wanted.total()
        if kind is not None:
            found, wanted = self.found[kind], self.wanted[kind]
        return found / wanted if wanted else float("nan")

    @property
    def precision(self) -> float:
        """Return the share of the words read that are there."""
        return self.right / max(1, self.right + self.wrong)


def every_frame(path: Path, spec: WindowSpec, engine: OcrEngine) -> set[str]:
    """Return the words of every frame of every window, each frame read from scratch."""
    info = probe(path)
    frames_at = [(i + 0.5) / info.fps for i in range(info.frames)]
    spans = window_spans(info.duration, spec)
    times = [t for t in frames_at if any(low <= t <= high for low, high in spans)]
    words: set[str] = set()
    for frame in read_frames(path, times):
        for box in engine.read(frame):
            if box.score >= spec.min_score:
                words.update(latin_words(box.text))
    return {w for w in words if len(w) >= spec.min_chars or any(map(str.isdigit, w))}


def timed(work: Callable[[], object]) -> tuple[object, float]:
    """Return what `work` returns and the CPU seconds of this process."""
    start = time.process_time()
    result = work()
    return result, time.process_time() - start


def measure(
    scenes: Sequence[Scene], root: Path, spec: WindowSpec, every: int
) -> tuple[Score, Score, Score]:
    """Return the scores of windows on all videos, of windows and of all frames on each `every`."""
    engine = create_engine(spec.engine, **spec.engine_options)
    engine.read(np.zeros((160, 224, 3), np.uint8))
    everything, windowed, framed = Score(), Score(), Score()
    for i, scene in enumerate(scenes):
        path = root / f"{scene.id}.mp4"
        windows, cpu = timed(lambda p=path: read_windows(p, spec, engine))
        words = {w for window in windows for w in window.words}
        everything.add(scene, words, cpu)
        everything.add_windows(scene, windows)
        if i % every == 0:
            windowed.add(scene, words, cpu)
            framed.add(scene, *timed(lambda p=path: every_frame(p, spec, engine)))
    return everything, windowed, framed


def wall_seconds(scenes: Sequence[Scene], root: Path, spec: WindowSpec, workers: int) -> float:
    """Return wall seconds per video of a first run over all videos, start of workers included."""
    clips = [Clip(scene.id, root / f"{scene.id}.mp4") for scene in scenes]
    with tempfile.TemporaryDirectory() as cache:
        start = time.perf_counter()
        build_windows(clips, spec, Path(cache), workers=workers, ledger=Ledger())
        return (time.perf_counter() - start) / len(clips)


def report(scores: tuple[Score, Score, Score], spec: WindowSpec, wall: float, workers: int) -> str:
    """Return the Markdown of all figures."""
    everything, windowed, framed = scores
    command = shlex.join([Path(__file__).name, *sys.argv[1:]])
    lines = [
        "# Reading the signs of SignVid",
        "",
        f"`python benchmarks/{command}`; {platform.machine()}, {os.cpu_count()} CPUs, load "
        f"{os.getloadavg()[0]:.1f}; rapidocr {metadata.version('rapidocr')}, onnxruntime "
        f"{metadata.version('onnxruntime')}; windows={spec.windows} reads={spec.reads} "
        f"stride={spec.stride} side={spec.side} min_score={spec.min_score}.",
        "",
        "| kind of sign | words | recall | words | recall, windows | recall, every frame |",
        "|---|---|---|---|---|---|",
    ]
    for kind in sorted(everything.wanted):
        lines.append(
            f"| {kind} | {everything.wanted[kind]} | {everything.recall(kind):.3f} "
            f"| {windowed.wanted[kind]} | {windowed.recall(kind):.3f} "
            f"| {framed.recall(kind):.3f} |"
        )
    lines += [
        f"| **all** | {everything.wanted.total()} | {everything.recall():.3f} "
        f"| {windowed.wanted.total()} | {windowed.recall():.3f} | {framed.recall():.3f} |",
        f"| precision | | {everything.precision:.3f} | | {windowed.precision:.3f} "
        f"| {framed.precision:.3f} |",
        f"| videos | | {everything.videos} | | {windowed.videos} | {framed.videos} |",
        f"| CPU s per video | | {everything.cpu / everything.videos:.3f} "
        f"| | {windowed.cpu / windowed.videos:.3f} | {framed.cpu / framed.videos:.3f} |",
        "",
        f"Windows cost {windowed.cpu / framed.cpu:.3f} of every frame; their word recall differs "
        f"by {windowed.recall() - framed.recall():+.3f}.",
        f"Of the words that a window shows for at least half its length, "
        f"{everything.in_place / max(1, everything.placed):.3f} are in its caption.",
        f"First run on {workers} processes: {wall:.3f} s of wall clock per video.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Render, read, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, help="number of test videos, default all")
    parser.add_argument("--every", type=int, default=4, help="read all frames of every n-th video")
    parser.add_argument("--seed", type=int, default=0, help="seed of the scenes")
    parser.add_argument("--workers", type=int, default=2, help="processes for the wall clock")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    for name, value in (("windows", 4), ("reads", 2), ("stride", 2), ("side", 192)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    spec = WindowSpec(
        windows=options.windows, reads=options.reads, stride=options.stride, side=options.side
    )
    scenes = build(PRESETS["small"], options.seed)["test"][: options.videos]
    with tempfile.TemporaryDirectory() as folder:
        for scene in scenes:
            render_scene(scene, Path(folder) / f"{scene.id}.mp4")
        scores = measure(scenes, Path(folder), spec, options.every)
        wall = wall_seconds(scenes, Path(folder), spec, options.workers)
    text = report(scores, spec, wall, options.workers)
    options.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
