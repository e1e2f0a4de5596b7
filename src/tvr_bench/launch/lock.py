"""A lock that lives exactly as long as the processes that hold it."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from pathlib import Path

_BUSY = (errno.EWOULDBLOCK, errno.EACCES, errno.EAGAIN)


class TaskLock:
    """The right to run one task, shared with the process that runs it.

    The kernel keeps it for the open file, and the child inherits that file: when the launcher is
    killed, its child goes on holding the lock, and when both are gone nothing is left to be stale.
    The file itself stays, since removing it would let two processes lock two files of one name.
    """

    def __init__(self, handle: int) -> None:
        """Keep the handle of the locked file."""
        self.handle = handle

    @classmethod
    def acquire(cls, path: Path) -> TaskLock | None:
        """Return the lock, or None while another process holds it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _BUSY:
                os.close(handle)
                return None
            # some network file systems lock nothing; records are whole even so
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        return cls(handle)

    def release(self) -> None:
        """Give the lock back, also for whatever a child has left running."""
        fcntl.flock(self.handle, fcntl.LOCK_UN)
        os.close(self.handle)


def holder(path: Path) -> str:
    """Return who holds the lock `path`, in words."""
    try:
        return path.read_text(errors="replace").strip()[:100] or "another process"
    except OSError:
        return "another process"
