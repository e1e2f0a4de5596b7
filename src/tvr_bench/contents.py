"""The SHA-256 of whole files, remembered so that a second look at one costs a stat alone.

The memory is one file of lines, each with a checksum of its own: a file as it was (absolute path,
size, times of its content and its inode, inode number) and its SHA-256. Several processes may add
lines at once. What cannot be read of it is passed over, and hashed again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TypeAlias

from tvr_bench.shards import progress_of

MEMORY_FILE = "contents.jsonl"
_THREADS = 8  # at most; hashing frees the interpreter
# A file that was written so shortly before it was read could be written again without a change of
# its times: FAT counts in two seconds, others in milliseconds. It is hashed again the next time.
_SETTLED_NS = 2_500_000_000
_LONG_BYTES = 2 << 30  # to hash less takes seconds, and needs no bar
_log = logging.getLogger(__name__)

State: TypeAlias = tuple[int, int, int, int]  # size, mtime and ctime in ns, inode


class Contents:
    """Knows what files hold; its memory lies in `folder`, which need not exist or be writable.

    A change that leaves size and all times as they were goes unnoticed; no program can set a
    ctime, so that is damage below the file system.
    """

    def __init__(self, folder: Path) -> None:
        self._memory = folder / MEMORY_FILE
        self._known: dict[str, tuple[State, str]] | None = None

    def sha256(self, path: Path) -> str:
        """Return the SHA-256 of a file, 64 hex digits; OSError where it is no readable file."""
        found = self.of([path])[path]
        if isinstance(found, OSError):
            raise found
        return found

    def of(self, paths: Iterable[Path]) -> dict[Path, str | OSError]:
        """Return the SHA-256 of each file, or why it cannot be read; new ones side by side."""
        if self._known is None:
            self._known = dict(_remembered(self._memory))
        found: dict[Path, str | OSError] = {}
        todo: list[Path] = []
        for path in dict.fromkeys(paths):
            was = self._known.get(os.path.abspath(path))
            if was and was[0] == _state_at(path):
                found[path] = was[1]
            else:
                todo.append(path)
        with _progress(todo) as update:
            for done, (path, read) in enumerate(zip(todo, _side_by_side(todo), strict=True), 1):
                state, found[path] = read
                if state is not None and isinstance(read[1], str):
                    self._remember(os.path.abspath(path), state, read[1])
                update(done)
        return found

    def _remember(self, name: str, state: State, digest: str) -> None:
        assert self._known is not None
        self._known[name] = state, digest
        entry = [name, *state, digest]
        # a line end first: what a killed process left of a line must not swallow this one
        line = "\n" + json.dumps([*entry, _sum(entry)]) + "\n"
        try:
            self._memory.parent.mkdir(parents=True, exist_ok=True)
            with open(self._memory, "ab", buffering=0) as file:
                file.write(line.encode())
        except OSError as error:  # only time is lost by it
            _log.warning("cannot remember what files hold in %s: %s", self._memory, error)


def _progress(todo: list[Path]) -> AbstractContextManager[Callable[[int], None]]:
    states = [_state_at(path) for path in todo]
    if sum(state[0] for state in states if state) < _LONG_BYTES:
        return nullcontext(lambda done: None)
    return progress_of("hash files", len(todo), "file")


def _remembered(memory: Path) -> Iterator[tuple[str, tuple[State, str]]]:
    """Yield what the whole lines of a memory say, the latest of a file last."""
    try:
        lines = memory.read_bytes().splitlines()
    except OSError:
        return  # there is none yet
    for line in lines:
        try:
            *entry, check = json.loads(line)
            name, size, mtime, ctime, inode, digest = entry
        except (ValueError, TypeError, RecursionError):
            continue
        if check == _sum(entry):
            yield name, ((size, mtime, ctime, inode), digest)


def _sum(entry: list[object]) -> str:
    return hashlib.sha256(json.dumps(entry).encode()).hexdigest()[:16]


def _side_by_side(paths: list[Path]) -> Iterator[tuple[State | None, str | OSError]]:
    """Yield what `_read` returns of each path, in order."""
    if len(paths) < 2:
        yield from map(_read, paths)
        return
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        yield from pool.map(_read, paths)


def _read(path: Path) -> tuple[State | None, str | OSError]:
    """Return a file's state and SHA-256; no state where it may change without being seen to."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise OSError(f"{path} is no regular file")  # reading a FIFO would hang
        began = time.time_ns()
        with open(path, "rb") as file:
            before = _state(os.fstat(file.fileno()))
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            after = _state(os.fstat(file.fileno()))
    except OSError as error:
        return None, error
    except ValueError as error:  # a name that no file can have
        return None, OSError(f"{path!r}: {error}")
    settled = before == after and began - max(before[1:3]) > _SETTLED_NS
    return (before if settled else None), digest


def _state_at(path: Path) -> State | None:
    """Return the state of a file, None where there is none that can be seen."""
    try:
        return _state(os.stat(path))
    except (OSError, ValueError):
        return None


def _state(found: os.stat_result) -> State:
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino
