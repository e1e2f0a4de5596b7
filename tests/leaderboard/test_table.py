"""The leaderboard: groups, ranks, left-out records, hostile names, many writers at once."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tvr_bench.errors import UserError
from tvr_bench.leaderboard.record import Record, save_record
from tvr_bench.leaderboard.table import (
    COLUMNS,
    build_leaderboard,
    group_hash,
    leaderboard_rows,
    protocol_key,
)

RecordFactory = Callable[..., Record]
Ranks = dict[str, np.ndarray]


def _quality(r1: float, mnr: float = 7.0) -> dict[str, float]:
    return {"R@1": r1, "R@5": 60.0, "R@10": 70.0, "R@50": 90.0, "MdR": 2.0, "MnR": mnr}


def _ranked(records: list[Record]) -> list[tuple[str, int]]:
    rows = leaderboard_rows([(record.run.id, record) for record in records])
    return [(row["run_id"], row["rank"]) for row in rows]


def test_protocol_in_words(make_record: RecordFactory) -> None:
    assert protocol_key(make_record()) == "single|12f|224x224|32w|best_val"
    full = make_record(
        protocol__resolution=(112, 80),
        protocol__postprocess="dsl",
        protocol__two_stage=50,
        data__missing_ids=["a", "b"],
    )
    assert protocol_key(full) == "single|12f|112x80|32w|best_val|dsl|top50|2missing"


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("data__name", "msrvtt"),
        ("data__variant", "base"),
        ("data__annotations_sha256", "c" * 64),
        ("data__clips", 207),
        ("data__missing_ids", ["a"]),
        ("protocol__split", "val"),
        ("protocol__captions", "all"),
        ("protocol__frames", 8),
        ("protocol__resolution", (112, 112)),
        ("protocol__words", 20),
        ("protocol__selection", "best_test"),
        ("protocol__postprocess", "dsl"),
        ("protocol__two_stage", 10),
    ],
)
def test_another_protocol_is_another_group(
    make_record: RecordFactory, place: str, value: object
) -> None:
    other = make_record(**{place: value, "run__id": "other"})
    assert group_hash(other) != group_hash(make_record())
    assert [rank for _, rank in _ranked([make_record(), other])] == [1, 1]


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("run__seed", 7),
        ("model__name", "meanpool"),
        ("protocol__ocr", {"enabled": False}),
        ("data__failed", ["a"]),
        ("efficiency__device", "gpu"),
    ],
)
def test_a_models_own_choices_share_a_group(
    make_record: RecordFactory, place: str, value: object
) -> None:
    assert group_hash(make_record(**{place: value})) == group_hash(make_record())


def test_ranks_by_r1_then_the_rest_and_ties_share(make_record: RecordFactory) -> None:
    quality = {
        "c": _quality(40.0),
        "b": _quality(40.0),
        "slow": _quality(40.0, mnr=9.0),
        "best": _quality(50.0),
        "last": _quality(9.0),
    }
    records = [make_record(run__id=name, metrics__t2v=q) for name, q in quality.items()]
    expected = [("best", 1), ("b", 2), ("c", 2), ("slow", 4), ("last", 5)]
    assert _ranked(records) == expected
    assert _ranked(records[::-1]) == expected


def test_csv_has_every_digit_and_both_directions(
    make_record: RecordFactory, ranks: Ranks, tmp_path: Path
) -> None:
    record = make_record(metrics__v2t=_quality(100 / 3))
    save_record(record, tmp_path / "runs" / "deep" / "one", ranks)
    paths = build_leaderboard(tmp_path / "runs", tmp_path)
    (row,) = csv.DictReader(io.StringIO(paths.csv.read_text()))
    assert tuple(row)[: len(COLUMNS)] == COLUMNS
    assert float(row["v2t_R@1"]) == 100 / 3
    assert float(row["RSum"]) == pytest.approx(48.1 + 68.1 + 78.1 + 100 / 3 + 130)
    assert (row["rank"], row["seed"], row["folder"]) == ("1", "0", "deep/one")
    assert (row["in_group:temporal"], row["chance:temporal"]) == ("23.0", "25.0")
    assert (row["gflops_pair"], row["pairs_scored"], row["ocr"]) == ("", "43264", "rapidocr")
    frame = pd.read_csv(paths.csv)
    assert frame["t2v_R@1"].dtype == float


def test_building_again_gives_the_same_bytes(
    make_record: RecordFactory, ranks: Ranks, tmp_path: Path
) -> None:
    for name in ("a", "b", "c"):
        save_record(make_record(run__id=name), tmp_path / "runs" / name, ranks)
    first = build_leaderboard(tmp_path / "runs", tmp_path / "out")
    before = [first.csv.read_bytes(), first.markdown.read_bytes()]
    second = build_leaderboard(tmp_path / "runs", tmp_path / "out")
    assert [second.csv.read_bytes(), second.markdown.read_bytes()] == before
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "leaderboard.csv",
        "leaderboard.md",
    ]


def test_left_out_records_are_named(
    make_record: RecordFactory,
    ranks: Ranks,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    runs = tmp_path / "runs"
    save_record(make_record(run__id="good"), runs / "good", ranks)
    save_record(make_record(run__id="good"), runs / "copied", ranks)
    save_record(make_record(run__id="torn"), runs / "torn", ranks)
    torn = runs / "torn" / "record.json"
    torn.write_bytes(torn.read_bytes()[:200])
    (runs / "empty").mkdir()
    paths = build_leaderboard(runs, tmp_path)
    assert paths.rows == 1
    assert len(paths.warnings) == 2
    assert "repeats run good of copied" in paths.warnings[0]
    assert str(torn) in paths.warnings[1]
    printed = capsys.readouterr().err.splitlines()
    assert printed == [f"warning: {warning}" for warning in paths.warnings]


def test_names_are_raw_in_the_csv_and_harmless_in_markdown(
    make_record: RecordFactory, ranks: Ranks, tmp_path: Path
) -> None:
    names = [
        '=HYPERLINK("http://x")',
        "+1",
        "-4wsuPCjDBc",
        "@sum",
        "a,b",
        "line\nbreak",
        "| --- |",
        "<script>alert(1)</script>",
        "![x](http://x)",
        "ü日本 😀",
    ]
    for i, name in enumerate(names):
        record = make_record(run__id=f"r{i}", model__name=name, metrics__t2v=_quality(50.0 - i))
        save_record(record, tmp_path / "runs" / str(i), ranks)
    paths = build_leaderboard(tmp_path / "runs", tmp_path)
    with open(paths.csv, encoding="utf-8", newline="") as file:
        assert [row["model"] for row in csv.DictReader(file)] == names
    lines = paths.markdown.read_text(encoding="utf-8").splitlines()
    cells = [_cells(line) for line in lines if line.startswith("| ")]
    assert len(cells) == 2 * (len(names) + 2)
    assert len({len(row) for row in cells}) == 2
    text = "\n".join(lines)
    assert "<script" not in text.replace("\\<", "")
    assert "![" not in text


def _cells(line: str) -> list[str]:
    return line.replace("\\\\", "").replace("\\|", "").split("|")


def test_markdown_says_how_it_was_made(
    make_record: RecordFactory, ranks: Ranks, tmp_path: Path
) -> None:
    save_record(make_record(), tmp_path / "runs" / "a", ranks)
    other = make_record(
        run__id="b", protocol__selection="best_test", metrics__by_skill={}, metrics__in_group={}
    )
    save_record(other, tmp_path / "runs" / "b", ranks)
    text = build_leaderboard(tmp_path / "runs", tmp_path).markdown.read_text()
    assert text.count("## signvid small, test") == 2
    assert "only to repeat a paper's protocol" in text
    assert "| 23.0 (25) |" in text
    assert "`make leaderboard`" in text.splitlines()[-2]


def test_no_records_and_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder of runs"):
        build_leaderboard(tmp_path / "runs", tmp_path)
    (tmp_path / "runs").mkdir()
    paths = build_leaderboard(tmp_path / "runs", tmp_path)
    assert (paths.rows, paths.warnings) == (0, ())
    assert paths.csv.read_text() == ",".join(COLUMNS) + "\n"
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="give another folder"):
        build_leaderboard(tmp_path / "runs", tmp_path / "file")


def test_a_failed_write_leaves_the_old_table(
    make_record: RecordFactory, ranks: Ranks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_record(make_record(run__id="a"), tmp_path / "runs" / "a", ranks)
    paths = build_leaderboard(tmp_path / "runs", tmp_path)
    before = paths.csv.read_bytes()
    save_record(make_record(run__id="b"), tmp_path / "runs" / "b", ranks)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match="No space left"):
        build_leaderboard(tmp_path / "runs", tmp_path)
    assert paths.csv.read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} == {"runs", "leaderboard.csv", "leaderboard.md"}


def _write_concurrently(record: Record, work: Path, processes: int, rows: int, kills: int) -> None:
    save_record(record, work / "template", {})
    script = Path(__file__).with_name("concurrent_writers.py")
    numbers = [str(n) for n in (processes, rows, kills)]
    command = [sys.executable, str(script), str(work), str(work / "template"), *numbers]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout.split()[0]) >= min(kills, 1)
    acknowledged = [name for log in work.glob("acknowledged-*") for name in log.read_text().split()]
    table = pd.read_csv(work / "leaderboard.csv")
    assert sorted(table["run_id"]) == sorted(acknowledged)
    assert len(set(acknowledged)) == processes * rows
    assert (work / "leaderboard.csv").read_text().count("run_id") == 1


def test_eight_writers_lose_no_row(make_record: RecordFactory, tmp_path: Path) -> None:
    _write_concurrently(make_record(), tmp_path, processes=8, rows=3, kills=5)


@pytest.mark.slow
def test_eight_writers_lose_no_row_in_the_long_run(
    make_record: RecordFactory, tmp_path: Path
) -> None:
    _write_concurrently(make_record(), tmp_path, processes=8, rows=25, kills=20)
