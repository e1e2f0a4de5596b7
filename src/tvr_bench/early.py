"""What can be said of a run before torch is imported, which takes seconds."""

from __future__ import annotations

import errno
import os
import re
import sys
from pathlib import Path

from tvr_bench import config, model_folder
from tvr_bench.datamodules import csv_rows
from tvr_bench.errors import UserError
from tvr_bench.models.layers import tower_files
from tvr_bench.schema import FILES, FOLDERS, Config

_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"  # a run's name is a folder's and a record's id
# CUDA, also under WSL and on a Jetson, and ROCm; torch says what they can do
_GPUS = ("nvidia*", "dxg", "nvhost*", "nvgpu*", "nvmap", "kfd", "dri/renderD*")


def check(cfg: Config, devices: Path = Path("/dev")) -> None:
    """Raise UserError where a run cannot begin: its data, weights, devices or folders lack.

    Of several processes that a launcher started the first says it, which the run itself sees to.
    """
    if _launched():
        return
    check_data(cfg)
    if cfg.run.weights and not model_folder.on_hub(cfg.run.weights):
        model_folder.find(cfg.run.weights)
    if not cfg.run.weights and tower_files.folder_of(cfg.backbone) is not None:
        tower_files.check(cfg)
    if cfg.trainer.accelerator == "gpu" and no_gpu(devices):
        raise few_gpus(cfg.trainer.devices, 0)
    check_sharing(cfg)
    check_cache(cfg)
    check_name(cfg.run.name)
    _check_folder(Path(cfg.run.root), "run.root")
    _check_folder(Path(cfg.paths.cache), "paths.cache")


def check_name(name: str | None) -> None:
    """Raise UserError where a run cannot be called `name`."""
    if name is not None and not re.fullmatch(_NAME, name):
        raise UserError(
            f"run.name={name!r} is impossible; use letters, digits, '_', '-' and '.' (not first)"
        )


def no_folder(path: Path, error: int | None, key: str) -> UserError:
    """Return the error of a folder that cannot be made, by the system's number of the reason."""
    reason = os.strerror(error or errno.EIO)
    return UserError(f"cannot make the folder {path}: {reason}; choose another {key}")


def _check_folder(path: Path, key: str) -> None:
    if path.is_dir():
        return
    nearest = next(one for one in (path, *path.absolute().parents) if one.exists())
    if not nearest.is_dir():
        raise no_folder(path, errno.ENOTDIR, key)
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise no_folder(path, errno.EACCES, key)


def announce(cfg: Config) -> None:
    """Tell a person what begins, so that the seconds in which libraries load are not silent."""
    if sys.stderr.isatty() and not _launched():
        begins = f"{cfg.model.name} on {cfg.data.name}, seed {cfg.seed}: loading PyTorch"
        print(begins, file=sys.stderr, flush=True)


def _launched() -> bool:
    """Return whether a launcher started this process as one of several."""
    return "TORCHELASTIC_RUN_ID" in os.environ or "SLURM_STEP_NUM_TASKS" in os.environ


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
    if data.get("file"):
        csv_rows.check_place(Path(data.file))


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


def check_cache(cfg: Config) -> None:
    """Raise UserError where what the image tower makes of a clip cannot be kept."""
    if not cfg.backbone.cache:
        return
    if cfg.backbone.name == "features":
        raise UserError("backbone=features has no tower to encode with; set backbone.cache=false")
    if cfg.backbone.frozen == "none":
        raise UserError(
            "backbone.cache keeps what a frozen image tower makes of the frames; set "
            "backbone.frozen=image, or backbone.cache=false"
        )
    if cfg.trainer.shift or cfg.trainer.mirror:
        raise UserError(
            "backbone.cache keeps every clip as it is; set trainer.shift=0 and "
            "trainer.mirror=false, or backbone.cache=false"
        )
