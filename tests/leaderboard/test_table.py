"""The leaderboard's files: every digit, left-out records, hostile names."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from leaderboard.fake_runs import make_split, write_run
from tvr_bench.errors import UserError
from tvr_bench.leaderboard.record import Record, save_record
from tvr_bench.leaderboard.table import COLUMNS, RUN_COLUMNS, build_leaderboard

RecordFactory = Callable[..., Record]
Ranks = dict[str, np.ndarray]
FILES = {"leaderboard.csv", "leaderboard.md", "leaderboard.html", "runs.csv"}


def _quality(r1: float, mnr: float = 7.0) -> dict[str, float]:
    return {"R@1": r1, "R@5": 60.0, "R@10": 70.0, "R@50": 90.0, "MdR": 2.0, "MnR": mnr}


def test_a_row_per_run_has_every_digit_and_both_directions(
    make_record: RecordFactory, ranks: Ranks, tmp_path: Path
) -> None:
    record = make_record(metrics__v2t=_quality(100 / 3))
    save_record(record, tmp_path / "runs" / "deep" / "one", ranks)
    paths = build_leaderboard(tmp_path / "runs", tmp_path)
    (row,) = csv.DictReader(io.StringIO(paths.runs_csv.read_text()))
    assert tuple(row)[: len(RUN_COLUMNS)] == RUN_COLUMNS
    assert float(row["v2t_R@1"]) == 100 / 3
    assert float(row["RSum"]) == pytest.approx(48.1 + 68.1 + 78.1 + 100 / 3 + 130)
    assert (row["seed"], row["folder"]) == ("0", "deep/one")
    assert (row["in_group:temporal"], row["chance:temporal"]) == ("23.0", "25.0")
    assert (row["gflops_pair"], row["pairs_scored"], row["ocr"]) == ("", "43264", "rapidocr")


def test_a_row_per_system_is_the_mean_of_its_seeds(tmp_path: Path) -> None:
    for seed in range(3):
        write_run(tmp_path / "runs", f"r{seed}", seed=seed, run__wall_s=seed)
    write_run(tmp_path / "runs", "other", model="meanpool", strength=0.0)
    paths = build_leaderboard(tmp_path / "runs", tmp_path)
    assert (paths.runs, paths.systems, paths.warnings) == (4, 2, ())
    with open(paths.csv, newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0])[: len(COLUMNS)] == COLUMNS
    measured = [row for row in rows if row["kind"] == "measured"]
    assert [row["model"] for row in measured] == ["tcard", "meanpool"]
    runs = pd.read_csv(paths.runs_csv)
    mine = runs[runs["model"] == "tcard"]
    for name in ("t2v_R@1", "v2t_MnR", "RSum", "in_group:temporal", "wall_s"):
        assert float(measured[0][name]) == pytest.approx(mine[name].mean(), abs=1e-12)
    assert float(measured[0]["t2v_R@1_sd"]) == pytest.approx(mine["t2v_R@1"].std(), abs=1e-12)
    assert (measured[0]["seeds"], measured[0]["seed_list"]) == ("3", "0 1 2")
    assert set(mine["system"]) == {measured[0]["system"]}
    assert measured[1]["t2v_R@1_sd"] == ""
    assert pd.read_csv(paths.csv)["t2v_R@1"].dtype == float


def test_reported_rows_stand_apart(tmp_path: Path) -> None:
    write_run(tmp_path / "runs", "one")
    paths = build_leaderboard(tmp_path / "runs", tmp_path)
    table = pd.read_csv(paths.csv)
    kinds = table["kind"].tolist()
    assert kinds == sorted(kinds) and set(kinds) == {"measured", "reported"}
    reported = table[table["kind"] == "reported"]
    assert reported[["rank", "group", "lead", "seeds"]].isna().all(axis=None)
    assert reported["source"].notna().all()
    text = paths.markdown.read_text()
    assert text.index("| tcard |") < text.index("## As the papers report") < text.index("| TCD |")


def test_building_again_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write_run(tmp_path / "runs", name, model=name, split=make_split(16))

    def build() -> dict[str, bytes]:
        build_leaderboard(tmp_path / "runs", tmp_path / "out")
        return {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    first = build()
    assert set(first) == FILES
    assert build() == first


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
    assert (paths.runs, paths.systems) == (1, 1)
    assert len(paths.warnings) == 3  # the ranks of the good one are not those of its record
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
        rows = [row for row in csv.DictReader(file) if row["kind"] == "measured"]
    assert [row["model"] for row in rows] == names
    page = paths.markdown.read_text(encoding="utf-8")
    lines = page[: page.index("## As the papers report")].splitlines()
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
    assert (paths.runs, paths.systems, paths.warnings) == (0, 0, ())
    assert paths.csv.read_text().splitlines()[0] == ",".join(COLUMNS)
    assert paths.runs_csv.read_text() == ",".join(RUN_COLUMNS) + "\n"
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
    assert {p.name for p in tmp_path.iterdir()} == {"runs", *FILES}


def test_a_folder_whose_name_is_no_text_is_listed(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "runs", "plain", split=make_split(16))
    os.rename(folder, os.fsencode(folder.parent) + b"/\xff\xfe")
    paths = build_leaderboard(tmp_path / "runs", tmp_path)
    assert paths.runs == 1
    assert "plain" in paths.html.read_text(encoding="utf-8")
