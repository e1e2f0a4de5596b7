"""Trained models back from a folder or the hub, read as a stranger's: data, and never code.

A folder has `config.yaml`, `tokenizer.json`, `model.safetensors` and, where the towers came
pretrained, their shapes in `towers/*.json`. Its YAML may hold plain keys and values alone, and the
model that it describes is held to the tensors that are there before any memory is taken for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from omegaconf import OmegaConf
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from tvr_bench.config import load
from tvr_bench.datamodules.tokens import load_tokenizer
from tvr_bench.errors import UserError
from tvr_bench.models.base import RetrievalModule
from tvr_bench.models.layers import towers
from tvr_bench.plain_yaml import unusual
from tvr_bench.registry import build_model
from tvr_bench.schema import ELSEWHERE, PLACES, Config
from tvr_bench.transfer import READING, check, on_data

CONFIG_FILE = "config.yaml"
TOKENIZER_FILE = "tokenizer.json"
WEIGHTS_FILE = "model.safetensors"
_FILES = {CONFIG_FILE: 100_000, TOKENIZER_FILE: 100_000_000, WEIGHTS_FILE: None}  # most bytes
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_MOST_LAYERS = 1_000
_TYPES = {
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16},
    **{"I64": torch.int64, "I32": torch.int32, "U8": torch.uint8, "BOOL": torch.bool},
}


def load_model(
    where: str | Path, *, revision: str | None = None, **overrides: Any
) -> RetrievalModule:
    """Return a trained model, in evaluation mode and with its tokenizer.

    `where` is the folder of an export or of a run, or a name on the Hugging Face hub with its
    `revision`. Folders, and what else only a machine has to do with, are the defaults; `overrides`
    are keys of the configuration, such as `**{"data.root": "/data/MSRVTT"}`; `data="csv"` and its
    keys are for other data than it was trained on. Raises UserError for anything that is no model,
    and for settings that contradict its training; nothing in it is ever executed.
    """
    folder = find(where, revision)
    theirs = read_config(folder)
    cfg = on_data(dict(_leaves(portable(theirs))), list(overrides.items()))
    check(theirs, cfg, where, READING)
    with towers.without_weights(folder, needed=True):
        _check_fit(cfg, folder / WEIGHTS_FILE)
        model = build_model(cfg)
    fill(model, folder)
    _check_tokens(model, folder)
    return model.eval()


def find(where: str | Path, revision: str | None = None) -> Path:
    """Return the folder of a trained model, downloaded where `where` is a name on the hub.

    Raises UserError where there is none, or where one of its files is a link that leads out of it.
    """
    folder = Path(where)
    if not folder.is_dir() and _HUB_NAME.fullmatch(str(where)) and not folder.parent.is_dir():
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
    for path in (*(folder / name for name in _FILES), *(folder / towers.FOLDER).glob("*")):
        if not path.resolve().is_relative_to(top):
            raise UserError(f"{path} is a link that leads out of {where}; copy the file itself")
    return folder


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    wanted = [*_FILES, f"{towers.FOLDER}/*.json"]
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
    cfg = load(file=path)
    for key, value in _leaves(_plain(cfg)):
        if "layers" in key and isinstance(value, int) and value > _MOST_LAYERS:
            raise UserError(f"{path} asks for {key}={value}; the most is {_MOST_LAYERS}")
    return cfg


def portable(cfg: Config) -> dict[str, Any]:
    """Return the settings without what belongs to a machine: folders, files, devices.

    These are what a plain run of the same model and data set has.
    """
    usual = _usual(cfg.model.name, cfg.data.name, cfg.track, cfg.backbone.name)
    kept = cast(dict[str, Any], _without_places(_plain(cfg), usual))
    kept |= {section: dict(usual[section]) for section in PLACES}
    for name, part in usual.items():
        if isinstance(part, dict) and name not in PLACES:
            kept[name] |= {key: value for key, value in part.items() if key in ELSEWHERE}
    return kept


@cache
def _usual(model: str, data: str, track: str, backbone: str) -> dict[str, Any]:
    names = [f"model={model}", f"data={data}", f"track={track}", f"backbone.name={backbone}"]
    return _plain(load(names))


def _without_places(value: Any, usual: Any) -> Any:
    """Return `value` without the texts in place of which there is usually nothing."""
    if isinstance(value, dict):
        return {key: _without_places(one, usual[key]) for key, one in value.items()}
    return usual if isinstance(value, str) and usual in (None, "") else value


def fill(model: RetrievalModule, folder: Path) -> None:
    """Put the weights and the tokenizer of a folder into a model; UserError where they do not fit.

    The shapes of pretrained towers must have been the folder's.
    """
    model.tokenizer = load_tokenizer(folder / TOKENIZER_FILE, model.cfg.text.words)
    try:
        model.load_state_dict(load_file(folder / WEIGHTS_FILE))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise _misfit(folder / WEIGHTS_FILE, str(error)) from error


def _check_fit(cfg: Config, path: Path) -> None:
    """Raise UserError where the tensors in a file are not those of the model of a configuration."""
    try:
        with safe_open(path, framework="pt") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
            there = {
                key: (tuple(one.get_shape()), _TYPES.get(one.get_dtype()))
                for key, one in slices.items()
            }
        with torch.device("meta"):
            state = build_model(cfg).state_dict()
    except UserError:
        raise
    except Exception as error:  # a stranger's sizes may be impossible in any way
        raise _misfit(path, str(error)) from error
    wanted = {key: (tuple(value.shape), value.dtype) for key, value in state.items()}
    for key in sorted({*wanted, *there}):
        if wanted.get(key) != there.get(key):
            raise _misfit(path, f"{key} is {_said(there.get(key))}, not {_said(wanted.get(key))}")


def _said(tensor: tuple[Any, Any] | None) -> str:
    return "not there" if tensor is None else f"{list(tensor[0])} {tensor[1]}"


def _misfit(path: Path, reason: str) -> UserError:
    line = (reason.splitlines() or ["no reason given"])[0][:160]
    return UserError(f"{path} does not fit the model ({line}); repeat the run, or export it again")


def _check_tokens(model: RetrievalModule, folder: Path) -> None:
    """Raise UserError where the tokenizer has tokens that the model has not."""
    assert model.tokenizer is not None
    highest = max(model.tokenizer.get_vocab().values(), default=0)
    ids = torch.tensor([[highest]])
    try:
        with torch.no_grad():
            model.backbone.encode_text(ids, torch.ones_like(ids, dtype=torch.bool))
    except UserError:  # it reads no texts
        return
    except (IndexError, RuntimeError) as error:
        raise UserError(
            f"{folder / TOKENIZER_FILE} is another model's: it has a token {highest}; export again"
        ) from error


def _plain(cfg: Config) -> dict[str, Any]:
    return cast(dict[str, Any], OmegaConf.to_container(cast(Any, cfg), resolve=True))


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
