"""What a person sees while many runs go on."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from tvr_bench.launch import progress
from tvr_bench.launch.progress import LaunchProgress, duration, last_line


class _Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    """Return a clock that stands still until it is set."""
    clock = _Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def _console(terminal: bool = False) -> Console:
    return Console(file=io.StringIO(), width=100, force_terminal=terminal, highlight=False)


def _printed(console: Console) -> str:
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_time_left_counts_what_is_under_way_and_no_skipped_run(clock: _Clock) -> None:
    with LaunchProgress("x", 6, 2, _console()) as shown:
        shown.end("skipped", "there", 0.0, "")
        assert shown.pace() == ""
        shown.begin("a")
        shown.begin("b")
        clock.now += 600
        shown.end("a", "done", 600, "")
        shown.begin("c")
        clock.now += 60
        # 4 of 6 are left at 10 minutes each, 10 + 1 minutes of them are spent, 2 at a time
        assert shown.pace() == "10 min each, 14 min left"
        for name in "bcde":
            shown.end(name, "done", 600, "")
        assert shown.pace() == ""


def test_a_log_gets_a_line_at_every_end_and_now_and_then(clock: _Clock, tmp_path: Path) -> None:
    console, log = _console(), tmp_path / "log"
    log.write_text("epoch 1\rstep 5/9\r")
    with LaunchProgress("x", 2, 1, console) as shown:
        shown.begin("a")
        for _ in range(100):
            shown.update({"a": log}, {})
        clock.now += 61
        shown.update({"a": log}, {})
        shown.update({"a": log}, {})
        shown.end("a", "failed", 61, "KeyError: [red]x")
    assert _printed(console).splitlines() == [
        "[0/2] a: begins",
        "[0/2] a: 1 min, step 5/9",
        "[1/2] a: FAILED after 1 min: KeyError: [red]x",
    ]


def test_what_another_process_runs_is_said_once() -> None:
    console = _console()
    with LaunchProgress("x", 2, 1, console) as shown:
        for _ in range(3):
            shown.update({}, {"a": "process 7 on here"})
    expected = "x: a is being run by process 7 on here; its record is waited for"
    assert _printed(console).splitlines() == [expected]


def test_a_terminal_shows_a_bar_and_what_runs(tmp_path: Path) -> None:
    console, log = _console(terminal=True), tmp_path / "log"
    log.write_text("step 5/9\n")
    with LaunchProgress("x", 2, 1, console) as shown:
        shown.begin("a")
        shown.update({"a": log}, {})
        shown.bar.refresh()
    assert "0/2" in _printed(console) and "a: step 5/9" in _printed(console)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, "0 s"), (59, "59 s"), (90, "2 min"), (3600, "1 h 00 min"), (9000, "2 h 30 min")],
)
def test_durations(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


def test_the_last_line_is_short_and_printable(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert last_line(log) == ""
    log.write_bytes(b"first\n\x1b[31mred\x07 \xff" + b"x" * 200 + b"\n\n")
    shown = last_line(log)
    assert shown.startswith("[31mred ") and len(shown) == 100 and shown.isprintable()
