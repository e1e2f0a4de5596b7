"""Workers that hang, crash or are killed cost one item each, by name, and nothing else."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tvr_bench.errors import UserError
from tvr_bench.files import atomic_write
from tvr_bench.shards import Shard, Tick, run_shards
from tvr_bench.workers import place


def act(item: str) -> None:
    """Do what the name of an item says."""
    match item.split("-")[0]:
        case "hang":
            signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
            time.sleep(3600)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "crash":
            ctypes.string_at(0)
        case "leave":
            os._exit(3)


def work(shard: Shard, tick: Tick, *, log: Path) -> None:
    """Write what became of each item; an item called slow needs the limit twice."""
    done: dict[str, Any] = {}
    for position, item in enumerate(shard.items):
        with open(log, "a") as file:
            file.write(f"{item}\n")
        if position in shard.lost:
            done[item] = shard.lost[position]
        else:
            if item.startswith("slow"):
                time.sleep(1.2)
                tick.more(2)
                time.sleep(1.2)
            act(item)
            done[item] = "ok"
        tick()
    if "write" in shard.output.name and not shard.output.with_suffix(".once").exists():
        shard.output.with_suffix(".once").touch()
        act("kill")
    act(shard.output.stem)
    atomic_write(shard.output, json.dumps(done))


def run(root: Path, groups: dict[str, list[str]], **how: Any) -> dict[str, str]:
    shards = [Shard(root / f"{name}.json", tuple(items)) for name, items in groups.items()]
    run_shards("acts", shards, partial(work, log=root / "log"), **how)
    found: dict[str, str] = {}
    for shard in shards:
        found |= json.loads(shard.output.read_text())
    return found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def test_each_way_to_be_lost_costs_one_item(root: Path) -> None:
    groups = {
        "a": ["ok-1", "crash-1", "ok-2", "hang-1"],
        "b": ["kill-1", "ok-3"],
        "c": ["ok-4", "leave-1", "stop-1"],
        "d": ["ok-5", "slow-1", "ok-6"],
    }
    found = run(root, groups, workers=2, timeout=2.0)
    lost = {item: reason for item, reason in found.items() if reason != "ok"}
    assert [*found] == [item for items in groups.values() for item in items]
    assert lost == {
        "crash-1": "ended its process by SIGSEGV",
        "hang-1": "took longer than 2 s",
        "kill-1": "ended its process by SIGKILL, as when memory runs out",
        "leave-1": "ended its process by exit code 3",
        "stop-1": "took longer than 2 s",
    }
    before = (root / "log").read_text()
    assert run(root, groups, workers=2, timeout=2.0) == found
    assert (root / "log").read_text() == before  # it was all done


def test_one_worker_is_watched_too_and_the_progress_ends_at_the_total(root, capsys) -> None:
    found = run(root, {"a": ["ok-1", "kill-1", "ok-2"]}, workers=1, timeout=30.0)
    assert [*found.values()].count("ok") == 2
    assert capsys.readouterr().err.startswith("acts: 3/3 videos")


def test_a_death_that_no_item_is_to_blame_for_is_tried_again(root: Path) -> None:
    assert run(root, {"write": ["ok-1"]}, workers=1, timeout=30.0) == {"ok-1": "ok"}


@pytest.mark.slow
def test_a_shard_that_cannot_be_written_is_an_error_after_three_tries(root: Path) -> None:
    with pytest.raises(RuntimeError, match=r"exit code 3 while it made .*leave\.json"):
        run(root, {"leave": ["ok-1"]}, workers=1, timeout=30.0)
    assert (root / "log").read_text() == "ok-1\n" * 3


def test_without_a_limit_a_death_is_an_error(root: Path) -> None:
    with pytest.raises(RuntimeError, match="ended by SIGKILL"):
        run(root, {"a": ["kill-1"], "b": ["ok-1"]}, workers=2)


def test_the_error_of_a_worker_says_where_it_arose(root: Path) -> None:
    shards = [Shard(root / "a.json", (1,))]
    with pytest.raises(AttributeError, match="startswith") as error:
        run_shards("acts", shards, partial(work, log=root / "log"), workers=1, timeout=30.0)
    assert any("test_workers.py" in note for note in error.value.__notes__)


def note_place(shard: Shard, tick: Tick) -> None:
    """Write this worker's place; the first to be asked waits and is killed."""
    with open(shard.output.with_name("places"), "a") as file:
        file.write(f"{shard.output.stem} {place()}\n")
    for position, item in enumerate(shard.items):
        if position not in shard.lost:
            time.sleep(0.5)
            act(item)
        tick()
    atomic_write(shard.output, "done")


def test_workers_have_places_and_a_new_one_takes_that_of_the_lost(root: Path) -> None:
    names = {"a": "kill", "b": "x", "c": "x", "d": "x"}
    shards = [Shard(root / f"{name}.json", (item,)) for name, item in names.items()]
    run_shards("place", shards, note_place, workers=2, timeout=60.0)
    lines = [line.split() for line in (root / "places").read_text().splitlines()]
    assert {at for _, at in lines} == {"0", "1"} and place() is None
    assert [name for name, _ in lines].count("a") == 2
    assert len({at for _, at in lines[:2]}) == 2


_SCRIPT = """
import sys
from functools import partial
from pathlib import Path

with open("runs", "a") as file:
    file.write("once\\n")
sys.path.insert(0, {tests!r})
from test_workers import work
from tvr_bench.shards import Shard, run_shards

shards = [Shard(Path(f"{{i}}.json").absolute(), ("ok-1", "crash-1")) for i in range(3)]
run_shards("acts", shards, partial(work, log=Path("log")), workers=2, timeout=60.0)
"""


@pytest.mark.parametrize("way", ["script", "standard input", "no file"])
def test_workers_never_run_the_script_that_started_them(way: str, tmp_path: Path) -> None:
    """A notebook's `__main__` has no file, as that of `-c`."""
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT.format(tests=str(Path(__file__).parent)))
    words = {
        "script": [str(script)],
        "standard input": ["-"],
        "no file": ["-c", script.read_text()],
    }
    done = subprocess.run(
        [sys.executable, *words[way]],
        input=script.read_text() if way == "standard input" else "",
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stderr.splitlines()) == 1 and "6/6" in done.stderr
    assert (tmp_path / "runs").read_text() == "once\n"
    made = [json.loads((tmp_path / f"{i}.json").read_text()) for i in range(3)]
    assert made == [{"ok-1": "ok", "crash-1": "ended its process by SIGSEGV"}] * 3


def test_work_that_only_the_script_defines_is_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "__module__", "__main__")
    with pytest.raises(UserError, match="work is defined in the script itself"):
        run(root, {"a": ["ok-1"]}, workers=2)
    assert run(root, {"a": ["ok-1"]}, workers=0) == {"ok-1": "ok"}


def test_work_that_cannot_be_imported_is_an_error_of_its_own(root: Path) -> None:
    hidden = lambda shard, tick: None  # noqa: E731
    with pytest.raises((AttributeError, TypeError), match="pickle"):
        run_shards("acts", [Shard(root / "a.json", (1,))], hidden, workers=1, timeout=30.0)
