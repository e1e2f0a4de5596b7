"""The folder of pretrained tiny towers: weights, tokenizer and a card that says what they are.

`backbone.weights` of backbone tiny is `signvid` (those in the package), `none`, or such a folder.
Nothing here imports torch, so that a folder that does not fit is said at once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from tvr_bench.errors import UserError
from tvr_bench.files import file_sha256
from tvr_bench.schema import BackboneConfig, Config

BACKBONE, SHIPPED, NONE = "tiny", "signvid", "none"
WEIGHTS_FILE, TOKENIZER_FILE, CARD_FILE = "towers.safetensors", "tokenizer.json", "card.json"
PACKAGE = Path(__file__).with_name("signvid_towers")
# whatever decides the shape of a weight, or what a weight is about
SIZES = (
    *("video.size", "text.words", "text.vocab"),
    *("backbone.width", "backbone.layers", "backbone.text_layers", "backbone.heads"),
    *("backbone.mlp", "backbone.patch", "backbone.motion", "backbone.grid"),
)
_MOST = {WEIGHTS_FILE: 1_000_000_000, TOKENIZER_FILE: 100_000_000, CARD_FILE: 1_000_000}  # bytes
_SHA256 = re.compile(r"[0-9a-f]{64}")


def is_folder(backbone: BackboneConfig) -> bool:
    """Return whether the tiny towers come from a folder of the user's."""
    return backbone.name == BACKBONE and backbone.weights not in (None, NONE, SHIPPED)


def folder_of(backbone: BackboneConfig) -> Path | None:
    """Return the folder of the pretrained tiny towers, None for other towers or from scratch."""
    if backbone.name != BACKBONE or backbone.weights in (None, NONE):
        return None
    return PACKAGE if backbone.weights == SHIPPED else Path(str(backbone.weights))


def sizes_of(cfg: Config) -> dict[str, Any]:
    """Return the sizes that a configuration gives the towers, as JSON has them."""
    values = ((key, OmegaConf.select(cfg, key)) for key in SIZES)  # type: ignore[arg-type]
    return {key: value if isinstance(value, int) else list(value) for key, value in values}


def check(cfg: Config) -> dict[str, Any]:
    """Return the card of the towers that a configuration names.

    Raises UserError where the folder is none of towers, where its tokenizer is not the one of its
    card, and where the configuration asks for other sizes, with the key to set.
    """
    folder = folder_of(cfg.backbone)
    assert folder is not None
    card = read_card(folder)
    for key, here in sizes_of(cfg).items():
        if (theirs := card["towers"].get(key)) != here:
            raise UserError(
                f"the towers of backbone.weights={cfg.backbone.weights} have {key}={_said(theirs)},"
                f" not {_said(here)}; set {key}={_said(theirs)}, or backbone.weights=none to train "
                "your own"
            )
    if file_sha256(folder / TOKENIZER_FILE) != card["tokenizer_sha256"]:
        raise damaged(folder / TOKENIZER_FILE, "it is not the one of the card")
    return card


def read_card(folder: Path) -> dict[str, Any]:
    """Return the card in a folder of towers; UserError where it is none, or no folder of any."""
    for name, most in _MOST.items():
        path = folder / name
        if not path.is_file():
            raise UserError(
                f"{folder} is no folder of towers: it has no {name}; `tvr-bench pretrain "
                "--to FOLDER` makes one, and backbone.weights=none goes without"
            )
        if path.stat().st_size > most:
            raise damaged(path, f"it is larger than {most:,} bytes")
    path = folder / CARD_FILE
    try:
        card = json.loads(path.read_bytes())
        if not isinstance(card, dict) or not isinstance(card.get("towers"), Mapping):
            raise ValueError("it has no sizes")
        for key in ("weights_sha256", "tokenizer_sha256"):
            if not _SHA256.fullmatch(str(card.get(key))):
                raise ValueError(f"it has no {key}")
        if not isinstance(card.get("logit_scale"), (int, float)):
            raise ValueError("it has no logit_scale")
    except (ValueError, RecursionError) as error:
        raise damaged(path, " ".join(str(error).split())[:120]) from error
    return card


def damaged(path: Path, reason: str) -> UserError:
    """Return the one error for a file that is not what was written."""
    return UserError(
        f"{path} is damaged or of other towers ({reason}); copy the folder again, or make it anew "
        "with `tvr-bench pretrain`"
    )


def _said(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
