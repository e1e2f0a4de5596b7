"""A run's folder: one process has it at a time, and only what is worth keeping lies in it."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tvr_bench.cli import main
from tvr_bench.launch.local import Task, run_tasks
from tvr_bench.lock import Lock, lock_of
from tvr_bench.models.base import RetrievalModule

HOLD = """
import sys, time
from pathlib import Path
from tvr_bench.lock import Lock
assert Lock.acquire(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def words(tiny_settings: list[str]) -> list[str]:
    """A run of three steps in two epochs, by the command line."""
    return ["bench", *tiny_settings, "model=meanpool", "run.name=mine"]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """The folder of all runs."""
    return tmp_path / "runs"


@pytest.fixture
def other(runs: Path) -> Iterator[subprocess.Popen[str]]:
    """A process of its own that has the lock of the run `mine`."""
    command = [sys.executable, "-c", HOLD, str(lock_of(runs, "mine"))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


class Killed(Exception):
    """What stops a run in the tests."""


def _stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    def stop(self: RetrievalModule, *_: Any) -> None:
        if self.trainer.global_step == step:
            raise Killed

    monkeypatch.setattr(RetrievalModule, "on_train_batch_start", stop)


def test_a_second_start_is_refused_and_touches_nothing(
    words: list[str],
    runs: Path,
    other: subprocess.Popen[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    half = runs / "mine" / "checkpoints" / ".0123456789ab.tmp.ckpt"
    half.parent.mkdir(parents=True)
    half.write_bytes(b"half of a checkpoint that the first start is writing")
    assert main(words) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert f"being made by process {other.pid} on " in printed and "run.name" in printed
    assert half.exists()
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert lock_of(runs, "mine").exists(), "a killed process leaves the file, and no lock"
    assert main(words) == 0
    assert not half.exists() and (runs / "mine" / "record.json").exists()


def test_the_lock_is_held_all_the_time_and_then_gone(
    words: list[str], runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    real = RetrievalModule.test_step

    def look(self: RetrievalModule, *arguments: Any) -> Any:
        seen.append(Lock.acquire(lock_of(runs, "mine")))
        return real(self, *arguments)

    monkeypatch.setattr(RetrievalModule, "test_step", look)
    assert main(words) == 0
    assert seen and set(seen) == {None}
    assert [path.name for path in runs.iterdir()] == ["mine"]


SHARED = """
import sys
from pathlib import Path
from tvr_bench.lock import lock_of, lock_run
run = Path(sys.argv[1])
lock = lock_run(run.parent, run.name)
assert lock is not None
lock.release()
assert lock_of(run.parent, run.name).exists()  # it is the launcher's to give back
(run / "record.json").touch()
"""
FORKED = """
import os, sys, time
from pathlib import Path
from tvr_bench.lock import Lock
assert Lock.acquire(Path(sys.argv[1]))
if os.fork() == 0:
    print(os.getpid(), flush=True)
time.sleep(60)
"""


def test_a_launcher_shares_its_lock_with_the_run_that_it_starts(runs: Path) -> None:
    task = Task("mine", lock_of(runs, "mine"), lambda: runs / "mine")
    command = [sys.executable, "-c", SHARED, str(runs / "mine")]
    (outcome,) = run_tasks("test", [task], lambda *_: command)
    assert outcome.state == "done", outcome.reason
    assert [path.name for path in runs.iterdir()] == ["mine"]


def test_a_forked_child_does_not_keep_the_lock_of_a_killed_process(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FORKED, str(tmp_path / "a.lock")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    assert Lock.acquire(tmp_path / "a.lock") is None
    process.kill()
    process.wait()
    lock = Lock.acquire(tmp_path / "a.lock")
    os.kill(child, signal.SIGKILL)
    assert lock is not None
    lock.release()


@pytest.mark.parametrize(
    "mistake",
    [
        ["data=csv"],
        ["data=csv", "data.file=nowhere.csv"],
        ["data=msrvtt", "data.root=nowhere"],
        ["run.weights=nowhere"],
        ["run.name=a/b"],
    ],
    ids=str,
)
def test_a_mistake_leaves_no_folder(
    mistake: list[str], words: list[str], runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word for word in words if not word.startswith("data.")]
    assert main([*words, *mistake]) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1 and "unknown key" not in printed
    assert not runs.exists()


@pytest.mark.parametrize("settings", [[], ["log.tensorboard=true"], ["trainer.workers=2"]], ids=str)
def test_an_error_before_the_first_step_is_done_leaves_nothing(
    settings: list[str], words: list[str], runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _stop_at(monkeypatch, 0)
    with pytest.raises(Killed):
        main([*words, *settings])
    assert not runs.exists()


def test_what_others_put_there_stays(
    words: list[str], runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = runs / "mine" / "config.yaml"
    notes.parent.mkdir(parents=True)
    notes.write_text("seed: 0\n")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        _stop_at(patch, 0)
        main(words)
    assert [path.name for path in notes.parent.iterdir()] == ["config.yaml"]


def test_a_run_that_is_interrupted_keeps_what_it_goes_on_with(
    words: list[str],
    runs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupt(self: RetrievalModule, *_: Any) -> None:
        if self.trainer.global_step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(RetrievalModule, "on_train_batch_start", interrupt)
        assert main(words) == 130
    assert f"--config {runs / 'mine' / 'config.yaml'}" in capsys.readouterr().err
    assert {path.name for path in (runs / "mine").iterdir()} >= {
        *("config.yaml", "tokenizer.json", "checkpoints", "csv")
    }
    assert main(["bench", "--config", str(runs / "mine" / "config.yaml"), "run.name=mine"]) == 0
    assert not (runs / "mine" / "checkpoints").exists()


def test_an_interrupt_before_training_says_to_repeat_the_command(
    words: list[str], runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("tvr_bench.training.build_trainer", interrupt)
    assert main(words) == 143
    assert "the same command goes on from here" in capsys.readouterr().err
    assert not runs.exists()


def test_a_finished_run_keeps_its_weights_and_other_settings_are_named(
    words: list[str], runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 0
    assert {path.name for path in (runs / "mine").iterdir()} == {
        *("config.yaml", "tokenizer.json", "model.safetensors", "record.json", "ranks.npz", "csv")
    }
    capsys.readouterr()
    assert main([*words, "trainer.steps=20"]) == 2
    printed = capsys.readouterr().err
    assert "is finished with other settings (trainer.steps 3, not 20)" in printed
    assert "not trained further" in printed and printed.count("\n") == 1
    tested = [*words, f"run.weights={runs / 'mine'}", "run.name=again"]
    assert main(tested) == 0
    one, other = (runs / name / "model.safetensors" for name in ("mine", "again"))
    assert one.read_bytes() == other.read_bytes()


def test_checkpoints_stay_where_they_are_asked_for(words: list[str], runs: Path) -> None:
    assert main([*words, "trainer.keep_checkpoints=true"]) == 0
    kept = {path.name for path in (runs / "mine" / "checkpoints").iterdir()}
    assert {"last.ckpt", "best.ckpt"} <= kept


def test_nothing_is_removed_before_the_record_is_there(
    words: list[str], runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("tvr_bench.bench.save_record", full)
        main(words)
    assert (runs / "mine" / "checkpoints" / "last.ckpt").exists()
    assert main(words) == 0


@pytest.mark.parametrize(
    "umask", [0o002, *(pytest.param(u, marks=pytest.mark.slow) for u in (0o022, 0o077))]
)
def test_all_that_a_run_writes_has_the_permissions_of_the_umask(
    umask: int, words: list[str], tmp_path: Path
) -> None:
    more = ["run.picture=true", "log.tensorboard=true", f"paths.cache={tmp_path / 'cache'}"]
    few = ["data.train=8", "data.val=4", "data.test=4", "trainer.keep_checkpoints=true"]
    tmp_path.chmod(0o777 & ~umask)
    before = os.umask(umask)
    try:
        assert main([*words, *more, *few]) == 0
        assert main(["export", str(tmp_path / "runs" / "mine"), str(tmp_path / "model")]) == 0
    finally:
        os.umask(before)
    found = {path: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    wrong = {
        str(path.relative_to(tmp_path)): oct(mode)
        for path, mode in found.items()
        if mode != (0o777 if path.is_dir() else 0o666) & ~umask
    }
    assert len(found) > 20 and wrong == {}
