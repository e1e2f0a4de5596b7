"""Worker processes that may hang or die: each is watched, stopped when its time is up, replaced.

Files of strangers are read by C code, which can loop for ever, crash, or ask for all the memory
there is. A process can be ended from outside, without harm to what goes on in the others.

A worker is a Python of its own that imports this module and what the work names. It never runs the
user's script again, as multiprocessing's would, and so needs no `if __name__ == "__main__":` there.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast

from tvr_bench.errors import UserError

if TYPE_CHECKING:
    from tvr_bench.shards import Shard

_LOOK_S = 0.2  # between two looks at the clocks
_UNWIND_S = 10.0  # for a worker to remove its half-written file after Ctrl-C
_TRIES = 3  # at a shard whose workers die while no item is at hand
_place: int | None = None  # of this process, where it is a worker
_PARENT_S = 0.5  # between two looks of a worker at whether its parent is there
# what a worker runs: not forked, which is unsafe once torch has threads
_LIFE = (
    "import sys; sys.path[:] = {path!r}; from tvr_bench.workers import serve; "
    "serve({fd}, {pid}, {place})"
)


class Tick(Protocol):
    """What work is given to say how far it is."""

    def __call__(self) -> None:
        """Say that an item is done; the clock of the next one starts."""

    def more(self, times: float) -> None:
        """Start the clock of the item at hand again, with `times` the time limit."""


Work = Callable[["Shard", Tick], None]
Line: TypeAlias = "Connection[Any, Any]"


@dataclass(eq=False)
class _Worker:
    """One process, the shard it is at, and the clock of the item at hand."""

    process: subprocess.Popen[bytes]
    connection: Line
    place: int
    ready: bool = False  # the process is up
    shard: Shard | None = None
    done: int = 0  # items of the shard
    since: float = 0.0
    times: float = 1.0

    def start(self, work: Work, shard: Shard) -> None:
        self.shard, self.done = shard, 0
        self.start_clock()
        with suppress(OSError):  # it died just now, which the next look will find
            self.connection.send((work, shard))

    def start_clock(self, times: float = 1.0) -> None:
        self.since, self.times = time.monotonic(), times

    def is_late(self, limit: float) -> bool:
        late = self.shard is not None and time.monotonic() - self.since > limit * self.times
        return late and not self.connection.poll()


class Crew:
    """Processes that work on shards; `limit` is the number of seconds that an item may take.

    With a limit, an item that takes longer, or whose process ends, is lost: the shard starts again
    in a new process with the item in `shard.lost`, and work leaves it out. Without one (None), a
    process that ends is an error.
    """

    def __init__(self, work: Work, size: int, limit: float | None) -> None:
        """Take what to do; raises UserError where only the user's script defines it."""
        self._work = _importable(work)
        self._size = size
        self._limit = limit
        self._workers: list[_Worker] = []
        self._waiting: deque[Shard] = deque()
        self._tries: Counter[Path | None] = Counter()
        self._finished = 0
        self._error: BaseException | None = None

    def run(self, shards: Sequence[Shard], update: Callable[[int], None]) -> None:
        """Work on all `shards`; `update` is told the number of items done.

        The first error of any shard is raised after the shards at hand are finished.
        """
        self._waiting.extend(shards)
        try:
            while self._waiting or any(w.shard for w in self._workers):
                self._hand_out()
                workers = {w.connection: w for w in self._workers}
                for connection in wait(list(workers), _LOOK_S):
                    self._hear(workers[cast("Line", connection)])
                self._look_at_clocks()
                update(self._finished + sum(w.done for w in self._workers))
                if self._error:
                    self._waiting.clear()
        finally:
            self._close()
        if self._error:
            raise self._error

    def _hand_out(self) -> None:
        idle = [w for w in self._workers if w.ready and not w.shard]
        while self._waiting and idle:
            idle.pop().start(self._work, self._waiting.popleft())
        while self._waiting and len(self._workers) < self._size:
            self._hire()

    def _hire(self) -> None:
        free = min({*range(self._size)} - {worker.place for worker in self._workers})
        try:
            ours, theirs = Pipe()
            with theirs:  # or the end of the process would not close the pipe
                fd = theirs.fileno()
                life = _LIFE.format(path=sys.path, fd=fd, pid=os.getpid(), place=free)
                process = subprocess.Popen(
                    [sys.executable, "-c", life], stdin=subprocess.DEVNULL, pass_fds=[fd]
                )
        except OSError as error:
            raise UserError(
                f"cannot start a process that reads videos ({error.strerror}); lower "
                "trainer.prepare_workers"
            ) from error
        self._workers.append(_Worker(process, ours, free))

    def _hear(self, worker: _Worker) -> None:
        """Take one message of a worker, or notice that there will be none."""
        try:
            kind, value = worker.connection.recv()
        except (EOFError, OSError):
            self._replace(worker, None)
            return
        match kind:
            case "ready":
                worker.ready = True
            case "tick":
                worker.done += 1
                worker.start_clock()
            case "more":
                worker.start_clock(value)
            case "end":
                self._finished += worker.done
                worker.shard, worker.done = None, 0
                self._error = self._error or value

    def _look_at_clocks(self) -> None:
        for worker in list(self._workers):
            if self._limit and worker.is_late(self._limit):
                self._replace(worker, self._limit * worker.times)

    def _replace(self, worker: _Worker, seconds: float | None) -> None:
        """End a worker that took `seconds`, or bury one that died; its shard starts again."""
        worker.process.kill()
        worker.connection.close()
        self._workers.remove(worker)
        how = _how_it_ended(worker.process.wait())
        shard, at = worker.shard, worker.done
        if self._limit and shard and at < len(shard.items) and at not in shard.lost:
            reason = f"took longer than {seconds:g} s" if seconds else f"ended its process by {how}"
            self._waiting.appendleft(replace(shard, lost={**shard.lost, at: reason}))
        elif shard or not worker.ready:  # no item can be blamed
            self._try_again(shard, how)

    def _try_again(self, shard: Shard | None, how: str) -> None:
        place = shard.output if shard else None
        self._tries[place] += 1
        if self._limit is None or self._tries[place] == _TRIES:
            while_ = f"while it made {place}" if place else "before it began"
            self._error = self._error or RuntimeError(f"a worker ended by {how} {while_}")
        elif shard:
            self._waiting.appendleft(shard)

    def _close(self) -> None:
        """End the processes; one in the middle of a shard removes its half-written file first."""
        for worker in self._workers:
            if worker.shard:
                worker.process.send_signal(signal.SIGINT)
            worker.connection.close()
        for worker in self._workers:
            with suppress(subprocess.TimeoutExpired):
                worker.process.wait(_UNWIND_S)
            worker.process.kill()
            worker.process.wait()


def _importable(work: Work) -> Work:
    """Return `work`; raises UserError where a worker could not import what it calls."""
    called: Any = work
    while isinstance(called, partial):
        called = called.func
    called = getattr(called, "__self__", called)  # of a method, what it belongs to
    if (getattr(called, "__module__", None) or type(called).__module__) == "__main__":
        name = getattr(called, "__name__", type(called).__name__)
        raise UserError(
            f"{name} is defined in the script itself, which workers do not run; put it in a module "
            "of its own, or set trainer.prepare_workers=0"
        )
    return work


def _how_it_ended(code: int) -> str:
    """Return the signal or the exit code that a process ended with, in words."""
    if code == -signal.SIGKILL:
        return "SIGKILL, as when memory runs out"
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


class _Messenger:
    """The `Tick` of a worker process."""

    def __init__(self, connection: Line) -> None:
        self._connection = connection

    def __call__(self) -> None:
        self._connection.send(("tick", None))

    def more(self, times: float) -> None:
        self._connection.send(("more", times))


def place() -> int | None:
    """Return which of the workers at work this process is, from 0; None where it is none."""
    return _place


def serve(fd: int, parent: int, place: int) -> None:
    """Work on one shard after the other until there are no more: the life of a worker.

    `fd` is its end of the pipe to the process `parent`.
    """
    global _place
    _place = place
    connection: Line = Connection(fd)
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()
    signal.signal(signal.SIGINT, _interrupt)
    with suppress(OSError):  # when memory runs out, it is to cost a clip and not the run
        Path("/proc/self/oom_score_adj").write_text("500")
    with suppress(EOFError, KeyboardInterrupt, BrokenPipeError, ConnectionResetError):
        connection.send(("ready", None))
        while True:
            task, problem = connection.recv_bytes(), None
            try:
                work, shard = pickle.loads(task)
                work(shard, _Messenger(connection))
            except Exception as error:
                problem = _portable(error)
            connection.send(("end", problem))


def _interrupt(*_: Any) -> None:
    """Unwind once; a second Ctrl-C would break off the tidying up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def _portable(error: Exception) -> Exception:
    """Return `error` with its traceback as a note, or one that says the same where it is no use
    in another process."""
    error.add_note("".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError("".join(traceback.format_exception(error)))
    return error


def _die_with(parent: int) -> None:
    """End this worker when its parent was killed; a hanging clip would keep it for ever."""
    while os.getppid() == parent:
        time.sleep(_PARENT_S)
    os._exit(1)
