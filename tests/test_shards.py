"""Work in shards: resumable, parallel with the same outcome, loud when it fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from tvr_bench.files import atomic_path
from tvr_bench.shards import Shard, cores, run_shards


def write_squares(shard: Shard, tick: Callable[[], None], *, log: Path | None = None) -> None:
    """Write the squares of a shard's numbers; a negative number cannot be squared here."""
    with atomic_path(shard.output) as temporary:
        with open(temporary, "w") as file:
            for number in shard.items:
                if number < 0:
                    raise ValueError(f"cannot square {number}")
                file.write(f"{number**2}\n")
                tick()
        if log is not None:
            with open(log, "a") as file:
                file.write(f"{shard.output.name} {os.environ.get('OMP_NUM_THREADS')}\n")


def _shards(root: Path, count: int = 5) -> list[Shard]:
    return [Shard(root / f"{i}.txt", tuple(range(3 * i, 3 * i + 3))) for i in range(count)]


def _contents(root: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(root.rglob("*")) if path.is_file()}


def test_workers_make_the_same_files_with_one_thread_each(tmp_path: Path) -> None:
    log, threads = tmp_path / "log", os.environ.get("OMP_NUM_THREADS")
    run_shards("here", _shards(tmp_path / "here"), write_squares)
    run_shards("there", _shards(tmp_path / "there"), partial(write_squares, log=log), workers=2)
    here, there = _contents(tmp_path / "here"), _contents(tmp_path / "there")
    assert here == there
    assert here["1.txt"] == "9\n16\n25\n" and len(here) == 5
    assert [line.split()[1] for line in log.read_text().splitlines()] == ["1"] * 5
    assert os.environ.get("OMP_NUM_THREADS") == threads


def test_what_exists_is_not_made_again(tmp_path: Path) -> None:
    shards = _shards(tmp_path / "out")
    shards[3].output.parent.mkdir()
    shards[3].output.write_text("old")
    log = tmp_path / "log"
    run_shards("again", shards, partial(write_squares, log=log))
    assert [line.split()[0] for line in log.read_text().splitlines()] == [
        "0.txt",
        "1.txt",
        "2.txt",
        "4.txt",
    ]
    assert shards[3].output.read_text() == "old"
    log.unlink()
    run_shards("again", shards, partial(write_squares, log=log))
    assert not log.exists()


def test_nothing_to_do_is_silent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_shards("none", [], write_squares, workers=2)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_comes_out_and_finished_shards_stay(workers: int, tmp_path: Path) -> None:
    shards = [*_shards(tmp_path), Shard(tmp_path / "bad.txt", (1, -2))]
    with pytest.raises(ValueError, match="cannot square -2"):
        run_shards("fails", shards, write_squares, workers=workers)
    assert sorted(_contents(tmp_path)) == ["0.txt", "1.txt", "2.txt", "3.txt", "4.txt"]
    run_shards("mended", [*shards[:5], Shard(tmp_path / "bad.txt", (1, 2))], write_squares)
    assert _contents(tmp_path)["bad.txt"] == "1\n4\n"


_WORK = """
import sys, time
from pathlib import Path
from tvr_bench.files import atomic_path

def work(shard, tick, root):
    with atomic_path(shard.output) as temporary:
        temporary.write_text("half")
        if shard.output.name == "2.txt":
            while not all((shard.output.parent / name).exists() for name in ("0.txt", "1.txt")):
                time.sleep(0.01)
            Path(root, "reached").touch()
            time.sleep(3600)
        tick()
"""
_STOPS_AT_THE_THIRD = """
import sys
from functools import partial
from pathlib import Path
from tvr_bench.shards import Shard, run_shards
from work_of_stops import work

out = Path(sys.argv[1], "out")
run_shards("slow", [Shard(out / f"{i}.txt", (i,)) for i in range(5)],
           partial(work, root=sys.argv[1]), workers=int(sys.argv[2]))
"""


def _start_and_wait(tmp_path: Path, workers: int) -> subprocess.Popen[str]:
    """Start work that never ends its third shard, and wait until it is there."""
    script = tmp_path / "stops.py"
    script.write_text(_STOPS_AT_THE_THIRD)
    (tmp_path / "work_of_stops.py").write_text(_WORK)
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path), str(workers)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not (tmp_path / "reached").exists():
        assert process.poll() is None
        time.sleep(0.01)
    return process


def _assert_group_ends(group: int) -> None:
    """Wait for the end of every process of the group; end what is left of it after a minute."""
    stop = time.monotonic() + 60
    with suppress(ProcessLookupError):
        while time.monotonic() < stop:
            os.killpg(group, 0)
            time.sleep(0.01)
        os.killpg(group, signal.SIGKILL)
        pytest.fail("a process outlived its parent")


def test_a_killed_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    with _start_and_wait(tmp_path, workers=0) as process:
        process.kill()
    out = tmp_path / "out"
    whole = {name: text for name, text in _contents(out).items() if not name.startswith(".")}
    assert whole == {"0.txt": "half", "1.txt": "half"}
    (rest,) = out.glob(".*")
    os.utime(rest, (1, 1))
    run_shards("goes on", _shards(out), write_squares)
    assert _contents(out) == whole | {
        "2.txt": "36\n49\n64\n",
        "3.txt": "81\n100\n121\n",
        "4.txt": "144\n169\n196\n",
    }


@pytest.mark.parametrize("workers", [0, 2])
def test_ctrl_c_stops_at_once_and_leaves_no_half_file(workers: int, tmp_path: Path) -> None:
    with _start_and_wait(tmp_path, workers) as process:
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "KeyboardInterrupt" in err
    names = _contents(tmp_path / "out")
    assert {"0.txt", "1.txt"} <= names.keys()
    assert "2.txt" not in names and not [name for name in names if name.startswith(".")]
    _assert_group_ends(process.pid)


def test_workers_do_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    with _start_and_wait(tmp_path, workers=2) as process:
        process.kill()
    _assert_group_ends(process.pid)


def test_a_log_file_gets_a_line_with_count_rate_and_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_shards("squares", _shards(tmp_path), write_squares, unit="number")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("squares: 15/15 numbers, ")
    assert "numbers/s" in printed.err


def test_cores_counts_what_this_process_may_use() -> None:
    assert 1 <= cores() <= (os.cpu_count() or 1)
