"""How fast twelve frames of a clip are read, against decord, torchcodec, OpenCV and plain PyAV.

Run: `.venv/bin/python benchmarks/decode.py [--rows a b c d] [--threads 1 2] [--repeats 7]`. Peers
come with the extra `peers`, or from a folder on PYTHONPATH; one that is not there is left out.
Every reader first shows that it returns the frames asked for; ours must equal a sequential PyAV
decode bit for bit, or the script stops. Then the readers take turns in one process. Clips are
rendered once, into `--clips`. Writes `benchmarks/results/decode.json`, row by row, and from it
`benchmarks/decode.md`.
"""

from __future__ import annotations

import argparse
import atexit
import gc
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import av
import cv2
import numpy as np
from decode_readers import (
    AGAIN,
    COUNT,
    LINKED,
    READERS,
    ROWS,
    SIDE,
    SLOW,
    Reader,
    Row,
    clip,
    small,
    start_with_pyavs_libraries,
)

from tvr_bench.datamodules.types import Clip
from tvr_bench.files import Ledger, atomic_write
from tvr_bench.media.cache import FrameSpec, build_frames

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "decode.json"
GOALS = {1: 1.2, 2: 1.5}  # times as fast as decord, by the number of threads
CACHED = 20.0  # a cached epoch against the first


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=ROWS)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--clips", type=Path, default=Path(".tvr_cache/decode"))
    parser.add_argument("--cached", nargs="*", default=[], choices=ROWS, help="and epochs of these")
    options = parser.parse_args()
    if importlib.util.find_spec("torchcodec") and LINKED not in os.environ:
        start_with_pyavs_libraries()
    if links := os.environ.get(LINKED):
        atexit.register(shutil.rmtree, links)
    cv2.setNumThreads(1)
    found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in options.rows:
        path = clip(options.clips, name)
        for threads in options.threads:
            key = f"{name} {threads}"
            found.setdefault("rows", {})[key] = measure(path, ROWS[name], threads, options.repeats)
            save(found)
    for name in options.cached:
        path = clip(options.clips, name)
        found.setdefault("cached", {})[name] = cached_epoch(path, options.repeats)
    save(found)
    print((HERE / "decode.md").read_text())
    return 0


def measure(path: Path, row: Row, threads: int, repeats: int) -> dict[str, Any]:
    """Return what each reader returned and how long it took, in milliseconds."""
    print(f"{row}, {threads} thread(s)", file=sys.stderr)
    agreement = {name: agree(reader, path, row, threads) for name, reader in READERS.items()}
    if agreement["ours"] != "identical":
        raise SystemExit(f"ours differs from a sequential decode: {agreement['ours']}")
    times: dict[str, list[tuple[float, float]]] = {n: [] for n, a in agreement.items() if a}
    load = os.getloadavg()[0]
    for turn in range(repeats):
        for name in times:
            if name not in SLOW or turn % 3 == 0:
                times[name].append(timed(lambda n=name: READERS[n](path, row, threads)))
    return {
        "load": load,
        "repeats": repeats,
        "readers": {
            name: {
                "agreement": agreement[name],
                "wall": summary([1000 * wall for wall, _ in spent]),
                "cpu": summary([1000 * cpu for _, cpu in spent]),
            }
            for name, spent in times.items()
        },
    }


def agree(reader: Reader, path: Path, row: Row, threads: int) -> str | None:
    """Return how the frames compare with a sequential decode's, None where the reader fails."""
    try:
        got = reader(path, row, threads)
    except (ImportError, OSError, RuntimeError) as error:
        print(f"left out: {reader.__name__}: {str(error).splitlines()[0]}", file=sys.stderr)
        return None
    near = _neighbours(path, row)
    expected = np.stack([near[n] for n in row.numbers])
    if np.array_equal(got, expected):
        return "identical"
    right = 0
    for number, image in zip(row.numbers, got, strict=True):
        apart = {
            n: np.abs(near[n].astype(int) - image).mean() for n in range(number - 1, number + 2)
        }
        right += min(apart, key=lambda n: apart[n]) == number
    difference = np.abs(got.astype(int) - expected).mean()
    return f"{right} of {COUNT} the right frame, mean difference {difference:.2f}"


_seen: dict[Path, dict[int, np.ndarray]] = {}


def _neighbours(path: Path, row: Row) -> dict[int, np.ndarray]:
    """Return the frames asked for and those next to them, from a decode in order."""
    if path not in _seen:
        wanted = {m for n in row.numbers for m in (n - 1, n, n + 1)}
        with av.open(str(path)) as file:
            stream = file.streams.video[0]
            stream.thread_type, stream.codec_context.thread_count = "NONE", 1
            frames = enumerate(file.decode(stream))
            _seen[path] = {n: small(frame) for n, frame in frames if n in wanted}
    return _seen[path]


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Return seconds of wall clock and of processor time."""
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def summary(values: Sequence[float]) -> dict[str, float]:
    low, _, high = quantiles(values, n=4) if len(values) > 1 else (values[0],) * 3
    said = {"min": min(values), "median": median(values), "low": low, "high": high}
    return {name: round(value, 2) for name, value in said.items()}


def cached_epoch(path: Path, repeats: int, copies: int = 8) -> dict[str, Any]:
    """Return milliseconds per clip of a first epoch, which decodes and stores, and of others."""
    clips = [Clip(f"clip{i}", path) for i in range(copies)]
    found: dict[str, Any] = {}
    for codec in ("raw", "jpeg"):
        first, later, size = [], [], 0
        for _ in range(repeats):
            with tempfile.TemporaryDirectory() as folder:
                spec = FrameSpec(COUNT, (SIDE, SIDE), codec=codec)
                made: list[Any] = []
                fill = lambda s=spec, f=folder, m=made: m.append(  # noqa: E731
                    build_frames(clips, s, Path(f), ledger=Ledger())
                )
                first.append(timed(fill))
                store = made[0]
                size = store.nbytes // copies
                later += [timed(lambda s=store: [s.get(c.id) for c in clips]) for _ in range(3)]
        found[codec] = {
            "first": summary([1000 * cpu / copies for _, cpu in first]),
            "later": summary([1000 * cpu / copies for _, cpu in later]),
            "bytes": size,
        }
    return found


def save(found: dict[str, Any]) -> None:
    found["machine"] = {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "ffmpeg of PyAV": av.ffmpeg_version_info,
        **{name: _version(name) for name in ("av", "decord", "torchcodec", "numpy")},
        "opencv": cv2.__version__,
    }
    atomic_write(RESULTS, json.dumps(found, indent=1) + "\n")
    atomic_write(HERE / "decode.md", report(found))


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "unknown")


def report(found: dict[str, Any]) -> str:
    """Return the Markdown page of all that is in `found`."""
    machine = found["machine"]
    versions = ", ".join(f"{k} {v}" for k, v in machine.items() if k not in ("cpu", "cores"))
    rows = found.get("rows", {})
    lines = [
        "# Reading twelve frames of a clip, 224 x 224",
        "",
        f"{machine['cpu']}, {machine['cores']} cores; {versions}. Made by `benchmarks/decode.py`.",
        "",
        "Milliseconds of processor time with one thread, of wall clock with two: median (lower to "
        "upper quartile), readers taking turns in one process. Opening, finding the frames, "
        "decoding and resizing all count. `decord : ours` is the ratio of their medians, `decord : "
        "itself` is as far from 1 as a ratio of this table may be by chance: other work ran on the "
        "machine (load average as given; above the number of cores, a second thread finds little "
        "time). torchcodec decodes with the FFmpeg that PyAV brings.",
    ]
    for threads in sorted({int(key.split()[1]) for key in rows}):
        lines += ["", *_table(rows, threads)]
    told = "Which frames each returned, against a decode in order; the mean difference (of 255) of "
    lines += ["", f"{told}the right ones is that of the filters with which each resizes.", ""]
    lines += _agreement(rows)
    if "cached" in found:
        lines += ["", *_cached(found["cached"])]
    return "\n".join(lines) + "\n"


def _table(rows: dict[str, Any], threads: int) -> list[str]:
    clock = "cpu" if threads == 1 else "wall"
    names = [name for name in READERS if name != AGAIN]
    lines = [
        f"## {threads} thread{'s' * (threads > 1)} (goal: {GOALS.get(threads, 1)} x decord)",
        "",
        f"| clip | {' | '.join(names)} | decord : ours | decord : itself | load |",
        "|---|" + "---|" * (len(names) + 3),
    ]
    for key, row in sorted(rows.items()):
        name, count = key.split()
        if int(count) != threads:
            continue
        readers = row["readers"]
        cells = [_cell(readers[n][clock]) if n in readers else "-" for n in names]
        ratio = chance = "-"
        if "decord" in readers:
            peer = readers["decord"][clock]["median"]
            ratio = f"**{peer / readers['ours'][clock]['median']:.2f}**"
            chance = f"{readers[AGAIN][clock]['median'] / peer:.2f}"
        lines.append(
            f"| {ROWS[name]} | {' | '.join(cells)} | {ratio} | {chance} | {row['load']:.1f} |"
        )
    return lines


def _cell(spent: dict[str, float]) -> str:
    return f"{spent['median']:.0f} ({spent['low']:.0f}-{spent['high']:.0f})"


def _agreement(rows: dict[str, Any]) -> list[str]:
    lines = ["| clip | threads | " + " | ".join(n for n in READERS if n != AGAIN) + " |"]
    lines.append("|---|---|" + "---|" * (len(READERS) - 1))
    for key, row in sorted(rows.items()):
        name, threads = key.split()
        said = [row["readers"].get(n, {}).get("agreement", "-") for n in READERS if n != AGAIN]
        lines.append(f"| {ROWS[name]} | {threads} | {' | '.join(said)} |")
    return lines


def _cached(cached: dict[str, Any]) -> list[str]:
    lines = [
        f"## A cached epoch against the first (goal: {CACHED:.0f} x)",
        "",
        "Processor milliseconds per clip: the first epoch decodes and stores, later ones read from "
        "the page cache. `raw` is the default.",
        "",
        "| clip | codec | first | later | ratio | kB per clip |",
        "|---|---|---|---|---|---|",
    ]
    for name, codecs in sorted(cached.items()):
        for codec, spent in codecs.items():
            ratio = spent["first"]["median"] / spent["later"]["median"]
            cells = [str(ROWS[name]), codec, _cell(spent["first"])]
            cells += [f"{spent['later']['median']:.2f}", f"**{ratio:.0f}**"]
            lines.append(f"| {' | '.join(cells)} | {spent['bytes'] / 1000:.0f} |")
    return lines


if __name__ == "__main__":
    raise SystemExit(main())
