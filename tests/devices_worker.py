"""A run in which one process fails: `devices_worker.py FAULT RANK STEP bench key=value ...`.

Lightning starts the other processes of a run by repeating this very command.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

from tvr_bench import cli
from tvr_bench.errors import UserError
from tvr_bench.models.base import RetrievalModule


def act(fault: str) -> None:
    """Be the fault, and say when."""
    print(f"fault at {time.time()}", file=sys.stderr, flush=True)
    if fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "user":
        raise UserError("this step cannot be done; mend it")
    if fault == "bug":
        raise KeyError("a bug")


def main(fault: str, rank: int, step: int, arguments: list[str]) -> int:
    """Return the exit code of the command line, with the fault in one process's step."""
    right = RetrievalModule.training_step

    def training_step(self: RetrievalModule, batch: Any, batch_idx: int) -> Any:
        started = self._trainer is not None and self._trainer.training
        if started and (self.trainer.global_rank, self.trainer.global_step) == (rank, step):
            act(fault)
        return right(self, batch, batch_idx)

    RetrievalModule.training_step = training_step  # type: ignore[method-assign]
    return cli.main(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]))
