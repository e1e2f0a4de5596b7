"""What Ctrl-C and SIGTERM do to a run: it stops where nothing is lost, and says how to go on."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Any

_NUMBERS = (signal.SIGINT, signal.SIGTERM)
_received = (0, 0.0)


def received() -> tuple[int, float]:
    """Return the signal that waits for the end of a step, or 0, and when it came (monotonic)."""
    return _received


class Stopped(SystemExit):
    """A signal ends the run; `code` is 128 and its number.

    A SystemExit, because Lightning turns a KeyboardInterrupt into an exit of its own.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)


class Interrupted(KeyboardInterrupt):
    """A run was ended by a signal; the message says how to go on, `code` is the exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Stop:
    """Catches Ctrl-C and SIGTERM in a `with`; `number` is the one that came, or 0.

    The first one raises `Stopped` at once or, while `waiting`, leaves that to whoever waits. A
    second one ends the process on the spot. Signals that are ignored stay ignored.
    """

    def __init__(self) -> None:
        self.number = 0
        self.waiting = False
        self.how = ""  # how to go on
        self._process = os.getpid()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            handlers = {number: signal.getsignal(number) for number in _NUMBERS}
            self._before = {n: h for n, h in handlers.items() if h is not signal.SIG_IGN}
        self.install()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        global _received
        _received = 0, 0.0
        if isinstance(error, SystemExit):
            code = 128 + (self.number or signal.SIGINT)
            raise Interrupted(self.how, code) from error

    def install(self) -> None:
        """Take the signals (back) from whoever has taken them since."""
        for number in self._before:
            signal.signal(number, self._come)

    def _come(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a child that has inherited this
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        if self.number:
            os._exit(128 + number)
        self.number = number
        global _received
        _received = number, time.monotonic()
        if not self.waiting:
            raise Stopped(number)
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, _TOLD)


_TOLD = b"tvr-bench: stops after this step; once more ends it at once\n"
