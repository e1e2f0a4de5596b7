"""How the tiny towers are pretrained: the settings of a run, and what of them makes the weights.

Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

from tvr_bench import config, text_yaml
from tvr_bench.errors import UserError
from tvr_bench.files import settings_hash
from tvr_bench.models.layers.tower_files import BACKBONE
from tvr_bench.schema import Config, numbers

DEFAULTS = ("model=meanpool", "data=stills")


def settings(overrides: Iterable[str] = ()) -> Config:
    """Return the settings of a pretraining run.

    Where they do not say another place, it is a folder of the cache that is named after what they
    are: the same command goes on with the run that it began. Raises UserError as `config.load`
    does, and for other towers than the tiny ones.
    """
    asked = [*DEFAULTS, *overrides]
    cfg = config.load(asked)
    if cfg.backbone.name != BACKBONE:
        raise UserError(f"backbone {cfg.backbone.name} is not pretrained here; leave it at tiny")
    root = str(Path(cfg.paths.cache) / "pretrain")
    name = f"{cfg.data.name}-{settings_hash(numbers(_plain(cfg)), 12)}"
    places = {"run.root": root, "run.leaderboard": root, "run.name": name}
    said = config.given(asked)
    return config.load([*asked, *(pair for pair in places.items() if pair[0] not in said)])


def recipe_of(cfg: Config) -> dict[str, Any]:
    """Return what the file of a pretraining's data set says, as it stands in a configuration.

    Left out is what changes no number. Other settings have the defaults of every run.
    """
    file = text_yaml.read(config.path_of("data", cfg.data.name), "configuration file", "seed: 1")
    named = {"seed", "model.name", *config.flat(file)}
    values = config.flat(numbers(_plain(cfg)))
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in values.items()
        if key in named
    }


def check_new(folder: Path) -> None:
    """Raise UserError where a folder to be made holds something already."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there already; remove it, or give a new folder with --to")


def _plain(cfg: Config) -> dict[str, Any]:
    return cast(dict[str, Any], OmegaConf.to_container(cast(Any, cfg), resolve=True))
