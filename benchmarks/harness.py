"""What every speed table shares: paired timing, peak memory, the machine's roofs, kept results.

Not a table itself. A script measures with `duel` or `alone`, then `save` merges its rows into
`benchmarks/results/NAME.json` and makes `benchmarks/README.md` again. Milliseconds are wall clock
unless a name says CPU; MB are 10^6 bytes.

    options = arguments(__doc__)
    found = duel(peer, ours, options.repeats)
    save("NAME", [Row(id="E1", what="1k x 1k", peer="open_clip", agreement="ranks equal",
                      duel=found, goal=5.0)], options)
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from report import machine, merge, print_rows, results_folder, write_readme

from tvr_bench.leaderboard.provenance import git_state

HERE = Path(__file__).parent
_SAMPLE_S = 0.005  # a call shorter than this is repeated inside of one sample
_LONG_S = 0.5  # a peer slower than this is compared with itself without running twice as often


@dataclass(frozen=True)
class Times:
    """Milliseconds of one call over all repeats; `cpu_ms` is the median of processor time."""

    min_ms: float
    median_ms: float
    iqr_ms: float
    cpu_ms: float


@dataclass(frozen=True)
class Duel:
    """Two sides that took turns in one process.

    `ratio` and `cpu_ratio` are the medians over the turns of peer / ours, of wall clock and of
    processor time. `aa` is the peer against itself, 1 on a quiet machine. `load` is how many
    processors others kept busy meanwhile, on average.
    """

    peer: Times
    ours: Times
    ratio: float
    cpu_ratio: float
    aa: float
    load: float


@dataclass(frozen=True)
class Row:
    """One line of a table.

    `duel` is a `Duel`, or the `Times` of ours alone where there is no peer; `goal` is the least
    wall ratio. `roof` is the time of the machine's roof (a bare GEMM) over ours, 1 at best.
    `memory_mb` is (peer, ours) above the imports, either of them None where it was not measured.
    Goals that are no ratio stand in `at_most` and `at_least`: a name with its unit, then
    (measured, limit). `figures` are further numbers or words. `device` names a GPU.
    """

    id: str
    what: str
    agreement: str
    peer: str | None = None
    duel: Duel | Times | None = None
    goal: float | None = None
    roof: float | None = None
    memory_mb: tuple[float | None, float | None] | None = None
    note: str = ""
    figures: Mapping[str, float | int | str | bool] = field(default_factory=dict)
    at_most: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    at_least: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    device: str | None = None


def arguments(
    doc: str | None, extra: Callable[[argparse.ArgumentParser], object] | None = None
) -> argparse.Namespace:
    """Read the command line: `small`, `threads`, `repeats` and what `extra` adds; set threads.

    The small sizes take one thread and three turns, the full ones two and seven, unless `--threads`
    and `--repeats` say otherwise.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="sizes that take seconds")
    parser.add_argument("--threads", type=int, choices=(1, 2), help="default: 2, 1 with --small")
    repeats = "turns of each side (default: 7, 3 with --small)"
    parser.add_argument("--repeats", type=int, help=repeats)
    if extra is not None:
        extra(parser)
    options = parser.parse_args()
    if options.threads is None:
        options.threads = 1 if options.small else min(2, os.cpu_count() or 1)
    if options.repeats is None:
        options.repeats = 3 if options.small else 7
    threads(options.threads)
    return options


def threads(count: int) -> ExitStack:
    """Let torch use `count` threads from here on; in a `with`, only until its end."""
    stack = ExitStack()
    stack.callback(torch.set_num_threads, torch.get_num_threads())
    torch.set_num_threads(count)
    return stack


def duel(peer: Callable[[], object], ours: Callable[[], object], repeats: int = 7) -> Duel:
    """Return the times of both, which take turns after one warm-up of each.

    A side that works on a GPU must wait for it itself.
    """
    peer_s, ours_s = _once(peer), _once(ours)
    counts = _calls(peer_s), _calls(ours_s)
    twin = peer_s < _LONG_S
    before = _others()
    first: list[tuple[float, float]] = []
    mine: list[tuple[float, float]] = []
    again: list[tuple[float, float]] = []
    for _ in range(repeats):
        first.append(_sample(peer, counts[0]))
        mine.append(_sample(ours, counts[1]))
        if twin:
            again.append(_sample(peer, counts[0]))
    load = _busy(before, _others())
    if twin:
        aa = median(a[0] / b[0] for a, b in zip(first, again, strict=True))
    else:
        aa = _even_odd([wall for wall, _ in first])
    return Duel(
        peer=_times(first),
        ours=_times(mine),
        ratio=median(p[0] / o[0] for p, o in zip(first, mine, strict=True)),
        cpu_ratio=median(p[1] / o[1] for p, o in zip(first, mine, strict=True)),
        aa=aa,
        load=load,
    )


def alone(ours: Callable[[], object], repeats: int = 7) -> Times:
    """Return the times of one side that has nothing to be compared with, after one warm-up."""
    calls = _calls(_once(ours))
    return _times([_sample(ours, calls) for _ in range(repeats)])


def peak_mb(target: str, *values: Any) -> float:
    """Return by how many MB the memory of a fresh process rises in `module:function`.

    The module is a file of this folder, the values must be JSON. The rise is counted from the end
    of the imports; where the function returns another one, from its return to the end of that one,
    so that inputs can be made first. Raises RuntimeError with its last line where it fails.
    """
    env = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, str(HERE / "peak.py"), target, json.dumps(values)]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise RuntimeError(f"{target} failed in its own process: {lines[-1]}")
    return float(done.stdout.strip().splitlines()[-1])


@cache
def roofs() -> dict[str, float]:
    """Return what this machine reaches with torch's present threads, the best of five.

    GFLOP/s of a square GEMM in fp32 and bf16, GB/s read plus written by a copy.
    """
    side, half = 2048, 1024
    a, b, out = (torch.rand(side, side) for _ in range(3))
    low = [m[:half, :half].contiguous().bfloat16() for m in (a, b, out)]
    source = torch.rand(64 * 2**20)
    target = torch.empty_like(source)
    return {
        "gemm_fp32_gflops": 2e-9 * side**3 / _best(lambda: torch.mm(a, b, out=out)),
        "gemm_bf16_gflops": 2e-9 * half**3 / _best(lambda: torch.mm(low[0], low[1], out=low[2])),
        "memory_gbs": 2e-9 * source.nbytes / _best(lambda: target.copy_(source)),
    }


def save(name: str, rows: Sequence[Row], options: argparse.Namespace) -> Path:
    """Merge the rows into `results/NAME.json`, print them, make the README; return the JSON's path.

    A row replaces the one of the same id, size, threads, device and machine, and no other. Small
    rows lose their goals, which are those of the full sizes.
    """
    if options.small:
        rows = [replace(row, goal=None, at_most={}, at_least={}) for row in rows]
    git = git_state(HERE.parent)
    stamp = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "git": git.commit and git.commit[:10] + ("+" if git.dirty else ""),
    }
    found = [{**asdict(row), **stamp} for row in rows]
    place = machine(options.threads)
    path = results_folder() / f"{name}.json"
    size = "small" if options.small else "full"
    table = merge(path, found, size=size, machine=place, roofs=roofs())
    print_rows(name, table, found)
    write_readme(path.parent)
    return path


def _once(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _best(call: Callable[[], object]) -> float:
    return min(_once(call) for _ in range(6))


def _calls(seconds: float) -> int:
    return max(1, min(1000, math.ceil(_SAMPLE_S / max(seconds, 1e-9))))


def _sample(call: Callable[[], object], calls: int) -> tuple[float, float]:
    """Return the seconds of one call, of wall clock and of this process's processors."""
    gc.collect(1)
    gc.disable()  # a collection inside of one side's turn is not that side's cost
    try:
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(calls):
            call()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    finally:
        gc.enable()
    return wall / calls, max(cpu, 1e-9) / calls


def _times(samples: Sequence[tuple[float, float]]) -> Times:
    wall = [1000 * value for value, _ in samples]
    low, _, high = quantiles(wall, method="inclusive") if len(wall) > 1 else wall * 3
    return Times(min(wall), median(wall), high - low, median(1000 * cpu for _, cpu in samples))


def _even_odd(values: Sequence[float]) -> float:
    return median(values[::2]) / median(values[1::2]) if len(values) > 1 else 1.0


def _others() -> tuple[float, float]:
    """Return the wall clock, and the processor seconds that all but this process have used."""
    ticks = [int(text) for text in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    idle = ticks[3] + ticks[4]
    own = os.times()
    used = (sum(ticks) - idle) / os.sysconf("SC_CLK_TCK")
    return time.perf_counter(), used - sum(own[:4])


def _busy(before: tuple[float, float], after: tuple[float, float]) -> float:
    return max(0.0, (after[1] - before[1]) / max(after[0] - before[0], 1e-9))
