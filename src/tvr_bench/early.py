"""What can be said of a run before torch is imported, which takes seconds."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tvr_bench import config, model_folder
from tvr_bench.errors import UserError
from tvr_bench.schema import FILES, FOLDERS, Config

# CUDA, also under WSL and on a Jetson, and ROCm; torch says what they can do
_GPUS = ("nvidia*", "dxg", "nvhost*", "nvgpu*", "nvmap", "kfd", "dri/renderD*")


def check(cfg: Config, devices: Path = Path("/dev")) -> None:
    """Raise UserError where a run cannot begin: its data, its weights or its devices lack.

    Of several processes that a launcher started the first says it, which the run itself sees to.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ or "SLURM_STEP_NUM_TASKS" in os.environ:
        return
    check_data(cfg)
    if cfg.run.weights and not model_folder.on_hub(cfg.run.weights):
        model_folder.find(cfg.run.weights)
    if cfg.trainer.accelerator == "gpu" and no_gpu(devices):
        raise few_gpus(cfg.trainer.devices, 0)
    check_sharing(cfg)


def check_data(cfg: Config) -> None:
    """Raise UserError where the data set's files are not named, or not where they are named."""
    data = cfg.data
    apart = all(data.get(key) for key in ("annotations", "videos"))
    for key, what in config.needs(data.name).items():
        if not data[key.removeprefix("data.")] and not apart:
            raise UserError(f"data={data.name} needs {key}={what}")
    for key in FILES:
        if not (place := data.get(key)):
            continue
        if key in FOLDERS and not Path(place).is_dir():
            raise UserError(f"data.{key}={place} is no folder; give the data set's folder")
        if not Path(place).exists():
            raise UserError(f"data.{key}={place} does not exist; give the path of a file")


def no_gpu(devices: Path = Path("/dev")) -> bool:
    """Return whether this machine has no GPU for certain; False where only torch can tell."""
    return sys.platform == "linux" and not any(next(devices.glob(one), None) for one in _GPUS)


def few_gpus(wanted: int, found: int) -> UserError:
    """Return the error of a run that wants more GPUs than there are."""
    return UserError(
        f"trainer.devices={wanted} GPUs asked for and {found} found; lower it or set "
        "trainer.accelerator=cpu"
    )


def check_sharing(cfg: Config) -> None:
    """Raise UserError where the devices of a run cannot share its work."""
    world = cfg.trainer.devices * cfg.trainer.nodes
    if cfg.trainer.batch_size % world:
        raise UserError(
            f"a batch of {cfg.trainer.batch_size} cannot be shared evenly by {world} devices; "
            f"set trainer.batch_size={cfg.trainer.batch_size // world * world or world}"
        )
    if cfg.trainer.strategy == "fsdp" and world == 1:
        raise UserError(
            "trainer.strategy=fsdp shares a model out and there is one device; leave it at auto"
        )
