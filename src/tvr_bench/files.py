"""Files that are whole or absent, names that follow content, and the ledger of failures."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tvr_bench.errors import UserError

_STALE_S = 3600.0  # a temporary file that nobody wrote to for so long belongs to a killed process
_TEMPORARY = re.compile(r"\.[0-9a-f]{12}\.tmp(\..*)?", re.DOTALL)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EACCES)  # what some file systems say of a folder


def check_file(path: Path, what: str) -> None:
    """Raise UserError where there is no such file; `what` is what to give instead."""
    if not path.is_file():
        raise UserError(f"there is no file {path}; give {what}")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that becomes `path` on success and vanishes on error.

    On return the file and its name are on the disk. It has the permissions that a plain `open`
    gives a new file, or those of the file that it replaces, whoever wrote it. Raises UserError
    where the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{uuid.uuid4().hex[:12]}.tmp{path.suffix}"
    try:
        with room_for(path):
            temporary.touch()  # so the kernel says what the umask and the folder's rules come to
            mode = _mode(path if path.is_file() else temporary)
            temporary.unlink()
            yield temporary
            with open(temporary, "rb+") as file:
                os.fchmod(file.fileno(), mode)  # some libraries write private files
                os.fsync(file.fileno())
            os.replace(temporary, path)
            _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def atomic_write(path: Path, data: bytes | str) -> None:
    """Write `data` to `path` so that a reader sees the old file or the new one, never a part."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def remove_stale(folder: Path) -> None:
    """Remove the temporary files that killed processes left in `folder` an hour ago or earlier."""
    before = time.time() - _STALE_S
    for path in folder.glob(".*.tmp*"):
        if not _TEMPORARY.fullmatch(path.name):
            continue
        with suppress(FileNotFoundError):  # another process may have been quicker
            if path.stat().st_mtime < before:
                path.unlink()


def settings_hash(settings: Any, digits: int = 16) -> str:
    """Return up to 64 hex digits that depend on the JSON value of `settings` alone."""
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of all that a file holds, 64 hex digits; OSError where it is not read."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def links_top(folder: Path) -> Path:
    """Return the real folder that links below `folder` may lead into without leading out of it.

    That is the folder itself or, of a snapshot in the Hugging Face hub's cache, the folder of its
    repository, which keeps the files of all snapshots in `blobs`.
    """
    real = Path(os.path.realpath(folder))
    for path in (real, *real.parents):
        if path.parent.name == "snapshots" and (path.parent.parent / "blobs").is_dir():
            return path.parent.parent
    return real


def json_text(value: Any, indent: int | None = None) -> str:
    """Return a value as JSON that can be written as UTF-8, its characters as they are.

    All but ASCII is escaped where a file's name has bytes that are not UTF-8, which `str` holds as
    halves of characters; `json.loads` gives that name back.
    """
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, indent=indent)
    return text


def check_utf8(what: str, text: str) -> None:
    """Raise UserError, which names `what`, for a text with bytes that no record can hold."""
    if odd := [ord(sign) - 0xDC00 for sign in text if 0xDC00 <= ord(sign) <= 0xDCFF]:
        raise UserError(
            f"{what}{text!a} has the byte 0x{odd[0]:02X}, which is not UTF-8, so no record can "
            "name it; rename the folder or file, or give a link to it"
        )


@dataclass(frozen=True)
class Failure:
    """One thing that could not be used, and why."""

    id: str
    path: str
    stage: str
    exception: str
    message: str


class Ledger:
    """The list of everything that was not used; kept in `failures.jsonl` where a path is given."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.entries: list[Failure] = []
        self._known: set[tuple[str, str]] = set()

    def add(self, *, id: str, path: str, stage: str, error: BaseException | str) -> None:
        """Record one failure, once per (id, stage)."""
        if (id, stage) in self._known:
            return
        self._known.add((id, stage))
        kind = type(error).__name__ if isinstance(error, BaseException) else "Error"
        message = " ".join(str(error).split())
        self.entries.append(Failure(id, path, stage, kind, message))
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with room_for(self.path), open(self.path, "a", encoding="utf-8") as file:
                file.write(json_text(asdict(self.entries[-1])) + "\n")

    def ids(self, stage: str | None = None) -> set[str]:
        """Return the ids that failed, at `stage` or at any."""
        return {e.id for e in self.entries if stage is None or e.stage == stage}


@contextmanager
def room_for(
    path: Path | None, advice: str = "or give another folder, and repeat the command"
) -> Iterator[None]:
    """Raise UserError, which ends with `advice`, where the disk of `path` is full.

    None is for files that others write; the error may say which.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise UserError(
            f"cannot write {path or error.filename or 'the logs'}: {os.strerror(error.errno)}; "
            f"free some space there, {advice}"
        ) from error


def _sync_folder(folder: Path) -> None:
    """Put the names in `folder` on the disk; without it a power cut can undo a rename."""
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
