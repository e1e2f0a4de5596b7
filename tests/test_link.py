"""The processes of a run end together, whatever ends one of them, and one of them says why."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

WORLD = 3
LIMIT_S = 55  # all must have ended by then


class Run:
    """Processes of `link_worker.py`."""

    def __init__(self, folder: Path, what: str) -> None:
        worker = str(Path(__file__).with_name("link_worker.py"))
        self.folder = folder
        self.processes = [
            subprocess.Popen(
                [sys.executable, worker, str(folder), str(rank), str(WORLD), what],
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(WORLD)
        ]

    def until_all_are_there(self) -> None:
        while len(list(self.folder.glob("*.there"))) < WORLD:
            time.sleep(0.01)

    def end(self) -> tuple[list[int], list[str]]:
        """Return the exit codes, and all that the processes said of the run."""
        said = [process.communicate(timeout=LIMIT_S)[1] for process in self.processes]
        self.said = said
        lines = [line for text in said for line in text.splitlines()]
        codes = [process.returncode for process in self.processes]
        return codes, [line for line in lines if line.startswith("tvr-bench: ")]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], Run]]:
    runs: list[Run] = []

    def make(what: str) -> Run:
        runs.append(Run(tmp_path, what))
        return runs[-1]

    yield make
    for run in runs:
        for process in run.processes:
            process.kill()
            process.wait()


@pytest.mark.parametrize("rank", range(WORLD))
def test_a_killed_process_ends_the_others_with_one_line(
    rank: int, start: Callable[[str], Run]
) -> None:
    run = start("wait")
    run.until_all_are_there()
    run.processes[rank].send_signal(signal.SIGKILL)
    codes, lines = run.end()
    assert codes == [-9 if i == rank else 1 for i in range(WORLD)]
    (line,) = lines
    assert f"process {rank} of 3 has died" in line and "last checkpoint" in line


def test_the_echo_of_a_death_is_not_what_is_said(start: Callable[[str], Run]) -> None:
    run = start("echo")
    codes, lines = run.end()
    assert codes == [1, -9, 1]
    assert len(lines) == 1 and "process 1 of 3 has died" in lines[0]
    assert not any("Traceback" in text for text in run.said)


@pytest.mark.parametrize(
    ("what", "said"), [("error", "nothing works; mend it"), ("first", "fails")]
)
def test_an_error_of_a_user_in_any_process_is_one_line_and_code_two(
    what: str, said: str, start: Callable[[str], Run]
) -> None:
    codes, lines = start(what).end()
    assert codes == [2, 2, 2]
    assert len(lines) == 1 and said in lines[0]


def test_a_bug_in_one_process_shows_its_traceback_and_ends_all(start: Callable[[str], Run]) -> None:
    run = start("bug")
    codes, lines = run.end()
    assert codes == [1, 1, 1]
    assert len(lines) == 1 and "process 1 of 3 failed (KeyError)" in lines[0]
    assert ["Traceback" in text for text in run.said] == [False, True, False]


def test_a_process_that_is_told_to_stop_passes_its_code_on(start: Callable[[str], Run]) -> None:
    codes, lines = start("told").end()
    assert codes[:2] == [143, 143] and codes[2] in (1, 143)
    assert len(lines) == 1 and "process 1 was told to stop" in lines[0]


def test_a_process_that_cannot_act_is_killed_with_the_others(start: Callable[[str], Run]) -> None:
    run = start("stopped")
    run.until_all_are_there()
    _until_state(run.processes[1].pid, "T")
    run.processes[2].kill()
    codes, lines = run.end()
    assert codes == [1, -9, -9] and "process 2 of 3 has died" in lines[0]


def test_strangers_are_not_heard_and_a_run_that_is_done_just_ends(
    start: Callable[[str], Run], tmp_path: Path
) -> None:
    run = start("wait")
    run.until_all_are_there()
    port = json.loads((tmp_path / "link.key").read_text())["port"]
    for line in (b"\xff\xfe\n", b'{"code": 3}\n', b'{"token": "x", "rank": 1}\n', b"[]\n"):
        with socket.create_connection(("127.0.0.1", port)) as stranger:
            stranger.sendall(line)
            assert stranger.recv(1) == b"", "it must be shown the door"
    assert [process.poll() for process in run.processes] == [None] * WORLD
    for process in run.processes:
        process.kill()


def test_processes_that_have_done_their_part_end_one_by_one(start: Callable[[str], Run]) -> None:
    assert start("fine").end() == ([0, 0, 0], [])


def _until_state(pid: int, state: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == state:
            return
        time.sleep(0.01)
    raise AssertionError(f"process {pid} is not in state {state}; this is {os.getpid()}")
