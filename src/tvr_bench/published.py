"""Trained models back from a folder or the hub, read as a stranger's: data, and never code.

A folder has `config.yaml`, `tokenizer.json`, `model.safetensors` and, where the towers came
pretrained, their shapes in `towers/*.json`. Its YAML may hold plain keys and values alone, and the
model that it describes is held to the tensors that are there before any memory is taken for it.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from tvr_bench.config import load
from tvr_bench.datamodules.tokens import load_tokenizer
from tvr_bench.errors import UserError
from tvr_bench.model_folder import CONFIG_FILE as CONFIG_FILE
from tvr_bench.model_folder import TOKENIZER_FILE as TOKENIZER_FILE
from tvr_bench.model_folder import WEIGHTS_FILE as WEIGHTS_FILE
from tvr_bench.model_folder import find as find
from tvr_bench.model_folder import read_config as read_config
from tvr_bench.models.base import RetrievalModule
from tvr_bench.models.layers import tower_files, towers
from tvr_bench.registry import build_model
from tvr_bench.schema import ELSEWHERE, PLACES, Config
from tvr_bench.transfer import READING, anywhere, check, leaves, on_data, plain

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
    cfg = on_data(dict(leaves(portable(theirs))), list(overrides.items()))
    check(theirs, cfg, where, READING)
    with towers.without_weights(folder, needed=True):
        _check_fit(cfg, folder / WEIGHTS_FILE)
        model = build_model(cfg)
    fill(model, folder)
    _check_tokens(model, folder)
    return model.eval()


def portable(cfg: Config) -> dict[str, Any]:
    """Return the settings without what belongs to a machine: folders, files, devices.

    These are what a plain run of the same model and data set has.
    """
    usual = _usual(cfg.model.name, cfg.data.name, cfg.track, cfg.backbone.name)
    kept = cast(dict[str, Any], _without_places(plain(cfg), usual))
    if tower_files.is_folder(cfg.backbone):
        kept["backbone"]["weights"] = None
    kept |= {section: dict(usual[section]) for section in PLACES}
    for name, part in plain(load(anywhere(cfg).items())).items():
        if isinstance(part, dict) and name not in PLACES:
            kept[name] |= {key: value for key, value in part.items() if key in ELSEWHERE}
    return kept


@cache
def _usual(model: str, data: str, track: str, backbone: str) -> dict[str, Any]:
    names = [f"model={model}", f"data={data}", f"track={track}", f"backbone.name={backbone}"]
    return plain(load(names))


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
