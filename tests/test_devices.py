"""Runs on several devices: who is who, what is refused, and what a strategy does to a model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric.utilities.rank_zero import rank_zero_only
from torch import Tensor, nn

from tvr_bench import config, devices
from tvr_bench.bench import bench
from tvr_bench.devices import Place, place_of
from tvr_bench.errors import UserError
from tvr_bench.registry import create_model
from tvr_bench.schema import Config
from tvr_bench.strategies import blocks, single_numbers, unused_parameters

TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none",
    "RANK": "5",
    "LOCAL_RANK": "1",
    "GROUP_RANK": "2",
    "WORLD_SIZE": "6",
    "LOCAL_WORLD_SIZE": "2",
}
SLURM = {
    "SLURM_STEP_NUM_TASKS": "6",
    "SLURM_NTASKS": "6",
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "2",
}


def _asked(number: int = 1, nodes: int = 1) -> Config:
    return config.load([f"trainer.devices={number}", f"trainer.nodes={nodes}"])


def test_a_process_that_nobody_launched_is_the_first() -> None:
    assert place_of(_asked(), {}) == Place()
    assert place_of(_asked(3), {}) == Place(world=3) and Place(world=3).first


def test_a_process_that_the_first_one_has_started_knows_its_place() -> None:
    started = {"TVR_STORE": "4711 1", "LOCAL_RANK": "2"}
    assert place_of(_asked(3), started) == Place("ours", 2, 2, 0, 3)


@pytest.mark.parametrize(
    ("environment", "launcher"),
    [(TORCHRUN, "torchrun"), (SLURM, "slurm")],
    ids=["torchrun", "slurm"],
)
def test_launchers_say_which_process_this_is(environment: dict[str, str], launcher: str) -> None:
    place = place_of(_asked(2, 3), environment)
    assert place == Place(launcher, rank=5, local=1, node=2, world=6) and not place.first
    with pytest.raises(UserError, match=r"6 processes.*trainer\.devices=2 trainer\.nodes=3"):
        place_of(_asked(6), environment)


def test_a_slurm_job_of_one_process_starts_its_own() -> None:
    """A batch script has SLURM's variables, too, but none of a step of several tasks."""
    alone = SLURM | {"SLURM_STEP_NUM_TASKS": "1"}
    assert place_of(_asked(2), alone) == Place(world=2)
    assert place_of(_asked(2), {k: v for k, v in SLURM.items() if "STEP" not in k}).world == 2


def test_slurm_without_its_tasks_per_node_and_nodes_without_a_launcher_are_said() -> None:
    with pytest.raises(UserError, match="ntasks-per-node"):
        place_of(_asked(2, 3), {k: v for k, v in SLURM.items() if "PER_NODE" not in k})
    with pytest.raises(UserError, match="torchrun --nnodes 2 --nproc-per-node 4"):
        place_of(_asked(4, 2), {})


def test_lightning_gets_the_environment_of_the_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    strategy: Any = devices.strategy(_asked(2, 3))
    environment = strategy.cluster_environment
    assert type(environment).__name__ == "SLURMEnvironment" and not environment.auto_requeue
    ranks = environment.global_rank(), environment.local_rank(), environment.node_rank()
    assert (*ranks, environment.world_size()) == (5, 1, 2, 6)
    environment.validate_settings(2, 3)


def test_one_device_needs_no_strategy_and_several_have_the_timeout_asked_for() -> None:
    assert devices.strategy(_asked()) == "auto"
    for name, kind in (("auto", "WholeStrategy"), ("fsdp", "ShardedStrategy")):
        words = ["trainer.devices=2", "trainer.timeout=7", f"trainer.strategy={name}"]
        strategy: Any = devices.strategy(config.load(words))
        assert type(strategy).__name__ == kind
        assert strategy._timeout.total_seconds() == 7


def test_too_many_gpus_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for accelerator in ("gpu", "auto"):
        cfg = config.load([f"trainer.accelerator={accelerator}", "trainer.devices=8"])
        with pytest.raises(UserError, match=r"trainer\.devices=8 .*1"):
            devices.check(cfg)
    devices.check(config.load(["trainer.accelerator=cpu", "trainer.devices=8"]))
    devices.check(config.load(["trainer.accelerator=gpu", "trainer.devices=1"]))


def test_a_batch_that_devices_cannot_share_is_refused_and_so_is_one_part_of_a_model() -> None:
    words = ["trainer.accelerator=cpu", "trainer.devices=3", "trainer.batch_size=32"]
    with pytest.raises(UserError, match=r"batch of 32 .* 3 devices; set trainer\.batch_size=30"):
        devices.check(config.load(words))
    devices.check(config.load([*words, "trainer.batch_size=33"]))
    with pytest.raises(UserError, match="one device"):
        devices.check(config.load(["trainer.strategy=fsdp"]))


def test_threads_are_shared_by_the_processes_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    cores = len(os.sched_getaffinity(0))
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert devices.threads(config.load([])) == 3
    assert devices.threads(config.load(["trainer.threads=5"])) == 5
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    assert devices.threads(config.load(["trainer.threads=5", "trainer.devices=2"])) == 5
    words = ["trainer.threads=null", f"trainer.devices={4 * cores}", "trainer.accelerator=cpu"]
    assert devices.threads(config.load(words)) == 1


SMALL: dict[str, Any] = {
    "video.size": [32, 48],
    "video.frames": 2,
    "text.words": 4,
    "text.vocab": 300,
    "backbone.weights": "none",
    "backbone.width": 16,
    "backbone.heads": 2,
}
CRET: dict[str, Any] = SMALL | {"model.ccm.heads": 2}


def _batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "text_ids": torch.randint(3, 300, (2, 4), generator=generator),
        "text_mask": torch.ones(2, 4).bool(),
        "frames": torch.randint(0, 256, (2, 2, 3, 32, 48), generator=generator).byte(),
        "frame_mask": torch.ones(2, 2).bool(),
    }


def test_unused_parameters_are_found_without_a_trace() -> None:
    model = create_model("cret", **CRET)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.get_rng_state()
    assert unused_parameters(model, _batch()) == []
    part = create_model("cret", **CRET, **{"model.branches": "local"})
    torch.set_rng_state(random)
    unused = unused_parameters(part, _batch())
    assert unused and all(name.startswith("network.image.") for name in unused)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model._logs and all(torch.equal(model.state_dict()[k], v) for k, v in before.items())


def test_the_layers_of_the_towers_are_the_blocks_of_a_model_in_parts() -> None:
    model = create_model("meanpool", **SMALL, **{"backbone.layers": 3, "backbone.text_layers": 2})
    found = list(blocks(model.network))
    assert len(found) == 5 and len({type(block) for block in found}) == 1
    assert not any(isinstance(block, nn.Linear) for block in found)
    assert [parameter is model.log_scale for parameter in single_numbers(model)] == [True]


STALE = {"RANK": "3", "LOCAL_RANK": "3", "GROUP_RANK": "1", "WORLD_SIZE": "8"}
STALE |= {"MASTER_ADDR": "node7", "MASTER_PORT": "29500"}
IN_A_JOB = {"SLURM_PROCID": "3", "SLURM_LOCALID": "3", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "7"}
IN_A_JOB |= {"SLURM_NTASKS_PER_NODE": "4", "SLURM_NNODES": "2", "SLURM_STEP_NUM_TASKS": "1"}


@pytest.mark.parametrize(
    "left", [{"RANK": "3"}, {"LOCAL_RANK": "3"}, {"TORCHELASTIC_RUN_ID": "x"}, STALE, IN_A_JOB]
)
def test_a_rank_that_another_launch_has_left_is_none(
    left: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in left.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(rank_zero_only, "rank", 3)  # as Lightning reads it when imported
    assert place_of(_asked(), left) == Place()
    with devices.together(_asked()) as team:
        assert team.first
    assert rank_zero_only.rank == 0
    environment: Any = devices.strategy(_asked(2)).cluster_environment  # type: ignore[union-attr]
    assert not environment.creates_processes_externally
    assert environment.main_address == "127.0.0.1" and environment.node_rank() == 0


def test_a_mistake_in_a_process_with_a_rank_left_over_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only the other processes of a real launch leave it to the first one."""
    for name, value in (STALE | IN_A_JOB).items():
        monkeypatch.setenv(name, value)

    def gone(code: int) -> None:
        raise AssertionError(f"ended with {code}, without a word")

    monkeypatch.setattr(os, "_exit", gone)
    with (
        pytest.raises(UserError, match="torchrun --nnodes 2"),
        devices.together(_asked(1, 2)),
    ):
        pass


@pytest.mark.parametrize("left", [STALE, IN_A_JOB])
def test_a_run_writes_its_logs_whatever_rank_was_left(
    left: dict[str, str], tiny_settings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in left.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(rank_zero_only, "rank", 3)
    cfg = config.load([*tiny_settings, "model=meanpool", "run.name=left", "log.tensorboard=true"])
    assert bench(cfg) is not None
    folder = Path(cfg.run.root) / "left"
    assert (folder / "csv" / "metrics.csv").stat().st_size > 0
    assert [*folder.glob("tensorboard/events*")]
