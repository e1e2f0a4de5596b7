"""A lock that lives exactly as long as the processes that hold it, of a run or a sweep's task.

The kernel keeps it for the open file, so nothing is left to be stale when they are killed. NFS
hands it to the server, where it holds between machines. Where a file system locks nothing at all,
that is said, and the run goes on.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console

from tvr_bench.errors import UserError

FOLDER = ".locks"  # beside the runs, for a run has no folder before it has something to keep
_BUSY = (errno.EWOULDBLOCK, errno.EACCES, errno.EAGAIN)
_LOST = (errno.ENOENT, errno.ESTALE)  # whoever held it has just taken the file away
_INHERITED = "TVR_LOCK"  # the handle of a lock that a child shares with its parent
_held: set[int] = set()


class Lock:
    """The right to run one thing, shared with the child that runs it."""

    def __init__(self, path: Path, handle: int, inherited: bool = False) -> None:
        """Keep the handle of the locked file; one that is inherited is the parent's to give back.

        Writes there who holds it.
        """
        self.path, self.handle, self._inherited = path, handle, inherited
        _held.add(handle)
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)

    @classmethod
    def acquire(cls, path: Path) -> Lock | None:
        """Return the lock, or None while another process holds it.

        Raises OSError where its file cannot be made.
        """
        handle = int(os.environ.get(_INHERITED, "-1"))
        if _is_same(handle, path):
            return cls(path, handle, inherited=True)
        while True:
            try:
                return cls._try(path)
            except OSError as error:
                if error.errno not in _LOST:
                    raise

    @classmethod
    def _try(cls, path: Path) -> Lock | None:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (*_BUSY, *_LOST):
                os.close(handle)
            if error.errno in _BUSY:
                return None
            if error.errno in _LOST:
                raise
            _say(
                f"{path.parent} is on a file system without locks ({os.strerror(error.errno or 0)})"
                ": do not start the same run a second time meanwhile"
            )
        if not _is_same(handle, path):  # its holder removed the file after it was opened here
            os.close(handle)
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return cls(path, handle)

    @property
    def environment(self) -> dict[str, str]:
        """What a child must have in its environment to share the lock, beside the handle."""
        return {_INHERITED: str(self.handle)}

    def release(self) -> None:
        """Give the lock back, also for whatever a child has left running."""
        if self._inherited:
            return
        if _is_same(self.handle, self.path):  # held still, so nobody else can have it
            with suppress(OSError):
                self.path.unlink()
            with suppress(OSError):  # other locks are there
                self.path.parent.rmdir()
        with suppress(OSError):
            fcntl.flock(self.handle, fcntl.LOCK_UN)
        _held.discard(self.handle)
        os.close(self.handle)


def holder(path: Path) -> str:
    """Return who holds the lock `path`, in words."""
    try:
        return path.read_text(errors="replace").strip()[:100] or "another process"
    except OSError:
        return "another process"


def lock_of(root: Path, name: str) -> Path:
    """Return the file of the lock of a run."""
    return root / FOLDER / f"{name}.lock"


@contextmanager
def locked(lock: Lock) -> Iterator[None]:
    """Give a lock back at the end."""
    try:
        yield
    finally:
        lock.release()


def lock_run(root: Path, name: str) -> Lock | None:
    """Return the lock of a run, None while another process holds it.

    Raises UserError where its file cannot be made.
    """
    path = lock_of(root, name)
    try:
        return Lock.acquire(path)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror}; choose another run.root"
        ) from error


def _is_same(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except OSError:
        return False


def _say(line: str) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(line)


def _forget() -> None:
    """Close the copies of a forked child: one that loads batches must not outlive the run with it.

    A child that is started anew has those alone that it was handed.
    """
    for handle in _held:
        with suppress(OSError):
            os.close(handle)
    _held.clear()


os.register_at_fork(after_in_child=_forget)
