"""Checkpoint files that no kill, full disk or flipped bit can take away unnoticed.

A file is what `torch.save` makes, then 48 bytes: the SHA-256 and the length of all before them and
a mark. The digest is in the file itself, so that one rename puts both in place and no kill can part
them; `torch.load` reads such a file like any other.
"""

from __future__ import annotations

import errno
import hashlib
import os
import struct
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch
from lightning_fabric.plugins.io.checkpoint_io import CheckpointIO

from tvr_bench.errors import UserError
from tvr_bench.files import atomic_path

LAST, BEST = "last.ckpt", "best.ckpt"
_END = struct.Struct("<32sQ8s")  # digest, length, mark
_MARK = b"tvrckpt1"


class DurableCheckpointIO(CheckpointIO):
    """Lightning's reading and writing of checkpoints, by `write` and `read`."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint."""
        write(checkpoint, Path(path))

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Return a checkpoint that verifies, as data alone; tensors on the CPU."""
        return read(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint, if it is there."""
        Path(path).unlink(missing_ok=True)


def previous(path: Path) -> Path:
    """Return where the checkpoint is kept that `path` held before the present one."""
    return path.with_name(f"{path.stem}-1{path.suffix}")


def write(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint to `path`, and keep the one that is there as `previous(path)`.

    Whenever it is killed, `path` or `previous(path)` holds a whole checkpoint if one of them did.
    Raises UserError, with both as they were, where the disk is full.
    """
    with atomic_path(path) as temporary:
        with open(temporary, "wb") as file:
            out = _Digested(file)
            try:
                torch.save(checkpoint, cast(IO[bytes], out))
            except RuntimeError:
                if out.error is not None:  # torch covers it with one of its own
                    raise out.error from None
                raise
            file.write(_END.pack(out.digest.digest(), out.length, _MARK))
        if temporary.stat().st_size != out.length + _END.size:
            raise OSError(errno.EIO, "the file is not as long as what was written", str(path))
        _keep(path)


class _Digested:
    """A file to write to that knows the digest and the length of what went through it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest, self.length = file, hashlib.sha256(), 0
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            self.file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise
        self.digest.update(data)
        self.length += len(data)
        return len(data)

    def flush(self) -> None:
        self.file.flush()


def _keep(path: Path) -> None:
    """Let `previous(path)` name the present file too, so that `path` is never without one."""
    if not path.exists():
        return
    link = path.with_name(f".{path.name}.link")
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
    except OSError:  # a file system without links: then the name moves
        os.replace(path, previous(path))
    else:
        os.replace(link, previous(path))
        link.unlink(missing_ok=True)  # a rename between two names of one file leaves both


def verified(path: Path) -> bool:
    """Return whether a whole checkpoint is there: its length and its SHA-256 are right."""
    try:
        with open(path, "rb") as file:
            length = file.seek(0, os.SEEK_END) - _END.size
            if length < 0:
                return False
            file.seek(length)
            digest, said, mark = _END.unpack(file.read(_END.size))
            if (said, mark) != (length, _MARK):
                return False
            file.seek(0)
            found = hashlib.sha256()
            while length:
                part = file.read(min(length, 1 << 20))
                if not part:
                    return False
                found.update(part)
                length -= len(part)
            return found.digest() == digest
    except OSError:
        return False


def read(path: Path) -> dict[str, Any]:
    """Return a checkpoint; its tensors are on the CPU. Raises UserError where it is damaged."""
    if not verified(path):
        raise UserError(
            f"checkpoint {path} is missing or damaged; remove the folder {path.parent} and repeat "
            "the command to train anew"
        )
    loaded: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return loaded


def peek(path: Path) -> dict[str, Any]:
    """Return a checkpoint that is known to verify, its tensors still in the file."""
    loaded: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return loaded


def newest(folder: Path) -> Path | None:
    """Return the newest checkpoint of a folder that verifies, None where there was never one.

    Raises UserError where there are some and all of them are damaged.
    """
    last = folder / LAST
    found = [path for path in (last, previous(last)) if path.exists()]
    for path in found:
        if verified(path):
            return path
    if found:
        raise UserError(
            f"no checkpoint in {folder} can be read; remove that folder and repeat the command to "
            "train anew"
        )
    return None


def choose_best(folder: Path, step: int | None) -> None:
    """Put the best checkpoint of `step` in place, where a later one was written and then lost.

    Raises UserError where there is none that verifies; `step` None is "none so far".
    """
    if step is None:
        return
    best = folder / BEST
    for path in (best, previous(best)):
        if verified(path) and peek(path)["global_step"] == step:
            if path != best:
                os.replace(path, best)
            return
    raise UserError(
        f"the best checkpoint in {folder}, of step {step}, is missing or damaged; remove that "
        "folder and repeat the command to train anew"
    )


def clean(folder: Path) -> None:
    """Remove what killed writers left anywhere in the folder of a run that nobody writes to."""
    for path in (*folder.rglob(".*.tmp*"), *folder.rglob(".*.link")):
        with suppress(FileNotFoundError):
            path.unlink()
