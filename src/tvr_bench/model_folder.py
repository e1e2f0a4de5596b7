"""The folder of a trained model, of a run or from the hub; nothing here imports torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import OmegaConf

from tvr_bench import config
from tvr_bench.errors import UserError
from tvr_bench.plain_yaml import unusual
from tvr_bench.schema import Config

CONFIG_FILE = "config.yaml"
TOKENIZER_FILE = "tokenizer.json"
WEIGHTS_FILE = "model.safetensors"
TOWERS = "towers"  # folder of the shapes of pretrained towers
_FILES = {CONFIG_FILE: 100_000, TOKENIZER_FILE: 100_000_000, WEIGHTS_FILE: None}  # most bytes
_MOST_LAYERS = 1_000
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def on_hub(where: str | Path) -> bool:
    """Return whether `where` is no folder and can be a name on the Hugging Face hub."""
    folder = Path(where)
    named = _HUB_NAME.fullmatch(str(where)) is not None
    return not folder.is_dir() and named and not folder.parent.is_dir()


def find(where: str | Path, revision: str | None = None) -> Path:
    """Return the folder of a trained model, downloaded where `where` is a name on the hub.

    Raises UserError where there is none, or where one of its files is a link that leads out of it.
    """
    folder = Path(where)
    if on_hub(where):
        folder = _download(str(where), revision)
    resolved = folder.resolve()
    # the hub's cache has links to the files beside
    top = resolved.parents[1] if resolved.parent.name == "snapshots" else resolved
    for name, most in _FILES.items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{where} is no finished run: it has no {name}; give a run's folder")
        if most is not None and path.stat().st_size > most:
            raise UserError(f"{path} is larger than {most:,} bytes; is it a model's?")
    for path in (*(folder / name for name in _FILES), *(folder / TOWERS).glob("*")):
        if not path.resolve().is_relative_to(top):
            raise UserError(f"{path} is a link that leads out of {where}; copy the file itself")
    return folder


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    wanted = [*_FILES, f"{TOWERS}/*.json"]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
    except (OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise UserError(
            f"{name} is no folder, and not on the Hugging Face hub ({reason}); give a run's folder"
        ) from error


def read_config(folder: Path) -> Config:
    """Return the settings of a trained model's folder; UserError for anything but plain YAML."""
    path = folder / CONFIG_FILE
    try:
        text = path.read_text(encoding="utf-8")
        reason = "it refers to something outside of it" if "${" in text else unusual(text)
    except (yaml.YAMLError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
    if reason:
        raise UserError(f"{path} is not the configuration of a model ({reason}); export it again")
    cfg = config.load(file=path)
    for key, value in config.flat(cast(Any, OmegaConf.to_container(cast(Any, cfg)))).items():
        if "layers" in key and isinstance(value, int) and value > _MOST_LAYERS:
            raise UserError(f"{path} asks for {key}={value}; the most is {_MOST_LAYERS}")
    return cfg
