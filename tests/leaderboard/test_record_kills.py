"""Many processes write records and make the leaderboard while some are killed: no row is lost."""

from __future__ import annotations

import csv
import json
import os
import resource
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

from leaderboard.fake_runs import make_split, write_run
from tvr_bench.errors import UserError
from tvr_bench.leaderboard.record import load_ranks, load_record
from tvr_bench.leaderboard.table import build_leaderboard

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def writers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return __import__("record_writers")


def _write(work: Path, processes: int, rows: int, kills: int, every: int) -> None:
    script = BENCHMARKS / "record_writers.py"
    numbers = [str(n) for n in (processes, rows, kills, every)]
    command = [sys.executable, str(script), "ours", str(work), *numbers]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["kills"] == kills and found["looks"] > 0 and found["torn_looks"] == 0
    logs = [line for log in work.glob("log-*") for line in log.read_text().split()]
    acknowledged = [line[1:] for line in logs if line[0] == "+"]
    expected = {f"w{i:03d}-r{j:04d}" for i in range(processes) for j in range(rows)}
    assert set(acknowledged) == expected and len(logs) == len(expected)
    _hold_tables(work, expected)
    for name in expected:
        folder = work / "runs" / name
        assert load_ranks(load_record(folder), folder)


def _hold_tables(work: Path, expected: set[str]) -> None:
    """Read the tables with two readers: each row once, one header, every line whole."""
    assert Counter(pd.read_csv(work / "runs.csv")["run_id"]) == Counter(expected)
    for name in ("runs.csv", "leaderboard.csv"):
        with open(work / name, newline="", encoding="utf-8") as file:
            header, *lines = csv.reader(file)
        assert {len(line) for line in lines} == {len(header)} and header not in lines
    table = pd.read_csv(work / "leaderboard.csv")
    assert table[table["kind"] == "measured"]["seeds"].tolist() == [len(expected)]
    assert f"1 system, {len(expected)} runs" in (work / "leaderboard.html").read_text()


def test_four_writers_and_three_kills_lose_no_row(tmp_path: Path) -> None:
    _write(tmp_path / "work", processes=4, rows=15, kills=3, every=8)


@pytest.mark.soak
def test_eight_writers_and_twenty_kills_lose_no_row_in_the_long_run(tmp_path: Path) -> None:
    _write(tmp_path / "work", processes=8, rows=100, kills=20, every=25)


def test_a_full_disk_leaves_all_tables_as_they_were(tmp_path: Path) -> None:
    write_run(tmp_path / "runs", "one", split=make_split(16))
    build_leaderboard(tmp_path / "runs", tmp_path)
    tables = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    room = len(tables["runs.csv"]) + 1  # enough for some tables and not for all
    assert room < len(tables["leaderboard.html"])
    write_run(tmp_path / "runs", "two", seed=1, split=make_split(16))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        with pytest.raises(UserError, match=r"cannot write .*leaderboard.*free some space"):
            build_leaderboard(tmp_path / "runs", tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == tables


def test_what_a_killed_process_left_beside_the_tables_is_removed_when_old(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    old, young = (tmp_path / f".0123456789a{n}.tmp.html" for n in range(2))
    for path in (old, young):
        path.write_text("<html>")
    os.utime(old, (1, 1))
    build_leaderboard(tmp_path / "runs", tmp_path)
    assert not old.exists() and young.exists(), "a young one may be in use"


def test_what_is_lost_doubled_or_torn_is_counted(writers: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "log-0").write_text("".join(f"+w000-r000{i}\n" for i in range(4)))
    (tmp_path / "log-1").write_text("+w001-r0000\n-w001-r0001\n")
    lines = ["run_id,a,b", "w000-r0000,1,2", "w000-r0001,1", "run_id,a,b", "w000-r0002,1,2"]
    lines += ["w000-r0002,1,2", "w001-r0000,1,2", "w009-r0000,1,2"]
    (tmp_path / "runs.csv").write_text("\n".join(lines))
    assert writers.left(tmp_path) == {
        "acknowledged": 5,
        "refused": 1,
        "once": 2,
        "lost": 2,
        "twice": 1,
        "torn": 1,
        "headers": 2,
    }


@pytest.mark.parametrize(
    ("text", "whole"),
    [("a,b\n1,2\n", True), ("a,b\n", True), ("", False), ("a,b\n1", False), ("a,b\n1,2", False)],
)
def test_a_reader_tells_a_torn_table(writers: ModuleType, text: str, whole: bool) -> None:
    assert writers._whole(text, ".csv") is whole
    assert not writers._whole(text, ".json") and writers._whole(text + "{}\n", ".json")
