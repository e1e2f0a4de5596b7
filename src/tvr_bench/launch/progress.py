"""Overall progress of many runs: a moving bar on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

_LINE_EVERY_S = 60.0  # a log gets a line this often while nothing ends
_TAIL = 4_000  # bytes at the end of a run's log in which its last line is looked for
_WORDS = {"done": "done", "there": "its record is there", "failed": "FAILED"}


class _Bar(Progress):
    """A bar, and below it lines of text."""

    lines: Sequence[str] = ()

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        yield from (Text(line, "dim", no_wrap=True, overflow="ellipsis") for line in self.lines)


class LaunchProgress:
    """Runs done of all, minutes per run and time left; under it what each running one says."""

    def __init__(self, title: str, total: int, jobs: int, console: Console | None = None) -> None:
        """Use standard error, or `console`."""
        self.console = console or Console(file=sys.stderr, highlight=False, soft_wrap=True)
        self.title, self.total, self.jobs = title, total, jobs
        self.ended, self.took, self.started = 0, list[float](), dict[str, float]()
        self.last_line = time.monotonic()
        self.announced: set[str] = set()
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        self.bar = _Bar(*columns, console=self.console, disable=not self.console.is_terminal)
        self.task = self.bar.add_task(title, total=total, note="")

    def __enter__(self) -> LaunchProgress:
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.stop()

    def begin(self, name: str) -> None:
        """Show that a run begins."""
        self.started[name] = time.monotonic()
        self._print(f"{name}: begins")

    def end(self, name: str, state: str, seconds: float, reason: str) -> None:
        """Count a run as ended, and say how."""
        self.ended += 1
        self.started.pop(name, None)
        if state == "done":
            self.took.append(seconds)
        after = f" after {duration(seconds)}" if seconds else ""
        why = f": {reason}" if reason else ""
        self._print(f"{name}: {_WORDS[state]}{after}{why}")
        self.bar.update(self.task, completed=self.ended)

    def note(self, text: str) -> None:
        """Say something beside the bar."""
        self.bar.console.print(Text(f"{self.title}: {text}"))

    def update(self, logs: Mapping[str, Path], busy: Mapping[str, str]) -> None:
        """Refresh rate and time left; `logs` of the running, `busy` who else runs what."""
        for name in busy.keys() - self.announced:
            self.announced.add(name)
            self.note(f"{name} is being run by {busy[name]}; its record is waited for")
        now = time.monotonic()
        if self.console.is_terminal:
            self.bar.lines = [f"  {name}: {last_line(log)}" for name, log in logs.items()]
            self.bar.update(self.task, note=self.pace())
        elif now - self.last_line >= _LINE_EVERY_S:
            for name, log in logs.items():
                self._print(f"{name}: {duration(now - self.started[name])}, {last_line(log)}")

    def pace(self) -> str:
        """Return minutes per run and time left, as far as finished runs tell."""
        if not self.took or self.ended == self.total:
            return ""
        mean = sum(self.took) / len(self.took)
        now = time.monotonic()
        spent = sum(min(now - start, mean) for start in self.started.values())
        left = max(0.0, (self.total - self.ended) * mean - spent) / self.jobs
        return f"{duration(mean)} each, {duration(left)} left"

    def _print(self, text: str) -> None:
        self.last_line = time.monotonic()
        pace = f" ({self.pace()})" if self.pace() else ""
        count = f"[{self.ended}/{self.total}]"
        self.bar.console.print(Text(f"{count} {text}{pace}"))


def last_line(log: Path) -> str:
    """Return the last line of a run's log, at most 100 letters; empty where there is none."""
    try:
        with open(log, "rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    lines = [line.strip() for line in text.replace("\r", "\n").split("\n") if line.strip()]
    return "".join(c for c in (lines or [""])[-1] if c.isprintable())[:100]


def duration(seconds: float) -> str:
    """Return a time as a person says it."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
