"""Tasks as processes: skipped, failed, interrupted, resumed, shared between launchers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from launch.fakes import fake_command, starts, write_record
from tvr_bench.errors import UserError
from tvr_bench.launch import local
from tvr_bench.launch.local import (
    LOG_FILE,
    Task,
    last_error,
    make_folder,
    run_first,
    run_tasks,
)
from tvr_bench.launch.progress import LaunchProgress
from tvr_bench.launch.slots import Slot
from tvr_bench.leaderboard.record import RECORD_FILE
from tvr_bench.lock import Lock, holder

DRIVER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from launch.fakes import fake_command
from launch.test_local import tasks_in
from tvr_bench.launch.local import run_tasks
try:
    found = run_tasks("driver", tasks_in(Path({root!r}), {names!r}), fake_command({does!r}))
    print(*(outcome.state for outcome in found))
except KeyboardInterrupt:
    print("interrupted")
    sys.exit(130)
"""
Driver = Callable[..., "subprocess.Popen[str]"]


def tasks_in(root: Path, names: list[str]) -> list[Task]:
    """Return tasks whose folders and locks lie in `root`."""
    locks = root / ".locks"
    return [Task(name, locks / f"{name}.lock", partial(Path, root / name)) for name in names]


@pytest.fixture
def driver(tmp_path: Path) -> Driver:
    """Start a launcher in a process of its own."""

    def start(names: list[str], does: dict[str, str]) -> subprocess.Popen[str]:
        tests = str(Path(__file__).parents[1])
        code = DRIVER.format(tests=tests, root=str(tmp_path), names=names, does=does)
        return subprocess.Popen(
            [sys.executable, "-c", code], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    return start


def _wait(ready: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat").read_text()
    return status.rpartition(")")[2].split()[0] != "Z"


def test_every_task_runs_once_and_finished_ones_never(tmp_path: Path) -> None:
    tasks = tasks_in(tmp_path, ["a", "b", "c"])
    write_record(tmp_path / "b")
    outcomes = run_tasks("test", tasks, fake_command())
    assert [(o.task.name, o.state) for o in outcomes] == [
        ("a", "done"),
        ("b", "there"),
        ("c", "done"),
    ]
    assert [len(starts(tmp_path / name)) for name in "abc"] == [1, 0, 1]
    again = run_tasks("test", tasks, fake_command())
    assert {o.state for o in again} == {"there"}
    assert len(starts(tmp_path / "a")) == 1


def test_a_failure_does_not_hide_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    does = {"bad": "fail", "shot": "die", "mute": "silent"}
    tasks = tasks_in(tmp_path, ["bad", "shot", "mute", "good"])
    bad, shot, mute, good = run_tasks("test", tasks, fake_command(does))
    assert (bad.state, bad.reason) == ("failed", "ValueError: a broken cell")
    assert shot.state == "failed" and "SIGKILL" in shot.reason
    assert (mute.state, mute.reason) == ("failed", "fake run begins")
    assert good.state == "done"
    assert "goodbye" in (bad.folder / LOG_FILE).read_text()
    printed = capsys.readouterr().err
    assert "bad: FAILED" in printed and "ValueError: a broken cell" in printed
    assert "[4/4] good: done" in printed


def test_a_failed_task_runs_again_and_its_log_grows(tmp_path: Path) -> None:
    tasks = tasks_in(tmp_path, ["a"])
    run_tasks("test", tasks, fake_command({"a": "fail"}))
    (outcome,) = run_tasks("test", tasks, fake_command({"a": "silent"}))
    assert outcome.reason == "fake run begins"  # and not the error of the first attempt
    (outcome,) = run_tasks("test", tasks, fake_command())
    assert outcome.state == "done"
    assert (tmp_path / "a" / LOG_FILE).read_text().count("fake run begins") == 3


def test_a_command_that_cannot_start_is_a_failure(tmp_path: Path) -> None:
    tasks = tasks_in(tmp_path, ["a", "b"])
    real = fake_command()
    outcomes = run_tasks("test", tasks, lambda t, f: ["no-such"] if t.name == "a" else real(t, f))
    assert [o.state for o in outcomes] == ["failed", "done"]
    assert "no-such" in outcomes[0].reason


def test_several_run_at_a_time_each_in_a_place_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = []
    monkeypatch.setattr(LaunchProgress, "update", lambda _, logs, busy: at_once.append(len(logs)))
    places = [Slot(environment={"PLACE": str(i)}) for i in range(2)]
    monkeypatch.setattr(local, "slots", lambda jobs, settings: list(places))
    tasks = tasks_in(tmp_path, list("abcd"))
    outcomes = run_tasks("test", tasks, fake_command(dict.fromkeys("abcd", "slow0.4")), jobs=2)
    assert [o.state for o in outcomes] == ["done"] * 4
    assert max(at_once) == 2
    used = [(tmp_path / name / "place").read_text() for name in "abcd"]
    assert sorted(used) == ["0", "0", "1", "1"]


def test_two_launchers_share_the_work_and_lose_nothing(tmp_path: Path, driver: Driver) -> None:
    names = ["a", "b", "c", "d"]
    does = dict.fromkeys(names, "slow0.2")
    outputs = [process.communicate(timeout=60) for process in [driver(names, does) for _ in "12"]]
    for out, err in outputs:
        assert set(out.split()) <= {"done", "there"}, err
    assert [len(starts(tmp_path / name)) for name in names] == [1] * 4
    assert sum(out.split().count("done") for out, _ in outputs) == 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_stops_the_children_and_a_new_start_goes_on(
    number: int, tmp_path: Path, driver: Driver
) -> None:
    process = driver(["a", "b", "c"], {"b": "hang"})
    _wait(lambda: starts(tmp_path / "b"))
    (child,) = starts(tmp_path / "b")
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out.strip()) == (130, "interrupted")
    assert not _alive(child), err
    outcomes = run_tasks("test", tasks_in(tmp_path, ["a", "b", "c"]), fake_command())
    assert [o.state for o in outcomes] == ["there", "done", "done"]
    assert [len(starts(tmp_path / name)) for name in "abc"] == [1, 2, 1]


def test_a_child_that_ignores_the_interrupt_is_killed_at_the_second(
    tmp_path: Path, driver: Driver
) -> None:
    process = driver(["a"], {"a": "stubborn"})
    _wait(lambda: "deaf" in _read(tmp_path / "a" / LOG_FILE))
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode
    assert not any(_alive(pid) for pid in starts(tmp_path / "a"))


def test_a_killed_launcher_leaves_its_child_the_lock(tmp_path: Path, driver: Driver) -> None:
    process = driver(["a"], {"a": "slow2"})
    _wait(lambda: starts(tmp_path / "a"))
    process.kill()
    process.communicate()
    lock = tmp_path / ".locks" / "a.lock"
    assert Lock.acquire(lock) is None
    assert f"process {process.pid} on " in holder(lock)
    (outcome,) = run_tasks("test", tasks_in(tmp_path, ["a"]), fake_command())
    assert (outcome.state, len(starts(tmp_path / "a"))) == ("there", 1)


def test_a_stale_lock_file_locks_nothing(tmp_path: Path) -> None:
    tasks = tasks_in(tmp_path, ["a"])
    tasks[0].lock.parent.mkdir()
    tasks[0].lock.write_text(f"process {os.getpid()} on this very machine")
    (outcome,) = run_tasks("test", tasks, fake_command())
    assert outcome.state == "done"


def test_a_lock_is_held_once_and_given_back(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    lock = Lock.acquire(path)
    assert lock is not None and Lock.acquire(path) is None
    assert holder(path).startswith(f"process {os.getpid()} on ")
    lock.release()
    second = Lock.acquire(path)
    assert second is not None
    second.release()


def test_two_tasks_of_one_folder_run_once(tmp_path: Path) -> None:
    tasks = tasks_in(tmp_path, ["a", "a"])
    outcomes = run_tasks("test", tasks, fake_command(), jobs=2)
    assert sorted(o.state for o in outcomes) == ["done", "there"]
    assert len(starts(tmp_path / "a")) == 1


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        (b"", ""),
        (b"one\ntwo\n\n", "two"),
        (b"KeyError: 'x'\nbye\n", "KeyError: 'x'"),
        (b"tvr-bench: no such file\n", "tvr-bench: no such file"),
        (
            b"  10%\r  20%\rtorch.cuda.OutOfMemoryError: full\rend",
            "torch.cuda.OutOfMemoryError: full",
        ),
        (b"\xff\xfe broken\n", "\ufffd\ufffd broken"),
        (b"x" * 50_000, "x" * 300),
    ],
)
def test_the_last_error_of_a_log(log: bytes, expected: str, tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_bytes(log)
    assert last_error(file) == expected


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"run\.root"):
        make_folder(tmp_path / "file" / "x")


def test_a_record_alone_makes_a_task_done(tmp_path: Path) -> None:
    (task,) = tasks_in(tmp_path, ["a"])
    assert not task.done
    write_record(tmp_path / "a")
    assert task.done and (tmp_path / "a" / RECORD_FILE).exists()


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def test_what_comes_first_ends_before_the_tasks_begin(tmp_path: Path) -> None:
    place = tmp_path / "there"
    assert run_first([sys.executable, "-S", "-c", f"open({str(place)!r}, 'w')"]) == 0
    assert place.exists()
    assert run_first([sys.executable, "-S", "-c", "raise SystemExit(2)"]) == 2


def test_an_interrupt_ends_what_comes_first(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    text = f"import os, time; open({str(begun)!r}, 'w').write(str(os.getpid())); time.sleep(60)"

    def interrupt() -> None:
        while not (begun.exists() and begun.read_text()):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run_first([sys.executable, "-S", "-c", text])
    thread.join()
    with pytest.raises(ProcessLookupError):
        os.kill(int(begun.read_text()), 0)
