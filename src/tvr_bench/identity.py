"""What a training is: settings, data and code. A checkpoint of another one is not gone on from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

from tvr_bench.config import load
from tvr_bench.datamodules.base import VideoTextDataModule
from tvr_bench.errors import UserError
from tvr_bench.files import settings_hash
from tvr_bench.schema import Config, numbers

_SHOWN = 3  # differences in one line
_AGAIN = "choose another run.name, or set run.force=true to go on all the same"


def settings(cfg: Config) -> dict[str, Any]:
    """Return the settings that can change a number, by section."""
    return numbers(cast(Any, OmegaConf.to_container(cast(Any, cfg), resolve=True)))


def identity(cfg: Config, data: VideoTextDataModule) -> dict[str, Any]:
    """Return what a resumed training must share with the one that it continues."""
    import torch

    return {
        "settings": settings(cfg),
        "annotations": {name: data.annotations_hash(name) for name in data.prepared},
        "unreadable": {name: settings_hash(sorted(data.failed(name))) for name in data.prepared},
        "code": {
            "tvr-bench": version("tvr-bench"),
            "torch": str(torch.__version__),
            "source": SOURCE,
        },
    }


def _source() -> str:
    """Return 16 hex digits that depend on every Python file of this package."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


SOURCE = _source()  # taken at the start, for the files may be edited while a run goes on


def differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return one text for every key that differs, such as "optim.lr 0.1, not 0.2"."""
    before, after = dict(_leaves(was)), dict(_leaves(now))
    names = [key for key in (*before, *after) if before.get(key) != after.get(key)]
    return [f"{key} {before.get(key)}, not {after.get(key)}" for key in dict.fromkeys(names)]


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:  # a checkpoint gives a list back as a list
            yield f"{prefix}{key}", list(value) if isinstance(value, tuple) else value


def changed_settings(path: Path, cfg: Config) -> str:
    """Return where the configuration in `path` could give other numbers than `cfg`, in words."""
    return _listed(differences(settings(load([], path)), settings(cfg)))


def check_settings(path: Path, cfg: Config) -> None:
    """Raise UserError where the configuration in `path` could give other numbers than `cfg`."""
    if found := changed_settings(path, cfg):
        raise UserError(f"run {path.parent} was begun with other settings ({found}); {_AGAIN}")


def check_identity(path: Path, was: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise UserError, naming what differs, where checkpoint `path` is of another training."""
    if found := differences(was, now):
        raise UserError(f"checkpoint {path} is of another training ({_listed(found)}); {_AGAIN}")


def _listed(found: list[str]) -> str:
    more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return "; ".join(found[:_SHOWN]) + more
