"""The metrics file: whole rows, one header, and a resumed run that repeats none."""

from __future__ import annotations

import csv
from pathlib import Path

from tvr_bench.rows import RowLogger

TRAIN = [{"train/loss": 2.0 - i / 3, "epoch": i // 2} for i in range(4)]


def _log(path: Path, begin: int = 0, keep: int = 0, end: int = 4) -> RowLogger:
    """Log the rows of a small run from one position to another; validation comes after the third.

    The position counts rows: 3 of training, 1 of validation, 1 of training.
    """
    logger = RowLogger(path)
    logger.keep(keep)
    rows = [*TRAIN[:3], {"val/R@1": 25.0, "epoch": 1}, TRAIN[3]]
    for step in range(begin, end):
        logger.log_metrics(rows[step], step)
    return logger


def test_rows_come_back(tmp_path: Path) -> None:
    logger = _log(tmp_path, end=5)
    with open(logger.path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["epoch", "step", "train/loss", "val/R@1"]
    assert [float(row["train/loss"]) for row in rows if row["train/loss"]] == [
        row["train/loss"] for row in TRAIN
    ]
    assert rows[3]["val/R@1"] == "25.0" and rows[3]["train/loss"] == ""
    assert logger.rows == 5


def test_a_resumed_run_writes_the_same_bytes(tmp_path: Path) -> None:
    whole = _log(tmp_path / "whole", end=5).path.read_bytes()
    for kept in range(5):
        for lost in range(kept, 6):
            folder = tmp_path / f"{kept}-{lost}"
            _log(folder, end=lost)
            assert _log(folder, begin=kept, keep=kept, end=5).path.read_bytes() == whole


def test_a_torn_row_is_dropped(tmp_path: Path) -> None:
    path = _log(tmp_path, end=3).path
    path.write_bytes(path.read_bytes()[:-4])
    _log(tmp_path, begin=2, keep=2, end=5)
    assert path.read_bytes() == _log(tmp_path / "whole", end=5).path.read_bytes()
