"""The share of cores and GPUs of runs that go on at the same time."""

from __future__ import annotations

import os

import pytest

from tvr_bench.launch.slots import Slot, slots


def test_one_at_a_time_has_everything() -> None:
    assert slots(1) == [Slot()]


@pytest.mark.parametrize(
    ("jobs", "expected"),
    [
        (2, [{0, 2, 4}, {1, 3}]),
        (5, [{0}, {1}, {2}, {3}, {4}]),
        (7, [{0}, {1}, {2}, {3}, {4}, {0}, {1}]),
    ],
)
def test_cores_are_shared_out(
    jobs: int, expected: list[set[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(5)))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert [slot.cores for slot in slots(jobs)] == expected
    assert all(not slot.environment for slot in slots(jobs))


def test_gpus_are_shared_out_unless_a_run_takes_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    names = [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in slots(3, ["trainer.devices=1"])]
    assert names == ["4", "6", "4"]
    assert not slots(2, ["trainer.devices=2"])[0].environment
    assert not slots(2, ["trainer.accelerator=cpu"])[0].environment
