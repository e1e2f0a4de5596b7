"""Cores and threads: what the machine, the container and the user leave."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tvr_bench.cores import _quota, cores, free_gb, told_threads


@pytest.mark.parametrize(
    ("own", "above", "expected"),
    [
        ("max 100000", "max 100000", math.inf),
        ("150000 100000", "max 100000", 1.5),
        ("max 100000", "50000 100000", 0.5),
        ("400000 100000", "200000 100000", 2),
        ("what", "300000 100000", 3),
    ],
)
def test_a_container_has_the_least_share_of_its_groups(
    own: str, above: str, expected: float, tmp_path: Path
) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "cpu.max").write_text(own + "\n")
    (tmp_path / "a" / "cpu.max").write_text(above + "\n")
    assert _quota(tmp_path, "/a/b") == expected


def test_there_is_a_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tvr_bench.cores._quota", lambda *_: 0.3)
    assert cores() == 1


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"OMP_NUM_THREADS": "1"}, 1),
        ({"OMP_NUM_THREADS": "4,2", "MKL_NUM_THREADS": "8"}, 4),
        ({"MKL_NUM_THREADS": "8"}, 8),
        ({"OMP_NUM_THREADS": "0"}, None),
        ({"OMP_NUM_THREADS": "many"}, None),
    ],
    ids=str,
)
def test_the_environment_may_name_the_threads(
    environment: dict[str, str], expected: int | None
) -> None:
    assert told_threads(environment) == expected


def test_memory_that_can_be_had_is_some_of_the_machines() -> None:
    assert 0 < free_gb() < 1e6
