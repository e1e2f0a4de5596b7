"""Kept results: what was written, or made again; never something else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tvr_bench.records import read_records, records_path, write_records

RECORDS = {"a": {"windows": [[0.1, 1.25, ["hôtel", "777"]]]}, "b": {"error": "no video"}}

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda data: data[:-9],
    "empty": lambda data: b"",
    "a letter": lambda data: data.replace(b"777", b"778"),
    "zeros": lambda data: data[:40] + bytes(20) + data[60:],
    "a list": lambda data: b"[]",
    "deep": lambda data: b"[" * 200_000,
    "without a checksum": lambda data: b'{"a": {"error": "x"}}',
    "not UTF-8": lambda data: data + b"\xff",
}


def _written(folder: Path) -> Path:
    path = records_path(folder, RECORDS)
    write_records(path, RECORDS)
    write_records(records_path(folder, "c"), {"c": {"windows": []}})
    return path


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    _written(tmp_path)
    assert read_records(tmp_path) == RECORDS | {"c": {"windows": []}}
    assert read_records(tmp_path / "none") == {}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_said_and_removed_to_be_made_again(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = _written(tmp_path)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    assert read_records(tmp_path) == {"c": {"windows": []}} == read_records(tmp_path)
    assert not path.exists() and caplog.text.count(str(path)) == 1


def test_what_is_worth_another_try_is_forgotten(tmp_path: Path) -> None:
    _written(tmp_path)
    assert "b" not in read_records(tmp_path, retry=lambda record: "error" in record)
    assert read_records(tmp_path).keys() == {"a", "c"}
