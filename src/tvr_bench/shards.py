"""Expensive work as pure functions over shards: parallel, visible, resumable.

A shard names one output file and the items that go into it. A shard whose output exists is done,
so a run that was killed goes on where it stopped.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from tvr_bench.cores import cores
from tvr_bench.files import remove_stale
from tvr_bench.workers import Crew, Tick, Work

__all__ = ["Shard", "Tick", "Work", "cores", "progress_of", "run_shards"]

_LOG_EVERY_S = 20.0  # a log file gets a line this often instead of a moving bar


@dataclass(frozen=True)
class Shard:
    """One output file and the items it is made from.

    `lost` says, by position, which items must be left out and why: each took a process with it.
    """

    output: Path
    items: tuple[Any, ...]
    lost: Mapping[int, str] = field(default_factory=dict, hash=False)


def run_shards(
    title: str,
    shards: Sequence[Shard],
    work: Work,
    *,
    workers: int = 0,
    unit: str = "video",
    timeout: float | None = None,
) -> None:
    """Run `work(shard, tick)` for every shard whose output is missing.

    `work` is a module-level function (or a partial of one); it writes `shard.output` through
    `atomic_path` and calls `tick()` after each item. `workers` is the number of processes, 0 for
    this one. `timeout`: seconds that an item may take in a process; an item that takes longer, or
    ends its process, is lost: the shard starts again, and work finds the reason in `shard.lost`,
    leaves the item out and ticks. The first error of any shard is raised after the running ones
    have stopped.
    """
    todo = [s for s in shards if not s.output.exists()]
    if not todo:
        return
    for folder in {s.output.parent for s in todo}:
        remove_stale(folder)
    total = sum(len(s.items) for s in todo)
    alone = workers == 0 or (workers == 1 and timeout is None)
    with progress_of(title, total, unit) as update:
        if alone:
            _run_here(todo, work, update)
        else:
            with _one_thread_each():
                Crew(work, min(workers, len(todo)), timeout).run(todo, update)


class _Here:
    """The `Tick` of this process, where nobody watches the time."""

    def __init__(self, update: Callable[[int], None]) -> None:
        self._update = update
        self._done = 0

    def __call__(self) -> None:
        self._done += 1
        self._update(self._done)

    def more(self, times: float) -> None:
        pass


def _run_here(shards: Sequence[Shard], work: Work, update: Callable[[int], None]) -> None:
    tick = _Here(update)
    for shard in shards:
        work(shard, tick)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Let workers start with one thread each: two libraries with two threads thrash two cores."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


class _RateColumn(ProgressColumn):
    """Items per second since the start, so a burst of short items does not mislead."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        rate = task.completed / task.elapsed if task.elapsed else 0.0
        return Text(f"{rate:.1f} {self.unit}s/s")


@contextmanager
def progress_of(title: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Show a bar, or lines in a log file, and yield what takes how many of `total` are done."""
    console = Console(file=sys.stderr)
    columns = (
        TextColumn("{task.description:<22}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        _RateColumn(unit),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    progress = Progress(*columns, console=console, disable=not console.is_terminal)
    with progress:
        task = progress.add_task(title, total=total)
        lines = _LogLines(console, title, total, unit, progress.get_time())

        def update(done: int) -> None:
            progress.update(task, completed=done)
            if not console.is_terminal:
                lines.update(progress.get_time(), done)

        yield update
        if not console.is_terminal:
            lines.print(progress.get_time())


class _LogLines:
    """The same progress as plain lines, for a log file or CI."""

    def __init__(self, console: Console, title: str, total: int, unit: str, now: float) -> None:
        self.console, self.title, self.total, self.unit = console, title, total, unit
        self.start = self.last = now
        self.done = 0

    def update(self, now: float, done: int) -> None:
        self.done = done
        if now - self.last >= _LOG_EVERY_S:
            self.last = now
            self.print(now)

    def print(self, now: float) -> None:
        seconds = max(now - self.start, 1e-9)
        rate = self.done / seconds
        left = (
            f", {(self.total - self.done) / rate:.0f} s left" if 0 < self.done < self.total else ""
        )
        self.console.print(
            f"{self.title}: {self.done}/{self.total} {self.unit}s, {rate:.1f} {self.unit}s/s, "
            f"{seconds:.0f} s{left}",
            highlight=False,
            soft_wrap=True,
        )
