"""A gallery in a folder: one safetensors file with its tensors, and one JSON file with its ids.

The folder appears whole or not at all. The tensors are mapped, not read, so that they are held to
their SHA-256 once and the folder remembers it (`contents.py`); one that cannot be written to is
read whole each time. M vectors, D width.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path

import torch
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tvr_bench.contents import Contents
from tvr_bench.errors import UserError
from tvr_bench.evaluation.coarse import Coarse
from tvr_bench.files import atomic_path, atomic_write, file_sha256, settings_hash

TENSORS_FILE, HEADER_FILE = "gallery.safetensors", "gallery.json"
_FORMAT, _VERSION = "tvr-bench gallery", 2


class Header(BaseModel):
    """What the JSON file of a gallery says: shape, ids, the tensors' file, and who made it."""

    format: str
    version: int
    shape: tuple[int, int]
    norms: tuple[float, float]
    sha256: str
    ids: list[str]
    ids_sha256: str


def write_gallery(
    folder: Path,
    vectors: Tensor,
    ids: Sequence[str],
    coarse: Coarse,
    turn: Tensor | None,
) -> None:
    """Write a gallery to a new folder.

    Raises UserError where something is there already, or it cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there already; give a new folder")
    tensors = {"vectors": vectors, **coarse.__dict__} | ({} if turn is None else {"turn": turn})
    temporary = folder.parent / f".{uuid.uuid4().hex[:12]}.tmp"
    try:
        temporary.mkdir(parents=True)
        with atomic_path(temporary / TENSORS_FILE) as path:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
        header = Header(
            format=_FORMAT,
            version=_VERSION,
            shape=(vectors.shape[0], vectors.shape[1]),
            norms=(float(coarse.norm.min()), float(coarse.norm.max())),
            sha256=file_sha256(temporary / TENSORS_FILE),
            ids=list(ids),
            ids_sha256=settings_hash(list(ids), 64),
        )
        atomic_write(temporary / HEADER_FILE, header.model_dump_json())
        os.replace(temporary, folder)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}; choose another place") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_header(folder: Path) -> Header:
    """Return a gallery's JSON file; raises UserError where there is none, or it is damaged."""
    path = folder / HEADER_FILE
    if not path.is_file():
        raise UserError(f"{folder} is no gallery: it has no {HEADER_FILE}; give one that was saved")
    try:
        found = json.loads(path.read_bytes())
        if not isinstance(found, dict) or found.get("format") != _FORMAT:
            raise UserError(f"{path} is of something else; give the folder of a gallery")
        if found.get("version") != _VERSION:
            raise UserError(
                f"{path} is of version {found.get('version')}, not {_VERSION}; make it again"
            )
        header = Header.model_validate(found)
        if header.ids_sha256 != settings_hash(header.ids, 64):
            raise UserError(f"{path} is not what was written; make the gallery again")
        return header
    except (OSError, ValueError, RecursionError, ValidationError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is damaged; make the gallery again") from error


def read_gallery(folder: Path) -> tuple[Tensor, list[str], Coarse, Tensor | None]:
    """Return vectors, ids, the vectors in 8 bits and their turn, memory-mapped.

    Raises UserError where there is no gallery, or its files are damaged or of two galleries.
    """
    header, path = read_header(folder), folder / TENSORS_FILE
    try:
        if Contents(folder).sha256(path) != header.sha256:
            raise UserError(f"{path} is not what was written; make the gallery again")
        with safe_open(path, framework="pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        turn = found.pop("turn", None)
        vectors = found.pop("vectors")
        coarse = Coarse(**found)
    except (SafetensorError, OSError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); make the gallery again") from error
    _check(path, header, vectors, coarse, turn)
    return vectors, header.ids, coarse, turn


def _check(
    path: Path, header: Header, vectors: Tensor, coarse: Coarse, turn: Tensor | None
) -> None:
    items, width = header.shape
    wanted = [
        (vectors, (items, width), torch.float32),
        (coarse.values, (items, width), torch.int8),
        *((part, (items,), torch.float32) for part in (coarse.step, coarse.norm, coarse.error)),
        (coarse.odd, (len(coarse.odd),), torch.int64),
        *([] if turn is None else [(turn, (width, width), torch.float32)]),
    ]
    fits = all(part.shape == shape and part.dtype == dtype for part, shape, dtype in wanted)
    beyond = bool(((coarse.odd < 0) | (coarse.odd >= items)).any())
    if not fits or beyond or len(header.ids) != items or min(items, width) < 1:
        raise UserError(f"{path} and {HEADER_FILE} do not fit each other; make the gallery again")
