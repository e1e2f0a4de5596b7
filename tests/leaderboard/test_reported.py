"""What the papers report: as printed, with a source, and nothing that could not be read."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from tvr_bench.errors import UserError
from tvr_bench.leaderboard.reported import as_printed, read_reported, reported_row

PAPER = """
model: x
title: X
venue: Y 2030
results:
  - {system: X, data: d, split: s, t2v: {R@1: 12.5}, source: Table 1}
tables:
  - data: d
    split: s
    source: Table 1
    columns: [t2v_R@1, v2t_MdR]
    flags: {Z: odd}
    rows:
      Z: [1.5, null]
"""


def _read(folder: Path, text: str) -> list[tuple[str, dict[str, float], dict[str, float]]]:
    (folder / "x.yaml").write_text(text)
    return [
        (r.result.system, dict(r.result.t2v), dict(r.result.v2t)) for r in read_reported(folder)
    ]


def test_own_results_then_the_papers_tables_of_others(tmp_path: Path) -> None:
    assert _read(tmp_path, PAPER) == [("X", {"R@1": 12.5}, {}), ("Z", {"R@1": 1.5}, {})]
    own, other = read_reported(tmp_path)
    assert (own.result.role, other.result.role) == ("own", "baseline")
    assert other.result.flags == ["odd"]
    row = reported_row(other)
    assert (row["kind"], row["t2v_R@1"], row["red_flags"]) == ("reported", 1.5, "odd")
    assert "rank" not in row and "group" not in row
    assert read_reported(tmp_path / "absent") == []


@pytest.mark.parametrize(
    "change",
    [
        ("[1.5, null]", "[1.5]"),
        ("t2v_R@1", "R@1"),
        ("R@1: 12.5", "R@2: 12.5"),
        ("R@1: 12.5", "R@1: .nan"),
        ("source: Table 1}", "sauce: Table 1}"),
        ("source: Table 1}", "source: Table 1, confidence: high}"),
        ("model: x", "model: ["),
    ],
)
def test_a_faulty_file_is_named_in_one_line(tmp_path: Path, change: tuple[str, str]) -> None:
    with pytest.raises(UserError, match=r"x\.yaml") as caught:
        _read(tmp_path, PAPER.replace(*change))
    assert "\n" not in str(caught.value)


def test_the_shipped_files_hold_all_four_papers_and_no_number_without_a_source() -> None:
    found = read_reported()
    assert {one.paper.model for one in found} == {"tcard", "cret", "bicnet", "eercf"}
    for one in found:
        result = one.result
        numbers = {**result.t2v, **result.v2t}
        assert bool(numbers) == (result.confidence != "none"), result
        assert result.source
        for values in (result.t2v, result.v2t):
            recalls = [values[name] for name in ("R@1", "R@5", "R@10") if name in values]
            assert recalls == sorted(recalls)  # a slip of the pen would most likely break this
            assert all(0 < value < 100 for value in recalls)
    assert not [r for r in found if r.paper.model == "bicnet" and (r.result.t2v or r.result.v2t)]


def test_red_flags_are_carried() -> None:
    flags: dict[tuple[str, str], str] = defaultdict(str)
    for one in read_reported():
        flags[one.result.system, one.result.data] += " ".join(one.result.flags)
    assert "45.0" in flags["TCD", "textvr"]
    assert "copy error" in flags["TCD", "msrvtt"]
    assert "misprint" in flags["Text-Condition alone, tau 1", "textvr"]
    assert "85.7" in flags["EERCF", "msrvtt"]
    assert "test split" in flags["BiC-Net", "msrvtt"]


def test_digits_are_those_of_print() -> None:
    assert [as_printed("R@1", 42.0), as_printed("MdR", 5.0), as_printed("MdR", 29.5)] == [
        *("42.0", "5", "29.5")
    ]
    assert as_printed("MnR", None) == "-"
