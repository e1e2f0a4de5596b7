"""Processes that load batches and hang, die or are left over."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from tvr_bench.cli import main
from tvr_bench.datamodules import loaders, patience
from tvr_bench.datamodules.items import TrainItems, VideoItems
from tvr_bench.datamodules.patience import PatientLoader
from tvr_bench.errors import UserError
from tvr_bench.signals import Stop, Stopped

ITEMS, BAD = 40, 20
HOW: dict[str, Callable[[], Any]] = {
    "sleeps": lambda: time.sleep(1000),
    "stops": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "dies": lambda: os.kill(os.getpid(), signal.SIGKILL),
}


class Numbers(Dataset[torch.Tensor]):
    """Its numbers; at one of them the process that reads it does what it says."""

    def __init__(self, at: int = -1, how: str = "") -> None:
        self.at, self.how = at, how

    def __len__(self) -> int:
        return ITEMS

    def __getitem__(self, index: int) -> torch.Tensor:
        if index == self.at:
            HOW[self.how]()
        return torch.full((3,), index)


def loader(data: Dataset[torch.Tensor], workers: int = 2, patience: float = 1.0) -> PatientLoader:
    begin = partial(loaders._begin, sockets=tempfile.gettempdir())
    keywords = {"persistent_workers": workers > 0, "worker_init_fn": begin}
    return PatientLoader(data, patience=patience, batch_size=4, num_workers=workers, **keywords)


def processes_end(before: list[Any]) -> bool:
    gc.collect()  # a loader whose process died is in the traceback; it would fail in later tests
    end = time.monotonic() + 20
    while set(multiprocessing.active_children()) - set(before):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.parametrize("how", ["sleeps", "stops"])
def test_a_process_that_hangs_is_ended_and_said(how: str) -> None:
    before = multiprocessing.active_children()
    batches = loader(Numbers(BAD, how))
    with pytest.raises(UserError, match=r"no batch came for 1 s: .* raise trainer\.timeout"):
        list(batches)
    del batches
    assert processes_end(before)


def test_so_is_one_that_hangs_at_the_turn_of_an_epoch() -> None:
    before = multiprocessing.active_children()
    batches = loader(Numbers())
    assert len(list(batches)) == ITEMS // 4
    (one, _) = set(multiprocessing.active_children()) - set(before)
    assert one.pid is not None
    os.kill(one.pid, signal.SIGSTOP)
    with pytest.raises(UserError, match="no batch came for 1 s"):
        list(batches)
    del batches
    assert processes_end(before)


def test_processes_end_with_their_loader() -> None:
    before = multiprocessing.active_children()
    batches = loader(Numbers())
    next(iter(batches))
    assert set(multiprocessing.active_children()) - set(before)
    del batches
    assert processes_end(before)


def test_one_that_dies_is_not_said_to_hang() -> None:
    before = multiprocessing.active_children()
    with pytest.raises(RuntimeError, match="DataLoader worker"):
        list(loader(Numbers(BAD, "dies"), patience=60.0))
    assert processes_end(before)


@pytest.mark.parametrize("workers", [0, 2])
def test_patience_is_for_a_batch_not_for_what_is_done_with_it(workers: int) -> None:
    expected = torch.arange(ITEMS)
    batches = loader(Numbers(), workers, patience=0.4)
    for _ in range(2):
        seen = []
        for place, batch in enumerate(batches):
            if place == 1:
                time.sleep(1.0)
            seen.append(batch[:, 0])
        assert torch.equal(torch.cat(seen), expected)


def test_processes_that_are_left_over_do_not_hold_up_the_end_of_python(tmp_path: Path) -> None:
    script = tmp_path / "left.py"
    script.write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_patience import Numbers, loader\n"
        "batches = loader(Numbers())\n"
        "next(iter(batches))\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("items", "how", "what"),
    [
        (TrainItems, "stops", "no batch came for 2 s"),
        (TrainItems, "dies", "was killed, as when memory"),
        (VideoItems, "dies", "was killed, as when memory"),
    ],
)
def test_a_run_ends_with_one_line_and_is_taken_up(
    items: Any,
    how: str,
    what: str,
    tiny_settings: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = multiprocessing.active_children()
    real = items.__getitems__

    def fails(self: Any, picks: Any) -> Any:
        if items is VideoItems or picks[0][0] == 1:  # of training in the second epoch
            HOW[how]()
        return real(self, picks)

    words = ["bench", *tiny_settings, "model=meanpool", "run.name=lost", "trainer.steps=6"]
    words += ["trainer.workers=2", "trainer.timeout=2"]
    if items is VideoItems:
        words += ["trainer.epochs=0", "trainer.steps=null"]  # so that the test is what fails
    with monkeypatch.context() as patch:
        patch.setattr(items, "__getitems__", fails)
        assert main(words) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert what in line and "goes on from the last checkpoint" in line
    assert processes_end(before)
    assert main(words) == 0


def test_a_signal_that_waits_for_a_batch_waits_some_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(patience, "_LAST_S", 0.5)
    before = multiprocessing.active_children()
    batches = loader(Numbers(BAD, "sleeps"), patience=600.0)
    with pytest.raises(KeyboardInterrupt) as end, Stop() as stop:
        stop.waiting = True  # for the end of a step, which needs a batch
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped):
            list(batches)
        raise Stopped(stop.number)
    assert getattr(end.value, "code", None) == 128 + signal.SIGTERM
    del batches
    assert processes_end(before)


def test_batches_come_where_the_path_of_temporary_files_is_too_long_for_a_socket(
    tiny_settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 90)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    words = ["bench", *tiny_settings, "model=meanpool", "trainer.workers=1", "trainer.timeout=8"]
    assert main(words) == 0
    assert tempfile.tempdir == str(long)


def test_no_folder_for_sockets_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaders, "_SOCKET", 3)
    with pytest.raises(UserError, match=r"too long; set TMPDIR .* or trainer\.workers=0"):
        loaders._folder_of_sockets()


def test_too_few_open_files_are_said_at_once(
    tiny_settings: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loaders.resource, "getrlimit", lambda _: (20, 20))
    words = ["bench", *tiny_settings, "model=meanpool", "trainer.workers=2", "trainer.steps=1"]
    assert main(words) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "open files and 20 are allowed; say `ulimit -n" in line


def test_a_batch_that_came_holds_no_file_open() -> None:
    before = len(os.listdir("/proc/self/fd"))
    batches = loader(Numbers(), workers=1)
    kept = list(batches)
    assert len(kept) == ITEMS // 4
    assert len(os.listdir("/proc/self/fd")) - before < len(kept)
    del batches
