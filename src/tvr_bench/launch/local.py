"""Tasks as processes of this machine: several at a time, logged, interruptible, resumable.

A task is done when its run folder holds a record, so a second start does what is left over.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from tvr_bench.errors import UserError
from tvr_bench.launch.progress import LaunchProgress
from tvr_bench.launch.slots import Slot, slots
from tvr_bench.leaderboard.record import RECORD_FILE
from tvr_bench.lock import Lock, holder
from tvr_bench.values import truth

LOG_FILE = "bench.log"
_POLL_S = 0.1
_RETRY_S = 1.0  # between two looks at a task that another process runs
_GRACE_S = 30.0  # for a run to end by itself when it is told to stop
_TAIL = 20_000  # bytes at the end of a log in which its error is looked for
_ERROR = re.compile(r"^(tvr-bench: |[A-Za-z_][\w.]*(Error|Exception|Interrupt|Exit)\b)")

State = Literal["done", "there", "failed"]


@dataclass(frozen=True)
class Task:
    """One run: its name, the lock of whoever runs it, and where its folder is or will be.

    With `weights` it waits for the run of that folder, whose weights it tests.
    """

    name: str
    lock: Path
    find: Callable[[], Path]
    settings: tuple[str, ...] = ()
    weights: Callable[[], Path] | None = None

    @property
    def done(self) -> bool:
        """Whether the run has left its record."""
        return (self.find() / RECORD_FILE).exists()


@dataclass(frozen=True)
class Outcome:
    """How a task ended: done now, there before, or failed and why; the log is in its folder."""

    task: Task
    state: State
    folder: Path
    seconds: float = 0.0
    reason: str = ""


Command: TypeAlias = "Callable[[Task, Path], Sequence[str]]"


class _Running:
    """A task's process, from its start to its outcome."""

    def __init__(self, task: Task, command: Command, lock: Lock, slot: Slot) -> None:
        self.task, self.lock, self.slot = task, lock, slot
        self.folder = task.find()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log = self.folder / LOG_FILE
        self.start = time.monotonic()
        with open(self.log, "ab") as log:
            self.offset = log.tell()
            self.process = subprocess.Popen(
                list(command(task, self.folder)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **slot.environment, **lock.environment, "PYTHONUNBUFFERED": "1"},
                start_new_session=True,  # Ctrl-C reaches the launcher, which tells its children
                pass_fds=(lock.handle,),
            )
        if slot.cores:
            with suppress(ProcessLookupError):  # already over
                os.sched_setaffinity(self.process.pid, slot.cores)

    def outcome(self) -> Outcome | None:
        """Return how it ended, None while it runs."""
        code = self.process.poll()
        if code is None:
            return None
        seconds = time.monotonic() - self.start
        self.lock.release()
        smoke = any(map(_is_smoke, self.task.settings))
        if code == 0 and (self.task.done or smoke):
            return Outcome(self.task, "done", self.folder, seconds)
        reason = last_error(self.log, self.offset) or "it left no record"
        if code < 0:
            reason = f"killed by signal {-code} ({signal.Signals(-code).name}); {reason}"
        return Outcome(self.task, "failed", self.folder, seconds, reason)

    def signal(self, number: int) -> None:
        """Send a signal to the process and all that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


def run_tasks(
    title: str, tasks: Sequence[Task], command: Command, *, jobs: int = 1
) -> list[Outcome]:
    """Run every task that has no record, `jobs` at a time; return all outcomes in their order.

    `command(task, folder)` is what to execute. A task that another process is running is waited
    for. A failed one is an outcome like any other. Raises KeyboardInterrupt, with all processes
    ended, after Ctrl-C, SIGTERM and SIGHUP.
    """
    with _Signals() as signals, LaunchProgress(title, len(tasks), jobs) as progress:
        launcher = _Launcher(tasks, command, jobs, progress)
        try:
            return launcher.run(signals)
        except BaseException:
            if launcher.running:
                with suppress(OSError):  # the terminal may be gone
                    progress.note("stopping the runs; a second Ctrl-C kills them")
            _stop(list(launcher.running.values()), signals)
            raise


def run_first(command: Sequence[str]) -> int:
    """Run what the tasks need beforehand, its output shown; return its exit code.

    Raises KeyboardInterrupt, with the process ended, after Ctrl-C, SIGTERM and SIGHUP.
    """
    with _Signals() as signals:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        while process.poll() is None:
            if signals.count:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)
                process.wait()
                raise KeyboardInterrupt
            time.sleep(_POLL_S)
    return process.returncode


class _Launcher:
    """The state of `run_tasks`; tasks go by their position."""

    def __init__(
        self, tasks: Sequence[Task], command: Command, jobs: int, progress: LaunchProgress
    ) -> None:
        self.tasks, self.command, self.progress = tasks, command, progress
        self.outcomes: dict[int, Outcome] = {}
        self.running: dict[int, _Running] = {}
        self.todo = list(range(len(tasks)))
        self.free = slots(jobs, tasks[0].settings if tasks else ())
        self.busy: dict[str, str] = {}  # tasks that other processes run, and who they are
        self.next_try = 0.0

    def run(self, signals: _Signals) -> list[Outcome]:
        """Return the outcomes of all tasks; raises KeyboardInterrupt after a signal."""
        for number in list(self.todo):
            if self.tasks[number].done:
                self._end(number, Outcome(self.tasks[number], "there", self.tasks[number].find()))
        while self.todo or self.running:
            if signals.count:
                raise KeyboardInterrupt
            self._reap()
            if self.free and time.monotonic() >= self.next_try:
                self._fill()
            logs = {one.task.name: one.log for one in self.running.values()}
            self.progress.update(logs, self.busy)
            time.sleep(_POLL_S)
        return [self.outcomes[number] for number in range(len(self.tasks))]

    def _reap(self) -> None:
        for number, one in list(self.running.items()):
            if (outcome := one.outcome()) is not None:
                self.free.append(self.running.pop(number).slot)
                self.next_try = 0.0
                self._end(number, outcome)

    def _fill(self) -> None:
        """Start what can start; what another process runs is tried again later."""
        self.next_try = time.monotonic() + _RETRY_S
        self.busy = {}
        for number in list(self.todo):
            if not self.free:
                return
            task = self.tasks[number]
            if self._waits(task):
                continue
            if (lock := Lock.acquire(task.lock)) is None:
                self.busy[task.name] = holder(task.lock)
            elif task.done:  # by another process, since the first look
                lock.release()
                self._end(number, Outcome(task, "there", task.find()))
            else:
                self._begin(number, lock)

    def _waits(self, task: Task) -> bool:
        """Return whether the run whose weights the task tests is still to end here."""
        if task.weights is None:
            return False
        wanted = task.weights()
        return any(self.tasks[i].find() == wanted for i in {*self.todo, *self.running})

    def _begin(self, number: int, lock: Lock) -> None:
        task = self.tasks[number]
        self.progress.begin(task.name)
        try:
            self.running[number] = _Running(task, self.command, lock, self.free[0])
        except OSError as error:
            lock.release()
            self._end(number, Outcome(task, "failed", task.find(), reason=str(error)))
            return
        self.free.pop(0)
        self.todo.remove(number)

    def _end(self, number: int, outcome: Outcome) -> None:
        self.outcomes[number] = outcome
        if number in self.todo:
            self.todo.remove(number)
        self.progress.end(outcome.task.name, outcome.state, outcome.seconds, outcome.reason)


def _stop(running: Sequence[_Running], signals: _Signals) -> None:
    """End all processes: told to, given time, then killed; one more signal kills at once."""
    before, deadline = signals.count, time.monotonic() + _GRACE_S
    for one in running:
        one.signal(signal.SIGTERM)
    while any(one.process.poll() is None for one in running):
        if signals.count > before or time.monotonic() > deadline:
            break
        time.sleep(_POLL_S)
    for one in running:
        one.signal(signal.SIGKILL)  # whatever the run itself has left behind, too
        one.process.wait()
        one.lock.release()


class _Signals:
    """Counts Ctrl-C, SIGTERM and SIGHUP, so that they are acted upon where that is safe.

    Raised wherever it comes, an interrupt could part a child from the list of the running.
    """

    def __init__(self) -> None:
        self.count = 0
        self.before: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                self.before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: object) -> None:
        self.count += 1


def last_error(log: Path, offset: int = 0) -> str:
    """Return the last line of a log, after `offset` bytes, that names an error, else the last."""
    with open(log, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(offset, size - _TAIL))
        text = file.read().decode(errors="replace")
    lines = [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]
    errors = [line for line in lines if _ERROR.match(line)]
    return (errors or lines or [""])[-1][:300]


def _is_smoke(setting: str) -> bool:
    key, _, text = setting.partition("=")
    return key == "trainer.smoke" and truth(text)


def make_folder(path: Path) -> None:
    """Make a folder; UserError where that is impossible."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot make the folder {path}: {error.strerror}; choose another run.root"
        ) from error
