"""One process of a run that may fail: `link_worker.py FOLDER RANK WORLD WHAT`.

Rank 1 does WHAT; the others wait for it as for a collective that never ends.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from tvr_bench.errors import UserError
from tvr_bench.link import Link


class Files:
    """A store of files, which is enough to meet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def set(self, key: str, value: str) -> None:
        part = self.folder / f"{key}.part"
        part.write_text(value)
        part.rename(self.folder / f"{key}.key")

    def get(self, key: str) -> bytes:
        while not (path := self.folder / f"{key}.key").exists():
            time.sleep(0.01)
        return path.read_bytes()


def act(what: str, folder: Path) -> None:
    """Do what the test asks for, when all are there."""
    if what == "error":
        raise UserError("nothing works;\n mend it")
    if what == "bug":
        raise KeyError("a bug")
    if what == "told":
        raise SystemExit(143)
    if what == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    if what == "wait":
        time.sleep(60)


def main(folder: Path, rank: int, world: int, what: str) -> int:
    """Return the exit code."""
    link = Link(rank, world)
    link.open(Files(folder), "127.0.0.1", local=True)
    (folder / f"{rank}.there").touch()
    try:
        while len(list(folder.glob("*.there"))) < world:
            time.sleep(0.01)
        time.sleep(0.2)
        if what == "echo" and rank == 1:  # dies; the others first see a broken connection
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "echo":
            raise RuntimeError("connection closed by peer")
        if what == "first":
            if rank == 0:
                raise UserError("the first one fails")
            time.sleep(60)
        if rank == 1 or what == "fine":
            act(what, folder)
        elif what == "told":
            time.sleep(0.5)
            raise RuntimeError("the other one is gone")
        else:
            time.sleep(60)
    except BaseException as error:
        link.fail(error)
        if isinstance(error, UserError):
            print(f"tvr-bench: {error}", file=sys.stderr)
            return 2
        raise
    link.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))
