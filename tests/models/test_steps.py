"""The training step of every model on one, two and three processes: the same loss and gradients."""

from __future__ import annotations

import subprocess
import sys

import pytest
import step_worker
import torch
from torch import Tensor

from tvr_bench.registry import list_models

Found = dict[str, dict[str, Tensor]]


@pytest.fixture(scope="module")
def alone() -> list[dict[str, Tensor]]:
    """What one process finds with the whole batch, case by case."""
    return [
        step_worker.step(step_worker.build(i), step_worker.batch())
        for i in range(len(step_worker.CASES))
    ]


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.slow)])
def together(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[Found]:
    """What each of several processes finds; the first of them is this one."""
    folder, world = tmp_path_factory.mktemp("steps"), request.param
    command = [sys.executable, step_worker.__file__, str(folder)]
    others = [subprocess.Popen([*command, str(i), str(world)]) for i in range(1, world)]
    try:
        step_worker.main(folder, 0, world)
        assert [process.wait(timeout=600) for process in others] == [0] * (world - 1)
    finally:
        for process in others:
            process.kill()
            process.wait()
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(world)]


def _assert_equal(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        largest = max(1.0, float(value.abs().max()))
        assert float((found[name] - value).abs().max()) <= 1e-6 * largest, name


@pytest.mark.parametrize("number", range(len(step_worker.CASES)))
def test_several_processes_have_the_loss_and_gradients_of_one(
    number: int, alone: list[dict[str, Tensor]], together: list[Found]
) -> None:
    wanted = alone[number]
    assert max(float(value.abs().max()) for value in wanted.values()) > 1e-2
    for found in together:
        _assert_equal(found[f"ddp {number}"], wanted)


@pytest.mark.parametrize("number", step_worker.SHARDED)
def test_a_model_in_parts_has_the_loss_and_gradients_of_a_whole_one(
    number: int, alone: list[dict[str, Tensor]], together: list[Found]
) -> None:
    for found in together:
        _assert_equal(found[f"fsdp {number}"], alone[number])


def test_every_model_is_here() -> None:
    assert {name for name, _ in step_worker.CASES} == set(list_models())
