"""Which pretrained weights lie here, without opening them and without a network."""

from __future__ import annotations

import os
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tvr_bench.errors import UserError
from tvr_bench.models.layers.hub import CAIT_BERT, CLIP, OPENAI, PICKLE, SAFE
from tvr_bench.schema import Config

_TITLES = {"clip_vit_b32": "CLIP ViT-B/32", "clip_vit_b16": "CLIP ViT-B/16"}
_TITLES |= {"cait_s24_224": "CaiT-S/24", "bert-base-uncased": "BERT-base"}


State = Literal["ok", "note", "missing", "broken"]


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, in what state it is, and what to do.

    `needed`: the run that was asked about cannot do without.
    """

    section: str
    name: str
    state: State
    text: str = ""
    todo: str = ""
    needed: bool = False

    @property
    def blocks(self) -> bool:
        """Whether this keeps the run from working."""
        return self.needed and self.state in ("missing", "broken")


@dataclass(frozen=True)
class Found:
    """One set of weights, of a backbone or an OCR engine: where it is, or what to do.

    `note`: not here, but a run would fetch it.
    """

    name: str
    backbone: str
    state: State
    text: str
    todo: str = ""


def find_towers(cfg: Config) -> list[Found]:
    """Return what is found of every pretrained tower, in the place that the settings name."""
    weights = cfg.backbone.weights
    found = [
        _clip(name, weights if cfg.backbone.name == name else None, repository)
        for name, repository in CLIP.items()
    ]
    folder = weights if cfg.backbone.name == "cait_bert" else None
    for part, repository in CAIT_BERT.items():
        place = str(Path(folder) / part) if folder else None
        needs = ("config.json",) if part.startswith("cait") else ("config.json", "tokenizer.json")
        found.append(_repository(part, "cait_bert", place, repository, needs, (SAFE,)))
    return found


def find_engine(name: str, weights: str | None) -> Found:
    """Return what is found of an OCR engine's models."""
    try:
        from tvr_bench.media.ocr import engine_version

        return Found(name, "", "ok", f"models found ({engine_version(name, weights)})")
    except UserError as error:
        return Found(name, "", "missing", str(error))
    except Exception as error:  # a broken OpenCV is a finding as well
        text = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        return Found(name, "", "broken", text, f"pip install --force-reinstall {name}")


def _clip(name: str, weights: str | None, repository: str) -> Found:
    if weights and (Path(weights).is_file() or Path(weights).suffix == ".pt"):
        return _openai(name, Path(weights))
    named = repository if weights is None or Path(weights).is_dir() else weights
    place = weights if weights and (Path(weights).is_dir() or weights.count("/") != 1) else None
    return _repository(name, name, place, named, ("config.json", "tokenizer.json"), (SAFE, PICKLE))


def _openai(name: str, path: Path) -> Found:
    official = next(file for file, (backbone, _) in OPENAI.items() if backbone == name)
    title = _TITLES[name]
    if not path.is_file():
        return Found(title, name, "missing", f"there is no {path}", f"fetch OpenAI's {official}")
    if not zipfile.is_zipfile(path):
        text = f"{path} is damaged or no file of weights"
        return Found(title, name, "broken", text, f"fetch OpenAI's {official} again")
    beside = path.with_name("tokenizer.json")
    if not beside.is_file() and _in_cache(CLIP[name], "tokenizer.json") is None:
        todo = f"put tokenizer.json of {CLIP[name]} beside it"
        return Found(title, name, _fetched(), f"{path} has no tokenizer beside it", todo)
    return Found(title, name, "ok", str(path))


def _repository(
    part: str,
    backbone: str,
    place: str | None,
    repository: str,
    needs: tuple[str, ...],
    weights: tuple[str, ...],
) -> Found:
    """Return what is found of a folder `place`, or with none of a repository in the hub's cache."""

    def look(file: str) -> Path | None:
        path = Path(place) / file if place else _in_cache(repository, file)
        return path if path is not None and path.is_file() else None

    title = _TITLES[part]
    there = [path for file in weights if (path := look(file))]
    lacks = [file for file in needs if not look(file)]
    files = f"{', '.join(needs)} and {' or '.join(weights)} of {repository}"
    if not there or lacks:
        wanted = ", ".join([*lacks, *([] if there else weights[:1])])
        if place:
            return Found(
                title, backbone, "missing", f"{place} has no {wanted}", f"put {files} there"
            )
        text = f"{repository} is not in the hub's cache" + ("" if not there else f": no {wanted}")
        folder = "FOLDER" if backbone == part else f"FOLDER/{part}"
        todo = f"a run fetches it where there is a network; or put {files} into {folder} and set "
        return Found(title, backbone, _fetched(), text, f"{todo}backbone.weights=FOLDER")
    if damage := _damage(there[0]):
        return Found(title, backbone, "broken", f"{there[0]} {damage}", f"fetch {repository} again")
    return Found(title, backbone, "ok", str(there[0].parent))


def _fetched() -> State:
    """Return the state of what the hub has and this machine has not."""
    off = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    return "missing" if off else "note"


def _in_cache(repository: str, file: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, file)
    return Path(found) if isinstance(found, str) else None


def _damage(path: Path) -> str:
    """Return what is wrong with a file of weights at first sight, "" for nothing."""
    if path.suffix != ".safetensors":
        return "" if zipfile.is_zipfile(path) else "is damaged or no file of weights"
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(9)
    if len(head) < 9 or head[8:] != b"{" or struct.unpack("<Q", head[:8])[0] + 8 > size:
        return "is damaged or no safetensors"
    return ""
