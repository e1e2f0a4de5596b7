"""Weights of the tiny towers to and from a folder: stored in half precision, used in single."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from tvr_bench.errors import UserError
from tvr_bench.files import atomic_path, atomic_write, file_sha256
from tvr_bench.models.layers import tower_files, towers
from tvr_bench.models.layers.tower_files import CARD_FILE, TOKENIZER_FILE, WEIGHTS_FILE
from tvr_bench.schema import Config


def load(network: nn.Module, cfg: Config) -> None:
    """Put the weights that `backbone.weights` names into the tiny towers `network`.

    They get a `trained_scale`, at which their training ended, and their hash as `pretrained`.
    Raises UserError where the folder does not fit or is damaged; nothing in it is executed.
    """
    folder = tower_files.folder_of(cfg.backbone)
    assert folder is not None
    card = tower_files.check(cfg)
    path = folder / WEIGHTS_FILE
    try:
        network.load_state_dict({key: one.float() for key, one in load_file(path).items()})
    except (SafetensorError, RuntimeError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise tower_files.damaged(path, reason) from error
    if (content := towers.content(network)) != card["weights_sha256"]:
        raise tower_files.damaged(path, "its weights are not those of the card")
    network.trained_scale = float(card["logit_scale"])  # type: ignore[assignment]
    network.pretrained = {tower_files.BACKBONE: content}  # type: ignore[assignment]


def save(network: nn.Module, tokenizer: str, card: Mapping[str, Any], folder: Path) -> None:
    """Write tiny towers, their tokenizer (the text of its file) and a card with their hashes.

    Raises UserError for weights that half precision cannot hold.
    """
    halves = {key: one.detach().cpu().half() for key, one in network.state_dict().items()}
    if not all(bool(torch.isfinite(one).all()) for one in halves.values()):
        raise UserError("the weights are too large for half precision; lower optim.lr")
    with atomic_path(folder / WEIGHTS_FILE) as path:
        save_file({key: one.contiguous() for key, one in halves.items()}, path)
    atomic_write(folder / TOKENIZER_FILE, tokenizer)
    used = {key: one.float() for key, one in halves.items()}
    hashes = {
        "weights_sha256": towers.content_of(used),
        "tokenizer_sha256": file_sha256(folder / TOKENIZER_FILE),
    }
    text = json.dumps({**card, **hashes}, indent=1, ensure_ascii=False)
    atomic_write(folder / CARD_FILE, text + "\n")
